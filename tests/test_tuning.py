"""The search for a recipe: on a network of known losses, and on a tiny CLIP with every artefact converted and asked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import library
import numpy as np
import pytest
import torch
from checkpoints import write_clip_checkpoint
from click.testing import CliRunner
from pictures import scene
from torch import nn

from edgevlm.benchmarks.bundles import bundle_for_tests
from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.manifest import BundledComponent, Labels
from edgevlm.bundle.recipe import BUILTIN, ParityLimits, Recipe, resolve
from edgevlm.cli import main
from edgevlm.compression.calibration import CalibrationSource
from edgevlm.compression.layers import layer_names
from edgevlm.conversion import pipeline
from edgevlm.data.sources import open_data
from edgevlm.errors import CheckFailed, DataError, InputError, OutputError
from edgevlm.graphs.program import Program, Programs
from edgevlm.models import builtin, catalogue
from edgevlm.models.reference import Original
from edgevlm.models.students import folder as folders
from edgevlm.models.students.config import VitConfig, square_pictures
from edgevlm.models.students.parts import FixedLabels, StudentParts
from edgevlm.models.students.towers import build_image_tower
from edgevlm.parity.comparison import ask
from edgevlm.process.progress import Progress, silent
from edgevlm.targets import registry
from edgevlm.targets.converter import BundleFile, Unsupported
from edgevlm.tuning import search
from edgevlm.tuning.notes import Notes
from edgevlm.tuning.recipe_file import next_command, write_recipe
from edgevlm.tuning.request import TuneRequest
from edgevlm.tuning.score import Score
from edgevlm.tuning.search import best
from edgevlm.tuning.sensitivity import LayerCost
from edgevlm.tuning.task import Task
from edgevlm.tuning.trial import Trial
from edgevlm.tuning.tuning import Tuned, find, tune
from edgevlm.tuning.workbench import Workbench

DATA = "objects:train:40:3"
CALIBRATION = CalibrationSource("objects:train:200:4")


@pytest.fixture(scope="module")
def request_(tmp_path_factory: pytest.TempPathFactory) -> TuneRequest:
    folder = tmp_path_factory.mktemp("tune")
    one = {"num_hidden_layers": 1}
    write_clip_checkpoint(folder / "clip", text=one, vision=one, amplified=False)
    return TuneRequest(
        folder / "clip", "tflite", DATA, folder / "out", max_drop=100, calibration=CALIBRATION, pictures=40
    )


@pytest.fixture(scope="module", autouse=True)
def _two_of_a_kind() -> Iterator[None]:
    """A search tries as many alphas and sizes of groups as there are, each in the same way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "ALPHAS", (None, 0.25))
        patch.setattr(search, "GROUP_SIZES", (32,))
        yield


