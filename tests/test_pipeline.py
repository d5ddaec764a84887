"""Whole conversions: real models, real converters, real runtimes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import library
import numpy as np
import pytest
from checkpoints import VIT_B32_VISION, write_clip_checkpoint, write_siglip_checkpoint
from click.testing import CliRunner
from PIL import Image

import edgevlm
from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.golden import COLUMNS
from edgevlm.bundle.manifest import Labels
from edgevlm.bundle.recipe import BUILTIN, ParityLimits
from edgevlm.cli import main
from edgevlm.conversion import cache, pipeline
from edgevlm.errors import EdgeVLMError, LabelError, OutputError, TensorError, UnsupportedError
from edgevlm.inference.embeddings import label_scores
from edgevlm.inputs import labels
from edgevlm.models import builtin, catalogue
from edgevlm.parity import golden, samples
from edgevlm.process import store
from edgevlm.targets import registry

TARGETS = ("coreml", "executorch", "tflite")
# Amplified weights show a wrong structure, and magnify float16's honest rounding beyond its limit.
MODELS: dict[str, Callable[[Path, bool], Path | str]] = {
    "student": lambda folder, amplified: builtin.STUDENT,
    "clip": lambda folder, amplified: write_clip_checkpoint(folder / "tiny-clip", amplified=amplified),
    "siglip": lambda folder, amplified: write_siglip_checkpoint(folder / "tiny-siglip", amplified=amplified),
}
EVIDENCE = {"coreml": "program-semantics", "executorch": "host-runtime", "tflite": "host-runtime"}


CASES = [
    pytest.param(("student", "fp16", ("coreml",)), id="student-fp16"),  # the others take two and four times as long
    # tests/test_students.py has students, for every target and in both precisions
    pytest.param(("clip", "fp32", ("coreml", "executorch")), id="clip-fp32", marks=pytest.mark.slow),
    pytest.param(("siglip", "fp32", ("coreml", "tflite")), id="siglip-fp32", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=CASES)
def converted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[pipeline.Outcome, ...]:
    name, recipe, targets = request.param
    folder = tmp_path_factory.mktemp("models")
    model = MODELS[name](folder, recipe == "fp32")
    found = pipeline.convert(pipeline.Request(model, targets, BUILTIN[recipe], folder / "dist"))
    assert tuple(outcome.target for outcome in found) == targets
    return found


def _bundles(converted: tuple[pipeline.Outcome, ...]) -> dict[str, Bundle]:
    return {outcome.target: outcome.bundle for outcome in converted if outcome.bundle}


def test_every_target_passes(converted: tuple[pipeline.Outcome, ...]) -> None:
    assert {(outcome.status, outcome.error) for outcome in converted} == {("passed", None)}
    for outcome in converted:
        assert outcome.bundle is not None
        report = outcome.bundle.manifest.parity
        assert report is not None
        assert report.samples == samples.SAMPLES == 200
        assert sys.platform == "darwin" or report.evidence == EVIDENCE[outcome.target]
        measured = {(check.component, check.measure) for check in report.checks}
        assert {
            ("encode_image", "min_cosine"),
            ("encode_text", "max_abs_error"),
            ("zero-shot", "top1_agreement"),
        } <= measured


def test_every_bundle_opens_and_verifies(converted: tuple[pipeline.Outcome, ...]) -> None:
    for outcome in converted:
        assert outcome.bundle is not None
        bundle = Bundle.open(outcome.bundle.path)
        assert bundle.manifest == outcome.bundle.manifest
        assert pipeline.verify(bundle).checks == bundle.manifest.parity.checks  # type: ignore[union-attr]


def test_every_bundle_tells_its_ops_precision_and_who_runs_them(converted: tuple[pipeline.Outcome, ...]) -> None:
    runners = {"coreml": {"evaluator"}, "executorch": {"xnnpack", "portable"}, "tflite": {"xnnpack", "builtin"}}
    for target, bundle in _bundles(converted).items():
        for component, ops in registry.runtime(target).inspect(bundle).items():
            assert component in bundle.components
            assert {op.runs_on for op in ops} <= runners[target]
            arithmetic = {op.dtype for op in ops if op.kind.lower() in ("linear", "fullyconnected", "fully_connected")}
            assert arithmetic == {
                "fp16" if bundle.manifest.recipe.precision == "fp16" and target != "tflite" else "fp32"
            }


def test_targets_of_one_model_share_an_embedding_space(converted: tuple[pipeline.Outcome, ...]) -> None:
    assert len({bundle.manifest.embedding.space_id for bundle in _bundles(converted).values()}) == 1


def test_golden_fixtures_hold_stage_by_stage(converted: tuple[pipeline.Outcome, ...]) -> None:
    for bundle in _bundles(converted).values():
        fixtures, _, _ = golden.read(bundle.path)
        image = bundle.manifest.image
        limit = 2e-5 if bundle.manifest.recipe.precision == "fp32" else 5e-3
        with edgevlm.open(bundle.path) as model:
            for picture in fixtures.pictures:
                stored = np.frombuffer((bundle.path / picture.pixels).read_bytes(), np.uint8)
                pixels = stored.reshape(image.height, image.width, 3)
                answer = model.encode_image([bundle.path / picture.file])
                assert (
                    np.abs(answer[0] - np.array(picture.answers["encode_image"]["embedding"], np.float32)).max() < limit
                )
                direct = model.session.run(
                    "encode_image", {"pixels": np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32)}
                )
                assert np.array_equal(direct["embedding"], answer)
            words = [text.text for text in fixtures.texts]
            expected = np.array([text.answers["encode_text"]["embedding"] for text in fixtures.texts], np.float32)
            texts = model.encode_text(words)
            assert np.abs(texts - expected).max() < limit
            images = model.encode_image([bundle.path / p.file for p in fixtures.pictures])
            scores = label_scores(
                images, texts, bundle.manifest.embedding.logit_scale, bundle.manifest.embedding.logit_bias
            )
            assert np.abs(scores - np.array(fixtures.scores)).max() < 0.05


@pytest.mark.parametrize(
    "target", ["coreml", *(pytest.param(target, marks=pytest.mark.slow) for target in TARGETS[1:])]
)
def test_baked_labels_answer_without_a_text_tower(target: str, labels_file: Path, tmp_path: Path) -> None:
    request = pipeline.Request(
        builtin.STUDENT,
        (target,),
        BUILTIN["fp32"],
        tmp_path,
        labels=labels.read(labels_file, ["a picture of a {}", "a {}"]),
        image_only=True,
    )
    (outcome,) = pipeline.convert(request)
    assert outcome.status == "passed"
    assert outcome.bundle is not None
    assert set(outcome.bundle.components) == {"classify"}
    assert not (outcome.bundle.path / "tokenizer.json").exists()
    student = catalogue.load()
    image_weights = sum(t.numel() for t in student.programs["encode_image"].module.state_dict().values())
    assert outcome.bundle.size_bytes < 4 * image_weights + 1_500_000
    picture = Image.new("RGB", (64, 64), "white")
    with edgevlm.open(outcome.bundle.path) as model:
        assert model.labels == ("red circle", "blue star", "two green squares")
        assert model.classify([picture]).shape == (1, 3)
        scores = model.classify([picture])
        assert scores.sum() == pytest.approx(1, abs=1e-5)
        some = model.classify([picture], ["two green squares", "red circle"])  # of the baked ones, by name
        assert some == pytest.approx(scores[:, [2, 0]] / scores[0, [2, 0]].sum(), rel=1e-5)
        with pytest.raises(TensorError, match="no text tower"):
            model.encode_text(["a star"])
    _ask_what_it_cannot_answer(outcome.bundle, tmp_path)


def _ask_what_it_cannot_answer(bundle: Bundle, folder: Path) -> None:
    """Each command that needs what a bundle of labels alone lacks names the labels, and what answers."""
    cats = folder / "pictures" / "cat"
    cats.mkdir(parents=True)
    Image.new("RGB", (64, 64), "white").save(cats / "white.png")
    knows = "'red circle', 'blue star', 'two green squares'"
    for asked, message, hint in (
        (["run", bundle.path, cats, "--labels", "red circle, a heart"], f"{knows}; got 'a heart'", "edgevlm run"),
        (["run", bundle.path, cats, "--text", "a heart"], f"no text tower, .* apart, {knows}", "edgevlm run"),
        (["index", cats, "--bundle", bundle.path, "--out", folder / "i"], f"no encode_image, .*{knows}", "edgevlm run"),
        (["evaluate", bundle.path, "--data", cats.parent], "its baked labels lack 'cat'", f"baked labels, {knows}"),
    ):
        shown = CliRunner().invoke(main, [*map(str, asked)])
        assert shown.exit_code == 2, shown.output
        said, _, advice = " ".join(shown.stderr.split()).partition(" try: ")
        assert re.search(message, said), shown.stderr
        assert hint in advice


@pytest.mark.parametrize(
    ("file", "called"),
    [
        ("labels.txt", "labels"),
        ("shop/birds.txt", "birds"),
        ("Oiseaux d'été.v2.txt", "Oiseaux-d-ete.v2"),
        ("鳥.txt", "labels-8754cc62"),
        ("-.txt", "labels-3973e022"),
        (f"{'long' * 40}.txt", "longlonglonglonglonglon-ed357a84"),
    ],
)
def test_a_label_set_names_its_bundles(file: str, called: str) -> None:
    plain = pipeline.Request("clip", ("tflite",), BUILTIN["int8"], Path("dist"))
    baked = replace(plain, labels=Labels(("cat",), ("{}",)), label_set=labels.set_name(Path(file)))
    assert plain.destination("tflite") == Path("dist/clip-tflite-int8.edgevlm")
    assert baked.destination("tflite") == Path(f"dist/clip-{called}-tflite-int8.edgevlm")
    assert replace(baked, name="mine").destination("tflite") == Path("dist/mine-tflite-int8.edgevlm")


def test_label_files_of_one_content_are_cached_apart() -> None:
    """A cached bundle has its name inside."""
    base = pipeline.Request("clip", ("tflite",), BUILTIN["int8"], Path("dist"), labels=Labels(("cat",), ("{}",)))
    sets = [replace(base, label_set=each) for each in ("birds", "cats", "birds")]
    keys = [pipeline._cache_key(each, "tflite", "fingerprint", None) for each in sets]
    assert keys[0] == keys[2] != keys[1]


def test_a_repeated_conversion_is_copied_from_the_cache(tmp_path: Path) -> None:
    first = library.student("coreml", "fp16")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (second,) = pipeline.convert(pipeline.Request(builtin.STUDENT, ("coreml",), BUILTIN["fp16"], tmp_path / "dist"))
    assert second.cached
    assert second.bundle is not None
    assert _contents(first.path) == _contents(second.bundle.path)
    # Git shows nothing of what can be made again, and all that an app ships.
    status = ["git", "-C", str(tmp_path), "status", "--porcelain"]
    assert subprocess.check_output(status, text=True) == ""
    edgevlm.export_for_app(second.bundle, tmp_path / "app")
    assert subprocess.check_output(status, text=True) == "?? app/\n"


def test_a_cache_does_not_find_what_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = library.student("coreml", "fp16")
    monkeypatch.setenv("EDGEVLM_CACHE_DIR", str(tmp_path))
    cache.keep("entry", bundle)
    found = cache.find("entry")
    assert found is not None
    assert found.manifest == bundle.manifest
    (found.path / "extra").write_text("x")
    assert cache.find("entry") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_damaged_cache_entry_is_converted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEVLM_CACHE_DIR", str(tmp_path / "cache"))
    request = pipeline.Request(builtin.STUDENT, ("coreml",), BUILTIN["fp32"], tmp_path / "a", image_only=True)
    pipeline.convert(request)
    for entry in store.folder().glob("*.edgevlm"):
        (entry / "extra").write_text("x")
    (again,) = pipeline.convert(replace(request, out=tmp_path / "b"))
    assert (again.status, again.cached) == ("passed", False)


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.slow
def test_another_process_with_more_threads_writes_the_same_bundles(tmp_path: Path) -> None:
    asked = ["convert", "--target", "all", "--recipe", "int8", "--no-cache", "--json", "--out", tmp_path]
    environment = os.environ | {"PYTHONHASHSEED": "4711", "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
    said = subprocess.run(
        [sys.executable, "-m", "edgevlm", *asked], check=True, capture_output=True, env=environment
    ).stdout
    for outcome in json.loads(said)["outcomes"]:  # nothing else is on stdout
        made = library.student(outcome["target"], "int8").path
        first, second = _contents(made), _contents(tmp_path / made.name)
        assert first.keys() == second.keys()
        assert [name for name in first if first[name] != second[name]] == [], made.name


def test_an_artefact_that_answers_wrongly_fails_and_is_kept_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The reference is the original's own forward: fault the programs, not the reference.
    model = catalogue.load()
    attention = model.programs["encode_image"].module.blocks[0].attention  # type: ignore[union-attr, index]
    attention.query.weight.data.mul_(-1)  # type: ignore[union-attr, operator]
    monkeypatch.setattr(catalogue, "load", lambda *args, **kwargs: model)
    request = pipeline.Request(
        builtin.STUDENT, ("coreml",), BUILTIN["fp16"], tmp_path, image_only=True, use_cache=False
    )
    (outcome,) = pipeline.convert(request)
    assert outcome.status == "failed parity"
    assert outcome.bundle is not None
    assert [path.name for path in tmp_path.iterdir()] == ["edgevlm-student-coreml-fp16.failed-parity.edgevlm"]
    failed = [check for check in outcome.bundle.manifest.parity.checks if not check.passed]  # type: ignore[union-attr]
    assert ("encode_image", "min_cosine") in {(check.component, check.measure) for check in failed}


class _Broken:
    target = "tflite"

    def unsupported(self, programs: Any, recipe: Any) -> tuple[()]:
        return ()

    def lower(self, programs: Any, recipe: Any, out_dir: Path, progress: Any) -> tuple[()]:
        (out_dir / "half").write_text("x")
        raise RuntimeError("the backend's own bug")


def test_one_failing_target_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = registry.converter
    monkeypatch.setattr(registry, "converter", lambda target: _Broken() if target == "tflite" else real(target))
    request = pipeline.Request(
        builtin.STUDENT, ("tflite", "coreml"), BUILTIN["fp32"], tmp_path, image_only=True, use_cache=False
    )
    broken, sound = pipeline.convert(request)
    assert (broken.status, sound.status) == ("failed", "passed")
    assert isinstance(broken.error, UnsupportedError)
    assert "the backend's own bug" in broken.error.message
    assert [path.name for path in tmp_path.iterdir()] == ["edgevlm-student-coreml-fp32.edgevlm"]


def test_bad_requests_are_refused_before_the_long_work(tmp_path: Path) -> None:
    (tmp_path / "taken" / "edgevlm-student-tflite-fp16.edgevlm").mkdir(parents=True)
    (tmp_path / "long.txt").write_text("very " * 60 + "red circle\n")
    began = time.monotonic()
    base = pipeline.Request(builtin.STUDENT, ("tflite",), BUILTIN["fp16"], tmp_path / "out")
    bad: list[tuple[pipeline.Request, type[EdgeVLMError], str]] = [
        (replace(base, targets=("onnx",)), UnsupportedError, "no target 'onnx'"),
        (replace(base, out=tmp_path / "taken"), OutputError, "exists"),
        (replace(base, out=Path("/proc/nowhere/below")), OutputError, "cannot write /proc/nowhere/below"),
        (replace(base, out=tmp_path / "long.txt" / "below"), OutputError, "cannot write .*long.txt/below"),
        (replace(base, labels=labels.read(tmp_path / "long.txt")), LabelError, "tokens, the model's context 48"),
    ]
    for request, error, message in bad:
        with pytest.raises(error, match=message):
            pipeline.convert(request)
    assert time.monotonic() - began < 60
    assert not (tmp_path / "out").exists()


class _Stopped(_Broken):
    def lower(self, programs: Any, recipe: Any, out_dir: Path, progress: Any) -> tuple[()]:
        (out_dir / "half").write_text("x")
        raise KeyboardInterrupt


def test_a_conversion_that_is_stopped_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "converter", lambda target: _Stopped())
    request = pipeline.Request(builtin.STUDENT, ("tflite",), BUILTIN["fp32"], tmp_path, use_cache=False)
    with pytest.raises(KeyboardInterrupt):
        pipeline.convert(request)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(("target", "seconds_into_it"), [("tflite", 0.0), ("coreml", 1.5)])
def test_ctrl_c_leaves_nothing_half_written(target: str, seconds_into_it: float, tmp_path: Path) -> None:
    out, temporary = tmp_path / "d", tmp_path / "t"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "edgevlm", "convert", "--target", target, "--no-cache", "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    )
    while not list(out.glob(".edgevlm-*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    time.sleep(seconds_into_it)
    process.send_signal(signal.SIGINT)
    printed, said = process.communicate(timeout=60)
    # A conversion that takes longer than ten seconds says before how far it is.
    assert (process.returncode, said.splitlines()[-1]) == (130, "stopped: nothing was left half-written")
    assert printed == ""
    assert [each.name for each in out.iterdir()] == [".gitignore"]
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
def test_limits_come_from_the_recipe(tmp_path: Path) -> None:
    strict = replace(BUILTIN["fp16"], name="impossible", parity=ParityLimits(max_abs_error=1e-9))
    (outcome,) = pipeline.convert(pipeline.Request(builtin.STUDENT, ("coreml",), strict, tmp_path, image_only=True))
    assert outcome.status == "failed parity"


def test_the_manifest_is_plain_json_with_every_promise() -> None:
    bundle = library.student("coreml", "fp16")
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    assert manifest["format_version"] == "1.5"
    assert manifest["source"]["licence"] == "Apache-2.0"
    assert manifest["requires"] == {"iOS": "15", "macOS": "12"}
    assert manifest["image"]["mean"] == [0.5, 0.5, 0.5]
    assert manifest["embedding_space_id"].startswith("sha256:")
    assert manifest["estimated_peak_memory_bytes"] > 4 * 1_000_000
    assert manifest["components"]["encode_image"]["spec"]["inputs"][0]["shape"] == [1, 3, 64, 64]
    assert "coremltools" in manifest["tool_versions"]
    assert 0 < manifest["compressed_size_bytes"] < bundle.size_bytes


def test_every_file_is_readable_for_whoever_may_read_the_folder() -> None:
    bundle = library.student("coreml", "fp16").path
    readable = bundle.stat().st_mode & 0o444
    assert [each for each in bundle.rglob("*") if each.stat().st_mode & 0o444 != readable] == []
    assert readable & 0o400


@pytest.mark.slow(first=True)
def test_a_vit_b32_sized_clip_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "SAMPLES", COLUMNS)  # one row of golden's sheet: the size is what is tried here
    monkeypatch.setattr(samples, "TEXTS", COLUMNS)
    model = write_clip_checkpoint(tmp_path / "clip-b32", vision=VIT_B32_VISION, projection_dim=512)
    request = pipeline.Request(  # the larger tower: the other is asked nothing that this one is not
        model, ("coreml",), BUILTIN["fp32"], tmp_path / "d", image_only=True, use_cache=False
    )
    (outcome,) = pipeline.convert(request)
    assert outcome.status == "passed"
