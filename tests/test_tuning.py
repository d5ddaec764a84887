"""The search for a recipe: on a tiny CLIP, with every artefact really converted and asked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from checkpoints import write_clip_checkpoint

from edgevlm.bundle.recipe import BUILTIN, ParityLimits, resolve
from edgevlm.compression.calibration import CalibrationSource
from edgevlm.conversion import pipeline
from edgevlm.errors import DataError, InputError, OutputError
from edgevlm.tuning import search
from edgevlm.tuning.recipe_file import write_recipe
from edgevlm.tuning.request import TuneRequest
from edgevlm.tuning.search import best
from edgevlm.tuning.task import Score
from edgevlm.tuning.trial import Trial
from edgevlm.tuning.tuning import Tuned, tune

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
    assert any(re.match(r"recipe 3 of \d+: ", stage) for stage, _ in told)
    shares = [share for stage, share in told if stage.startswith("recipe") and share is not None]
    assert shares == sorted(shares)
    assert 0 < max(shares) < 1


def test_nothing_within_the_drop_is_nothing_found() -> None:
    def lossy(recipe: str) -> Trial:
        return Trial(BUILTIN[recipe], Score(0.5, 0.5, 0.9), 10, 5, 0.5, 3.0)

    assert best([lossy("int8")], max_drop=0.5, objective="size") is None


def test_a_limit_that_nothing_would_reach_is_not_written(request_: TuneRequest, tmp_path: Path) -> None:
    kept = ParityLimits(min_cosine=-0.07, min_top1_agreement=0.3)
    trial = Trial(BUILTIN["int4-weights"], Score(0.5, 0.5, 0.9), 10, 5, None, 3.0, kept=kept)
    write_recipe(tmp_path / "recipe.yaml", trial, request_, accuracy=0.5, pictures=40)
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