@pytest.mark.slow(first=True)  # it takes minutes, and is one test so that no second worker searches again
def test_a_search(
    request_: TuneRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    monkeypatch.setattr(search, "FAMILIES", ("int8-static",))  # all are measured alike; int4 comes behind them
    tuned = tune(request_)
    with subtests.test("the smallest artefact within the drop is chosen"):
        converted = [trial for trial in tuned.trials[1:] if trial.error is None]
        assert tuned.best.size_bytes == min(trial.size_bytes for trial in converted)
        assert {trial.recipe.weights.dtype for trial in converted} == {"int8", "int4"}
        assert tuned.trials[0].recipe.name == "fp32"
        assert tuned.best.size_bytes < 0.5 * tuned.trials[0].size_bytes
    with subtests.test("group sizes are searched"):
        sizes = {trial.recipe.weights.group_size for trial in tuned.trials if trial.recipe.weights.dtype == "int4"}
        assert sizes == set(search.GROUP_SIZES)
    with subtests.test("every layer of both towers is measured"):
        layers = {cost.layer for cost in tuned.costs["int8-static"]}
        assert {layer.split("/")[0] for layer in layers} == {"encode_image", "encode_text"}
        assert "encode_image/blocks.0.attention.query" in layers
        assert all(0 <= cost.score.agreement <= 1 for cost in tuned.costs["int8-static"])
    with subtests.test("the pictures are drawn"):
        assert "<svg" in (request_.out / "trade-off.svg").read_text(encoding="utf-8")
        assert "<svg" in (request_.out / "sensitivity.svg").read_text(encoding="utf-8")
    with subtests.test("the recipe file says what was found and converts"):
        _converts(tuned, request_, tmp_path)
    with subtests.test("a search goes on where it was stopped"):
        _goes_on(tuned, request_, monkeypatch)
    with subtests.test("a folder of another search is refused"):
        with pytest.raises(OutputError, match="another data"):
            tune(replace(request_, data="objects:train:41:3"))
        with pytest.raises(OutputError, match="another pictures"):
            tune(replace(request_, pictures=30))


def _converts(tuned: Tuned, request_: TuneRequest, folder: Path) -> None:
    recipe = resolve(tuned.recipe_file)
    assert recipe.weights == tuned.best.recipe.weights
    assert recipe.activations == tuned.best.recipe.activations
    request = pipeline.Request(request_.model, ("tflite",), recipe, folder, calibration=CALIBRATION)
    (outcome,) = pipeline.convert(request)
    assert outcome.status == "passed"
    assert outcome.bundle is not None
    checks = outcome.bundle.manifest.parity.checks if outcome.bundle.manifest.parity else ()
    assert {"min_cosine", "top1_agreement"} <= {check.measure for check in checks if check.limit is not None}
    assert f"edgevlm convert {request_.model} --target tflite --recipe {tuned.recipe_file}" in tuned.next_command
    assert outcome.bundle.manifest.recipe.name == "tuned"
    assert tuned.next_command in tuned.recipe_file.read_text(encoding="utf-8")


def _goes_on(tuned: Tuned, request_: TuneRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    state = request_.out / "tune.json"
    found = json.loads(state.read_text(encoding="utf-8"))
    last = found["trials"].pop()
    state.write_text(json.dumps(found), encoding="utf-8")
    converted = []
    convert = pipeline.convert

    def counted(request: pipeline.Request, *arguments: object) -> object:
        converted.append(request.recipe.name)
        return convert(request, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "convert", counted)
    told: list[tuple[str, float | None]] = []
    again = tune(request_, lambda stage, share: told.append((stage, share)))
    assert [name for name in converted if name != "fp32"] == [last["recipe"]["name"]]
    assert again.best.recipe == tuned.best.recipe
    assert any(re.match(r"recipe 2 of \d+: ", stage) for stage, _ in told)
    shares = [share for stage, share in told if stage.startswith("recipe") and share is not None]
    assert shares == sorted(shares)
    assert 0 < max(shares) < 1


# A network whose losses are known


LOST = dict(zip("abcdefghij", (0.02, 1.5, 0.1, 0.3, 0.05, 3.0, 0.2, 0.1, 0.05, 0.03), strict=True))
BYTES = {"int8": 1.0, "int4": 0.5}
TIMES = {"int8-weights": 0.9, "int8-static": 0.3, "int4-weights": 0.7, "int8": 0.5}


class Known:
    """A bench: each of ten layers of a thousand weights loses so many points of accuracy as int8, in no one's order.

    Weights alone lose half of that, static ranges three times as much, or 1.2 times where they are smoothed, int4 six
    times. So int8 loses 5.35 points, 2.35 without the worst layer and 0.85 without the worst two.
    """

    accuracy, pictures, words = 0.9, 200, 7
    counts, measures = "named right", "distance: of a network that is known"

    def __init__(self, *, stop_before: str = "", broken: str = "") -> None:
        self.measured: list[str] = []
        self._stop_before, self._broken = stop_before, broken

    def holds(self, recipe: Recipe) -> bool:
        return not recipe.weights.dtype.startswith("palette")

    def nearest(self, rivals: Sequence[Recipe], progress: Progress) -> Recipe:
        return min(rivals, key=self._points)

    def measure(self, recipe: Recipe, progress: Progress) -> Trial:
        self._note(recipe.name)
        if self._broken and recipe.name != "fp32":
            return Trial(recipe, Score(0, 0, 0), 0, 0, None, 100.0, error=self._broken)
        drop, size = self._points(recipe), sum(self._bytes(layer, recipe) for layer in LOST)
        family = next((name for name in TIMES if recipe.name.startswith(name)), "fp32")
        score = Score(self.accuracy - drop / 100, 1 - drop / 100, drop / 1000)
        kept = ParityLimits(min_cosine=0.95, min_top1_agreement=0.9)
        return Trial(recipe, score, round(1000 * size), round(900 * size), TIMES.get(family, 1.0), drop, kept)

    def measure_layers(self, recipe: Recipe, *, skip: frozenset[str]) -> Iterator[LayerCost]:
        for layer, lost in LOST.items():
            if f"encode_image/{layer}" not in skip:
                self._note(f"{layer} of {recipe.name}")
                yield LayerCost(f"encode_image/{layer}", Score(0.9 - lost / 100, 1 - lost / 100, lost / 1000))

    def _note(self, name: str) -> None:
        if name == self._stop_before:
            raise KeyboardInterrupt
        self.measured.append(name)

    def _bytes(self, layer: str, recipe: Recipe) -> float:
        whole = f"encode_image/{layer}" in recipe.weights.float_layers
        return 4.0 if whole else BYTES.get(recipe.weights.dtype, 4.0)

    def _points(self, recipe: Recipe) -> float:
        left = sum(lost for layer, lost in LOST.items() if self._bytes(layer, recipe) < 4)
        if recipe.weights.dtype == "int4":
            return 6 * recipe.weights.int4_share * left
        if recipe.activations.ranges == "static":
            return left * (3 if recipe.activations.smooth_quant is None else 1.2)
        return left / 2 if recipe.name.startswith("int8-weights") else left


TRIED = [
    *("fp32", "int8", "int8-keep-1", "int8-keep-2"),
    *("int8-weights", "int8-weights-keep-1", "int8-weights-keep-2"),
    *(f"int8-static-smooth-0.25{kept}" for kept in ("", "-keep-1", "-keep-2", "-keep-4")),
    *("int4-weights", "int4-weights-0.75", "int4-weights-0.5"),
]
"""Each family until it loses no more than a point; int4 never does."""


def known(out: Path, bench: Known, **changes: object) -> Tuned:
    out.mkdir(exist_ok=True)
    request = TuneRequest("my clip", "tflite", "photos/", out, 1.0, CalibrationSource("more/", Path("texts.txt")))
    return find(replace(request, **changes), bench, Notes.open(out, {"model": "known"}))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Known, Tuned]:
    bench = Known()
    return bench, known(tmp_path_factory.mktemp("known"), bench)


def test_a_search_stops_in_each_family_where_it_loses_little_enough(whole: tuple[Known, Tuned]) -> None:
    bench, tuned = whole
    assert [trial.recipe.name for trial in tuned.trials] == TRIED
    assert [name for name in bench.measured if " of " not in name] == TRIED
    assert tuned.best.recipe.name == "int8-keep-2"
    assert tuned.best.recipe.weights.float_layers == ("encode_image/f", "encode_image/b")
    assert tuned.best.drop == pytest.approx(0.85)
    for costs in tuned.costs.values():
        assert "".join(cost.layer[-1] for cost in costs) == "fbdgcheija"
    for picture, words in {"trade-off": TRIED, "sensitivity": ["int8", "int8-static", "encode_image/f"]}.items():
        drawn = (tuned.recipe_file.parent / f"{picture}.svg").read_text(encoding="utf-8")
        assert [word for word in words if f"<!-- {word} -->" not in drawn] == []


def test_its_recipe_file_says_what_was_measured_and_how_to_convert(whole: tuple[Known, Tuned], tmp_path: Path) -> None:
    _, tuned = whole
    recipe = resolve(tuned.recipe_file)
    assert (recipe.name, recipe.weights) == ("tuned", tuned.best.recipe.weights)
    assert recipe.parity == ParityLimits(min_cosine=0.93, min_top1_agreement=0.88)
    said = tuned.recipe_file.read_text()
    assert "# tflite, 200 pictures of photos/: 89.2 % named right, in float32 90.0 %;" in said
    assert "# 99.2% of the answers are the float model's; 0.02 MB, 0.50x its time on the machine" in said
    assert tuned.next_command == f"edgevlm convert 'my clip' --target tflite --recipe {tuned.recipe_file}"
    assert tuned.next_command in said
    static = known(tmp_path, Known(), objective="latency", images=Path("pictures"))
    assert static.best.recipe.name == "int8-static-smooth-0.25-keep-4"
    assert static.next_command.endswith("recipe.yaml --calibration more/ --calibration-texts texts.txt")
    request = TuneRequest("m", "tflite", "photos/", tmp_path, images=Path("pictures"))
    its_own = next_command(tmp_path / "r.yaml", static.best, request)
    assert its_own.endswith("r.yaml --calibration photos/ --images pictures")


@pytest.mark.parametrize("stop", ["int8-keep-2", "d of int8-static"])
def test_stopped_it_goes_on_and_measures_nothing_twice(stop: str, whole: tuple[Known, Tuned], tmp_path: Path) -> None:
    bench, expected = whole
    first, second = Known(stop_before=stop), Known()
    with pytest.raises(KeyboardInterrupt):
        known(tmp_path, first)
    found = known(tmp_path, second)
    assert first.measured + second.measured == bench.measured
    assert second.measured[0] == stop
    assert (found.trials, found.costs, found.best) == (expected.trials, expected.costs, expected.best)
    with pytest.raises(OutputError, match="another model"):
        Notes.open(tmp_path, {"model": "another"})


def test_where_all_lose_too_much_the_least_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match=r"loses 0 points or less: int8-weights-keep-8 loses 0\.03") as caught:
        known(tmp_path, Known(), max_drop=0.0)
    assert str(tmp_path) in str(caught.value.hint)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sensitivity.svg", "trade-off.svg", "tune.json"]


