"""Whole training runs, small: what comes out, what stops them, and how they go on."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import write_clip_checkpoint, write_siglip_checkpoint
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import DataLoader

import edgevlm
from edgevlm.cli import main
from edgevlm.data.dataset import Dataset
from edgevlm.data.sources import open_data
from edgevlm.distillation import trainer
from edgevlm.distillation.batches import Batch, Batches
from edgevlm.distillation.distillation import Distilled
from edgevlm.distillation.recipe import DistillRecipe, LossTerm, Schedule, resolve
from edgevlm.enrichment.descriptions import Descriptions
from edgevlm.errors import (
    CheckpointError,
    DataError,
    ImageError,
    InputError,
    LabelError,
    OutputError,
    RecipeError,
    TrainingFailed,
    UnsupportedError,
)
from edgevlm.models import catalogue
from edgevlm.process import scratch

QUICK = Schedule(epochs=2, batch_size=16)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip_checkpoint(tmp_path_factory.mktemp("teacher") / "clip")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty-eight pictures in four folders, which are the labels."""
    root = tmp_path_factory.mktemp("pictures")
    data = open_data("objects:train:48")
    for index in range(48):
        folder = root / ("ball", "cube", "disc", "star")[index % 4]
        folder.mkdir(exist_ok=True)
        data.picture(index).save(folder / f"{index:02d}.png")
    return root


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def quick(name: str = "ood") -> DistillRecipe:
    return replace(resolve(name), schedule=QUICK)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def equal(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def command(teacher: Path, pictures: Path, cache: Path, out: Path, *more: str) -> list[str]:
    fixed = ["distill", "--teacher", str(teacher), "--student", "vit-xxs", "--data", str(pictures), "--out", str(out)]
    return [*fixed, "--cache", str(cache), "--threads", "1", "--batch-size", "16", "--workers", "0", *more]


def run(arguments: list[str]) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize(
    ("student", "recipe", "text_tower"),
    [
        pytest.param("vit-xxs", "ood", "teacher", marks=pytest.mark.slow),
        ("hybrid-xxs", "labels-only", "none"),
        ("grid-xxs", "clip-kd", "text-xs"),
        pytest.param("vit-xxs", "tinyclip", None, marks=pytest.mark.slow),
        pytest.param("hybrid-xxs", "mobileclip", None, marks=pytest.mark.slow),
    ],
)
def test_every_shipped_recipe_makes_a_student_that_loads(
    student: str, recipe: str, text_tower: str | None, teacher: Path, pictures: Path, cache: Path, tmp_path: Path
) -> None:
    done = edgevlm.distill(
        teacher, student, pictures, tmp_path / "s", recipe=quick(recipe), text_tower=text_tower, cache=cache
    )
    assert (done.steps, done.resumed_at, done.skipped) == (6, 0, {})
    model = catalogue.load(done.folder)
    assert model.embedding_dim == done.embedding_dim == 24
    assert (model.labels.names if model.labels else ()) == (("ball", "cube", "disc", "star") if not model.text else ())
    if model.text is not None:
        ids = torch.tensor([[600] * 76 + [model.text.eot_id]], dtype=torch.int32)
        assert model.original.forward("encode_text", ids).norm().item() == pytest.approx(1, abs=1e-5)
    pixels = torch.rand(2, 3, 64, 64) * 255
    torch.testing.assert_close(
        model.original.forward("encode_image", pixels),
        torch.cat([model.programs["encode_image"].module(one[None]) for one in pixels]),
        atol=1e-5,
        rtol=1e-4,
    )
    assert {path.name for path in done.folder.iterdir()} >= {"losses.png", "metrics.jsonl", "run.json", "README.md"}
    assert not (done.folder / "checkpoints").exists()


def test_training_learns(teacher: Path, pictures: Path, cache: Path, tmp_path: Path) -> None:
    recipe = replace(quick("labels-only"), schedule=Schedule(epochs=20, batch_size=16, learning_rate=3e-3))
    done = edgevlm.distill(teacher, "vit-xxs", pictures, tmp_path / "s", recipe=recipe, cache=cache)
    losses = [line["loss"] for line in metrics(done.folder)]
    assert losses[-1] < 0.8 * losses[0]


def test_a_stopped_run_ends_with_the_same_bits(teacher: Path, pictures: Path, cache: Path, tmp_path: Path) -> None:
    def distill(name: str, stop_at: int) -> Distilled:
        def watch(stage: str, share: float | None) -> None:
            if len(list((tmp_path / name / "checkpoints").glob("step-*"))) >= stop_at:
                raise KeyboardInterrupt

        return edgevlm.distill(
            teacher,
            "vit-xxs",
            pictures,
            tmp_path / name,
            recipe=replace(quick(), schedule=replace(QUICK, epochs=3)),
            cache=cache,
            checkpoint_seconds=0,
            progress=watch,
        )

    distill("straight", stop_at=100)
    with pytest.raises(KeyboardInterrupt):
        distill("stopped", stop_at=1)
    assert 1 <= distill("stopped", stop_at=100).resumed_at < 9
    assert equal(weights(tmp_path / "stopped"), weights(tmp_path / "straight"))


def test_ctrl_c_ends_a_run_after_the_step_and_it_goes_on_from_there_to_the_same_bits(
    teacher: Path, pictures: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, read = open_data(pictures), 0
    picture = type(data).picture

    def distill(name: str) -> Distilled:
        recipe = replace(quick("labels-only"), schedule=replace(QUICK, epochs=3))
        return edgevlm.distill(teacher, "hybrid-xxs", data, tmp_path / name, recipe=recipe, cache=cache, workers=0)

    def press_ctrl_c(data: Dataset, index: int) -> Image.Image:
        nonlocal read
        read += 1
        if read == 4 * 16 + 3:  # while the fifth step's pictures are read
            signal.raise_signal(signal.SIGINT)
        return picture(data, index)

    distill("straight")
    monkeypatch.setattr(type(data), "picture", press_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        distill("stopped")
    assert [path.name for path in (tmp_path / "stopped" / "checkpoints").iterdir()] == ["step-00000005.safetensors"]
    assert distill("stopped").resumed_at == 5
    assert equal(weights(tmp_path / "stopped"), weights(tmp_path / "straight"))


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bits(teacher: Path, pictures: Path, cache: Path, tmp_path: Path) -> None:
    more = ("--epochs", "8", "--recipe", "clip-kd", "--checkpoint-every", "0", "--accumulate", "2")
    straight = run(command(teacher, pictures, cache, tmp_path / "straight", *more))
    assert straight.exit_code == 0, straight.output
    arguments = command(teacher, pictures, cache, tmp_path / "killed", *more)
    process = subprocess.Popen([sys.executable, "-m", "edgevlm", *arguments], stderr=subprocess.PIPE)
    kept = tmp_path / "killed" / "checkpoints"
    while not (kept / "step-00000005.safetensors").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert not (tmp_path / "killed" / "config.json").exists()
    again = run([*arguments, "--json"])
    assert again.exit_code == 0, again.output
    assert 5 <= json.loads(again.stdout)["resumed_at"] < 24
    assert equal(weights(tmp_path / "killed"), weights(tmp_path / "straight"))
    names = ("step", "loss", "learning_rate")
    told = [[[line[name] for name in names] for line in metrics(tmp_path / run)] for run in ("killed", "straight")]
    assert [line[0] for line in told[0]] == [line[0] for line in told[1]]  # no step is told twice


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over(teacher: Path, pictures: Path, cache: Path, tmp_path: Path) -> None:
    arguments = command(teacher, pictures, cache, tmp_path / "s", "--checkpoint-every", "0", "--epochs", "4")
    assert run(arguments).exit_code == 0
    finished = weights(tmp_path / "s")
    arguments = command(teacher, pictures, cache, tmp_path / "t", "--checkpoint-every", "0", "--epochs", "4")
    process = subprocess.Popen([sys.executable, "-m", "edgevlm", *arguments])
    kept = tmp_path / "t" / "checkpoints"
    while not (kept / "step-00000004.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.wait()
    newest = max(kept.glob("step-*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:1000])
    assert run(arguments).exit_code == 0
    assert equal(weights(tmp_path / "t"), finished)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_says_from_which_step_it_goes_on(
    number: int, teacher: Path, pictures: Path, cache: Path, tmp_path: Path
) -> None:
    arguments = command(teacher, pictures, cache, tmp_path / "s", "--epochs", "500", "--workers", "2")
    program = "from edgevlm.cli import program; program()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not (tmp_path / "s" / "metrics.jsonl").exists() or not metrics(tmp_path / "s"):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, number)  # as a terminal does: the processes that read pictures are told as well
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number, said
    (kept,) = (tmp_path / "s" / "checkpoints").iterdir()
    steps = int(kept.stem.removeprefix("step-"))
    assert steps >= 10
    assert f"stopped: {steps:,} steps are kept, and the same command goes on from there" in said
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


@pytest.mark.slow
def test_two_stopped_processes_keep_one_step(teacher: Path, pictures: Path, cache: Path, tmp_path: Path) -> None:
    arguments = command(teacher, pictures, cache, tmp_path / "s", "--epochs", "500")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.Popen(
        [*launcher, "--module", "edgevlm", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"},
    )
    while not (tmp_path / "s" / "metrics.jsonl").exists() or not metrics(tmp_path / "s"):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=90)
    (kept,) = (tmp_path / "s" / "checkpoints").iterdir()
    steps = int(kept.stem.removeprefix("step-"))
    assert f"stopped: {steps:,} steps are kept, and the same command goes on from there" in said


@pytest.mark.slow
def test_two_processes_get_the_result_of_one(teacher: Path, pictures: Path, cache: Path, tmp_path: Path) -> None:
    more = ("--recipe", "clip-kd", "--epochs", "3")
    assert run(command(teacher, pictures, cache, tmp_path / "one", *more)).exit_code == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    both = command(teacher, pictures, tmp_path / "new-cache", tmp_path / "two", *more, "--json")
    done = subprocess.run(
        [*launcher, "--module", "edgevlm", *both],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["steps"] == 9  # one process speaks
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 2e-3
    for mine, theirs in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


def test_workers_change_nothing(teacher: Path, pictures: Path, cache: Path, tmp_path: Path) -> None:
    folders = []
    for workers in (0, 2):
        done = edgevlm.distill(
            teacher, "vit-xxs", pictures, tmp_path / f"{workers}", recipe=quick(), cache=cache, workers=workers
        )
        folders.append(done.folder)
    assert equal(*map(weights, folders))


@pytest.mark.slow
def test_bfloat16_is_near_float32(teacher: Path, pictures: Path, cache: Path, tmp_path: Path) -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        edgevlm.distill(
            teacher, "vit-xxs", pictures, tmp_path / precision, recipe=quick(), cache=cache, precision=precision
        )
        losses.append(metrics(tmp_path / precision)[-1]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert losses[0] != losses[1]


def test_an_ensemble_teaches(teacher: Path, pictures: Path, cache: Path, tmp_path: Path) -> None:
    siglip = write_siglip_checkpoint(tmp_path / "siglip")
    both = [teacher, siglip]
    done = edgevlm.distill(
        both, "vit-xxs", pictures, tmp_path / "s", recipe=quick("mobileclip"), cache=cache, text_tower="text-xs"
    )
    assert done.embedding_dim == sum(catalogue.load(name).embedding_dim for name in both)
    with pytest.raises(UnsupportedError, match="several teachers cannot keep the text tower"):
        edgevlm.distill(both, "vit-xxs", pictures, tmp_path / "t", recipe=quick(), cache=cache)


def test_new_classes_are_mixed_in_and_the_student_goes_on(
    teacher: Path, pictures: Path, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "moon").symlink_to(pictures / "ball")
    (tmp_path / "new" / "ring").symlink_to(pictures / "disc")
    first = edgevlm.distill(teacher, "vit-xxs", pictures, tmp_path / "s", recipe=quick(), cache=cache)
    done = edgevlm.distill(
        teacher, first.folder, pictures, tmp_path / "t", recipe=quick(), cache=cache,
        few_shot=tmp_path / "new", text_tower="none",
    )  # fmt: skip
    labels = catalogue.load(done.folder).labels
    assert labels is not None
    assert labels.names == ("ball", "cube", "disc", "moon", "ring", "star")
    assert (first.text_tower, done.text_tower) == ("teacher", "none")
    assert done.steps == 2 * (48 // 8)  # half of every batch is of the new classes


def test_descriptions_are_learned_from_and_told_of(teacher: Path, pictures: Path, cache: Path, tmp_path: Path) -> None:
    told = {name: f"a {name}, seen from above" for name in ("ball", "cube", "disc", "star")}
    (tmp_path / "told.json").write_text(json.dumps(told))
    assert run(["enrich", "-", "--with", str(tmp_path / "told.json"), "--out", str(tmp_path / "d.json")]).exit_code == 2
    (tmp_path / "labels.txt").write_text("\n".join(told))
    arguments = ["enrich", str(tmp_path / "labels.txt"), "--with", str(tmp_path / "told.json")]
    assert run([*arguments, "--out", str(tmp_path / "d.json")]).exit_code == 0
    done = edgevlm.distill(
        teacher, "vit-xxs", pictures, tmp_path / "s", recipe=quick(), cache=cache,
        descriptions=tmp_path / "d.json", text_tower="none",
    )  # fmt: skip
    labels = catalogue.load(done.folder).labels
    assert labels is not None
    assert labels.texts is not None
    further = edgevlm.distill(teacher, done.folder, pictures, tmp_path / "f", recipe=quick(), cache=cache)
    assert further.text_tower == "none"
    assert catalogue.load(further.folder).labels.texts is None  # baked again, as this run has no descriptions
    assert labels.texts[0] == ("a photo of a ball . a ball, seen from above",)
    del told["cube"]
    (tmp_path / "labels.txt").write_text("\n".join(told))
    assert run([*arguments, "--out", str(tmp_path / "e.json")]).exit_code == 0
    with pytest.raises(LabelError, match="cube"):
        edgevlm.distill(
            teacher, "vit-xxs", pictures, tmp_path / "t", recipe=quick(), cache=cache, descriptions=tmp_path / "e.json"
        )


@pytest.mark.slow
def test_a_student_takes_a_teacher_of_another_size(teacher: Path, pictures: Path, cache: Path, tmp_path: Path) -> None:
    first = edgevlm.distill(teacher, "vit-xxs", pictures, tmp_path / "s", recipe=quick(), cache=cache)
    assert not first.new_projection
    further = edgevlm.distill(teacher, first.folder, pictures, tmp_path / "f", recipe=quick(), cache=cache)
    assert further.text_tower == "own"
    wider = write_clip_checkpoint(tmp_path / "wider", projection_dim=40)
    done = edgevlm.distill(wider, first.folder, pictures, tmp_path / "t", recipe=quick(), cache=cache)
    assert done.new_projection
    assert catalogue.load(done.folder).embedding_dim == 40


def test_unreadable_pictures_are_skipped_and_listed(
    teacher: Path, pictures: Path, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "data").mkdir()
    for folder in pictures.iterdir():
        (tmp_path / "data" / folder.name).symlink_to(folder) if folder.name != "ball" else None
    balls = tmp_path / "data" / "ball"
    balls.mkdir()
    for number, path in enumerate(sorted((pictures / "ball").iterdir())):
        content = path.read_bytes()
        (balls / path.name).write_bytes(content if number else content[:100])
    for limit, recipe in ((0.05, "ood"), (0.05, "labels-only")):
        done = edgevlm.distill(
            teacher, "vit-xxs", tmp_path / "data", tmp_path / recipe, recipe=quick(recipe), cache=cache,
            max_unreadable=limit,
        )  # fmt: skip
        assert [Path(key).name for key in done.skipped] == ["00.png"]
        assert "00.png\t" in (done.folder / "skipped.txt").read_text()
    assert "1 of 48 pictures cannot be read, see skipped.txt: ball/00.png" in caplog.text
    with pytest.raises(DataError, match=r"1 of 48 pictures cannot be read, more than 1\.0%"):
        edgevlm.distill(teacher, "vit-xxs", tmp_path / "data", tmp_path / "s", recipe=quick(), cache=cache)
    assert "00.png\t" in (tmp_path / "s" / "skipped.txt").read_text()


def test_a_loss_that_is_no_number_stops_the_run(teacher: Path, pictures: Path, cache: Path, tmp_path: Path) -> None:
    recipe = replace(quick(), schedule=replace(QUICK, learning_rate=1e30, warmup=0.0, gradient_clip=0.0, epochs=20))
    with pytest.raises(TrainingFailed, match=r"the loss is nan at step \d+; the last good checkpoint: .*step-"):
        edgevlm.distill(teacher, "vit-xxs", pictures, tmp_path / "s", recipe=recipe, cache=cache, checkpoint_seconds=0)
    assert not (tmp_path / "s" / "config.json").exists()


def test_weights_that_the_last_step_broke_are_not_written(
    teacher: Path, pictures: Path, cache: Path, tmp_path: Path
) -> None:
    recipe = replace(
        quick(), schedule=Schedule(epochs=1, batch_size=48, learning_rate=1e30, weight_decay=1e30, warmup=0.0)
    )
    with pytest.raises(TrainingFailed, match=r"the weights are not finite at step 1; .*: none was written yet"):
        edgevlm.distill(teacher, "vit-xxs", pictures, tmp_path / "s", recipe=recipe, cache=cache)
    assert not (tmp_path / "s" / "config.json").exists()


def test_a_folder_belongs_to_one_run(teacher: Path, pictures: Path, cache: Path, tmp_path: Path) -> None:
    def distill(out: Path, **changes: Any) -> Distilled:
        return edgevlm.distill(teacher, "vit-xxs", pictures, out, recipe=quick(), cache=cache, **changes)

    done = distill(tmp_path / "s")
    before = weights(done.folder)
    with pytest.raises(OutputError, match="holds a finished student"):
        distill(done.folder)
    (done.folder / "config.json").unlink()  # as if it had been stopped
    with pytest.raises(OutputError, match=r"an unfinished run with another seed \(0 there, 1 here\)"):
        distill(done.folder, seed=1)
    longer = replace(quick(), schedule=replace(QUICK, epochs=9))
    with pytest.raises(OutputError, match=r"another recipe\.schedule\.epochs \(\d there, 9 here\)$"):
        edgevlm.distill(teacher, "vit-xxs", pictures, done.folder, recipe=longer, cache=cache)
    assert equal(weights(done.folder), before)
    with (done.folder / ".run.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="another run is using this folder"):
            distill(done.folder, force=True)
    assert not equal(weights(distill(done.folder, seed=1, force=True).folder), before)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(OutputError, match="is no run's folder"):
        distill(tmp_path / "mine", force=True)
    assert (tmp_path / "mine" / "thesis.tex").exists()


@pytest.mark.parametrize(
    "where",
    [*(pytest.param(each, marks=pytest.mark.slow) for each in ("teacher's embeddings", "checkpoint")), "student"],
)
def test_a_full_disk_is_said_plainly(
    where: str, teacher: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, cache = tmp_path / "s", tmp_path / "cache"
    edgevlm.distill(teacher, "vit-xxs", pictures, out, recipe=quick(), cache=cache)
    for student_file in (out / "config.json", out / "model.safetensors"):
        student_file.unlink()
    path = {
        "teacher's embeddings": next(cache.glob("*/00000.npy")),
        "checkpoint": out / "checkpoints" / "step-00000006.safetensors",
        "student": out / "config.json",
    }[where]
    path.unlink(missing_ok=True)
    make = scratch.make

    def make_on_a_full_disk(parent: Path) -> tuple[Path, int]:
        folder, lock = make(parent)
        if parent == path.parent:
            (folder / path.name).symlink_to("/dev/full")  # which answers every write with ENOSPC
        return folder, lock

    with monkeypatch.context() as patched:
        patched.setattr(scratch, "make", make_on_a_full_disk)
        with pytest.raises(OutputError, match="no disk space"):
            edgevlm.distill(teacher, "vit-xxs", pictures, out, recipe=quick(), cache=cache)
    assert not list(tmp_path.rglob(".edgevlm-*"))
    assert edgevlm.distill(teacher, "vit-xxs", pictures, out, recipe=quick(), cache=cache).steps == 6


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"seed": -1}, InputError, "seed: expected a whole number from 0 to .*, got -1"),
        ({"descriptions": Descriptions({}, {})}, LabelError, "no description of 'ball'"),
        ({"teacher": ("a", "b")}, UnsupportedError, "several teachers cannot keep the text tower"),
        ({"student": "resnet-18"}, InputError, "no student 'resnet-18': expected one of vit-xxs"),
        ({"text_tower": "huge"}, InputError, "no text tower 'huge'"),
        ({"text_tower": "text-s"}, RecipeError, "no loss that trains a text tower"),
        ({"recipe": "clip-kd", "text_tower": "teacher"}, RecipeError, "feature_text_mse .* trains a text tower"),
        ({"recipe": "fast"}, RecipeError, "no distillation recipe 'fast': expected one of ood"),
        ({"teacher": "gone/"}, CheckpointError, "expected a checkpoint's folder or a hub id"),
        ({"data": "gone/"}, DataError, "gone"),
        ({"data": "scenes:train:40"}, RecipeError, "needs labels, and .* has captions only"),
        ({"image_size": 65}, InputError, "a multiple of 8"),
        ({"image_size": 100_000_000}, InputError, "image_size: expected at most 8,192, got 100,000,000"),
        ({"seed": 2**64}, InputError, "seed: expected a whole number from 0 to 9,223,372,036,854,775,807, got 1844"),
        ({"seed": "1"}, InputError, "seed: expected a whole number from 0 .*, got '1'"),
        ({"workers": 10**20}, InputError, "workers: expected a whole number from 0 to 1,024, got 1000"),
        ({"accumulate": 0}, InputError, "accumulate: expected a whole number from 1 to 1,000,000, got 0"),
        ({"accumulate": 5}, InputError, "a batch size that 1 processes x 5 accumulated parts divide"),
    ],
)
def test_what_cannot_work_is_refused_before_the_long_work(
    changes: dict[str, Any], error: type[Exception], message: str, teacher: Path, pictures: Path, tmp_path: Path
) -> None:
    options = {"teacher": teacher, "student": "vit-xxs", "data": pictures, "recipe": "ood"} | changes
    with pytest.raises(error, match=message):
        edgevlm.distill(**options, out=tmp_path / "s", cache=tmp_path / "cache")
    assert not (tmp_path / "s").exists()


class Unreadable(Batches):
    """One batch, of a picture that cannot be read."""

    def __init__(self) -> None:
        pass

    def __len__(self) -> int:
        return 1

    def __getitem__(self, item: int) -> Batch:
        raise ImageError("a.png: cut short", hint="take it out")


def test_an_error_of_a_process_that_reads_ahead_is_told_as_it_is() -> None:
    loader = DataLoader(trainer._Answers(Unreadable()), batch_size=None, num_workers=1)
    with pytest.raises(ImageError) as raised:
        trainer._made(next(iter(loader)))
    assert (raised.value.message, raised.value.hint) == ("a.png: cut short", "take it out")


def test_an_unknown_loss_is_named(teacher: Path, pictures: Path, tmp_path: Path) -> None:
    recipe = DistillRecipe("mine", (LossTerm("cosine"),))
    with pytest.raises(RecipeError, match="the recipe mine: no loss 'cosine': expected one of classification"):
        edgevlm.distill(teacher, "vit-xxs", pictures, tmp_path / "s", recipe=recipe)


def test_the_command_tells_what_it_made(teacher: Path, pictures: Path, cache: Path, tmp_path: Path) -> None:
    result = run(command(teacher, pictures, cache, tmp_path / "s", "--epochs", "1"))
    assert result.exit_code == 0, result.output
    assert "0.10 M parameters" in result.stdout
    assert "48 pictures, 4 labels" in result.stdout
    assert "24 numbers, by a trained projection into the teacher's space" in result.stdout
    again = run(command(teacher, pictures, cache, tmp_path / "s", "--epochs", "1"))
    assert again.exit_code == 2
    assert "holds a finished student" in again.output