def test_where_nothing_can_be_converted_the_reason_is_named(tmp_path: Path) -> None:
    bench = Known(broken="no disk space left")
    with pytest.raises(CheckFailed, match="tflite: no recipe was converted; int8: no disk space left"):
        known(tmp_path, bench)
    assert [name for name in bench.measured if " of " not in name] == [
        *("fp32", "int8", "int8-weights", "int8-static-smooth-0.25", "int4-weights"),
    ]


# What is measured


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student that knows four labels, one layer of which does not survive int8.

    A column of its weight is larger by far than all others, and reads a channel that is always zero: in float it does
    nothing, and the others' integers come out as zero.
    """
    torch.manual_seed(1)
    config = VitConfig(image_size=32, patch_size=16, width=32, blocks=1, heads=2)
    tower = build_image_tower(config, 24).eval()
    with torch.no_grad():
        first, second = (module for module in tower.blocks[0].mlp if isinstance(module, nn.Linear))
        first.weight[0], first.bias[0] = 0, 0
        second.weight.mul_(10)
        second.weight[:, 0] = 1e4
    labels = FixedLabels(Labels(tuple("abcd"), ("{}",)), nn.functional.normalize(torch.randn(4, 24)))
    image = square_pictures(32)
    folder = tmp_path_factory.mktemp("planted") / "student"
    folders.save(folder, StudentParts(tower, config, 24, 14.0, labels, image, provenance={}, licence="mit"))
    for number in range(24):
        photo = folder.parent / "photos" / "abcd"[number % 4] / f"{number}.png"
        photo.parent.mkdir(parents=True, exist_ok=True)
        scene(40, 40, seed=number).save(photo)
    return folder


PLANTED = "encode_image/blocks.0.mlp.2"


def test_the_layer_that_does_not_survive_is_found_in_torch(planted: Path, tmp_path: Path) -> None:
    model, data = catalogue.load(planted), open_data(str(planted.parent / "photos"))
    programs = {"encode_image": model.programs["encode_image"]}
    task = Task(model, data, pictures=24, progress=silent)
    reference = task.set_reference(model.original.answer(task.samples))
    assert (reference.agreement, task.words) == (1.0, 4)
    request = pipeline.Request(planted, ("tflite",), BUILTIN["fp32"], tmp_path)
    made = Bundle(tmp_path, library.student("tflite", "int8").manifest)
    bench = Workbench(request, task, reference.accuracy, programs, {}, made)
    names = {f"encode_image/{name}" for name in layer_names(programs["encode_image"])}
    asked = {PLANTED, "encode_image/patch_embedding"}
    costs = {cost.layer: cost for cost in bench.measure_layers(BUILTIN["int8"], skip=frozenset(names - asked))}
    assert set(costs) == asked <= names
    assert max(costs.values(), key=lambda cost: cost.rank).layer == PLANTED
    assert costs[PLANTED].score.distance > 0.1 > 0.01 > costs["encode_image/patch_embedding"].score.distance
    int8 = BUILTIN["int8"]
    kept = replace(int8, weights=replace(int8.weights, float_layers=(PLANTED,)))
    told: list[str] = []
    assert bench.nearest([int8, kept], lambda stage, _: told.append(stage)) == kept
    assert told == ["comparing int8"] * 2
    assert bench.holds(int8)
    assert not bench.holds(BUILTIN["palette-6"])


def test_an_artefact_is_measured_as_it_would_ship(tmp_path: Path) -> None:
    made, model = library.student("tflite", "int8"), catalogue.load(builtin.STUDENT)
    task = Task(model, open_data("scenes:train:24:5"), pictures=24, progress=silent)
    accuracy = task.set_reference(model.original.answer(task.samples)).accuracy
    request = pipeline.Request(builtin.STUDENT, ("tflite",), BUILTIN["fp32"], tmp_path)
    trial = Workbench(request, task, accuracy, model.programs, {}, made).measure(made.manifest.recipe, silent)
    assert (trial.size_bytes, trial.compressed_size_bytes) == (made.artefact_bytes, made.manifest.compressed_size_bytes)
    with registry.runtime("tflite").open(made, threads=1) as session:
        specs = [component.spec for component in made.components.values()]
        embeddings = {name: answer["embedding"] for name, answer in ask(session, specs, task.samples).items()}
    named = (embeddings["encode_image"] @ embeddings["encode_text"].T).argmax(1)
    captions = [example.captions[0] for example in map(open_data("scenes:train:24:5").example, range(24))]
    texts = list(dict.fromkeys(captions))
    right = [texts[place] == caption for place, caption in zip(named, captions, strict=True)]
    assert (task.words, trial.score.accuracy) == (len(texts), np.mean(right))
    assert trial.drop == pytest.approx(100 * (accuracy - np.mean(right)))
    assert trial.latency_ratio == pytest.approx(1, abs=0.5)  # beside itself
    assert made.manifest.parity is not None
    least = {check.measure: check.value for check in reversed(made.manifest.parity.checks)}
    assert trial.kept.min_top1_agreement == least["top1_agreement"]
    assert trial.kept.min_cosine == min(c.value for c in made.manifest.parity.checks if c.measure == "min_cosine")


class Kept:
    """A target whose artefacts this process keeps: nothing is lowered, and torch answers."""

    programs: ClassVar[dict[str, Program]] = {}
    target = "kept"

    def unsupported(self, programs: Programs, recipe: Recipe) -> tuple[Unsupported, ...]:
        return () if recipe.name in ("fp32", "int8") else (Unsupported(recipe.name, instead="--recipe int8"),)

    def lower(
        self, programs: Programs, recipe: Recipe, out_dir: Path, progress: Progress = silent
    ) -> tuple[BundleFile, ...]:
        self.programs.update(programs)
        for name in programs:
            (out_dir / f"{name}.kept").write_bytes(bytes(1000))
        return tuple(BundleFile(f"{name}.kept", (name,), {"torch": "2"}) for name in programs)

    def open(self, bundle: Bundle, *, threads: int | None = None) -> Original:
        modules = {name: self.programs[name].module for name in bundle.components}
        specs = {name: component.spec for name, component in bundle.components.items()}
        return Original(nn.ModuleList(modules.values()), modules, specs)


class entry:
    converter = runtime = Kept


@pytest.fixture
def _kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installs the target."""
    installed = tmp_path / "site" / "kept-1.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: kept\nVersion: 1\n")
    (installed / "entry_points.txt").write_text(f"[edgevlm.targets]\nkept = {__name__}:entry\n")
    monkeypatch.syspath_prepend(str(installed.parent))


@pytest.mark.usefixtures("_kept")
def test_an_artefact_whose_answers_are_no_numbers_is_none_and_can_be_written_down(
    planted: Path, tmp_path: Path
) -> None:
    class Broken(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.full((len(pixels), 24), torch.nan)

    model, data = catalogue.load(planted), open_data(str(planted.parent / "photos"))
    task = Task(model, data, pictures=24, progress=silent)
    accuracy = task.set_reference(model.original.answer(task.samples)).accuracy
    programs = {"encode_image": replace(model.programs["encode_image"], module=Broken())}
    made = tmp_path / "b.edgevlm"
    made.mkdir()
    files = Kept().lower(programs, BUILTIN["fp32"], made)
    components = {"encode_image": BundledComponent(programs["encode_image"].spec, files[0].path)}
    bundle = bundle_for_tests(made, components, target="kept")
    request = pipeline.Request(planted, ("kept",), BUILTIN["fp32"], tmp_path)
    trial = Workbench(request, task, accuracy, programs, {}, bundle).measure(BUILTIN["fp32"], silent)
    assert trial.error == "answers of encode_image are not finite"
    Notes.open(tmp_path, {}).add_trial(trial)
    assert Notes.open(tmp_path, {}).find(BUILTIN["fp32"]) == trial


@pytest.fixture
def stopped(planted: Path, tmp_path: Path, _kept: None) -> TuneRequest:
    """A search that was stopped before its second trial."""
    photos, out = planted.parent / "photos", tmp_path / "out"
    request = TuneRequest(str(planted), "kept", str(photos), out, 2.5, CALIBRATION, pictures=24)

    def stop(stage: str, share: float | None) -> None:
        if "trying int8" in stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(request, stop)
    return request


def test_the_command_goes_on_and_shows_what_was_found(stopped: TuneRequest, planted: Path) -> None:
    photos, out = stopped.data, stopped.out
    stored = json.loads((out / "tune.json").read_text())
    (plain,) = stored["trials"]
    assert (plain["recipe"]["name"], plain["size_bytes"], plain["drop"]) == ("fp32", 2000, 0)
    notes = Notes.open(out, stored["identity"])
    int8 = replace(BUILTIN["int8"], parity=ParityLimits(), calibration=stopped.calibration_rules)
    notes.add_trial(Trial(int8, Score(0.25, 0.5, 0.9), 700, 600, 0.5, 2.0))
    for component, program in catalogue.load(planted).programs.items():
        for layer in layer_names(program):
            notes.add_cost("int8-static", LayerCost(f"{component}/{layer}", Score(0.25, 1, 0.99)))
    command = ["tune", str(planted), "--target", "kept", "--data", photos, "--calibration", CALIBRATION.data]
    command += ["--pictures", "24", "--max-drop", "2.5%", "--out", str(out)]
    shown = CliRunner().invoke(main, command)
    assert shown.exit_code == 0, shown.output
    assert "24 pictures, 4 texts to choose from: in float32" in shown.stdout
    assert "one picture is 4.2 points" in shown.stdout
    (row,) = [line.split() for line in shown.stdout.splitlines() if line.split()[:1] == ["int8"]]
    assert row == ["int8", "0.00", "MB", "0.00", "MB", "25.0", "+2.0", "50.0", "0.50x"]
    assert f"recipe: {out / 'recipe.yaml'}" in shown.stdout
    assert f"next: edgevlm convert {planted} --target kept --recipe {out / 'recipe.yaml'}" in shown.stderr
    assert {"trade-off.svg", "sensitivity.svg", "bundles"} <= {path.name for path in out.iterdir()}


def test_nothing_within_the_drop_is_nothing_found() -> None:
    def lossy(recipe: str) -> Trial:
        return Trial(BUILTIN[recipe], Score(0.5, 0.5, 0.9), 10, 5, 0.5, 3.0)

    assert best([lossy("int8")], max_drop=0.5, objective="size") is None


def test_a_limit_that_nothing_would_reach_is_not_written(request_: TuneRequest, tmp_path: Path) -> None:
    kept = ParityLimits(min_cosine=-0.07, min_top1_agreement=0.3)
    trial = Trial(BUILTIN["int4-weights"], Score(0.5, 0.5, 0.9), 10, 5, None, 3.0, kept=kept)
    write_recipe(tmp_path / "recipe.yaml", trial, request_, Known())
    assert resolve(tmp_path / "recipe.yaml").parity == ParityLimits(min_top1_agreement=0.28)


@pytest.mark.parametrize(("objective", "winner"), [("size", "int4-weights"), ("latency", "int8")])
def test_the_objective_decides(objective: str, winner: str) -> None:
    trials = [
        Trial(BUILTIN["int8"], Score(0.9, 1, 1), 20, 10, 0.3, 0.0),
        Trial(BUILTIN["int4-weights"], Score(0.9, 1, 1), 10, 8, 0.6, 0.1),
        Trial(BUILTIN["int8-static"], Score(0.5, 1, 1), 5, 3, 0.1, 40.0),
    ]
    found = best(trials, max_drop=0.5, objective=objective)  # type: ignore[arg-type]
    assert found is not None
    assert found.recipe.name == winner


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"max_drop": 101.0}, InputError, "max-drop"),
        ({"data": "nowhere"}, DataError, "nowhere"),
        ({"calibration": CalibrationSource("objects:train:20")}, DataError, "expected 128 pictures"),
    ],
)
def test_bad_requests_are_refused_before_the_work(
    change: dict[str, object], error: type[Exception], message: str, request_: TuneRequest, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        tune(replace(request_, out=tmp_path / "out", **change))  # type: ignore[arg-type]
    assert not (tmp_path / "out" / "tune.json").exists()
