"""The search for a recipe of a model that talks: its task in torch, and a small model's search, converted and asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import library
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pictures import scene

from edgevlm.bundle.dialogue import DECODE
from edgevlm.bundle.recipe import BUILTIN, resolve
from edgevlm.cli import main
from edgevlm.conversion import pipeline
from edgevlm.data.questions import Questions
from edgevlm.errors import CheckFailed, InputError
from edgevlm.graphs.session import ProgramSession
from edgevlm.inference.generator import Generator
from edgevlm.models.talker import Talker
from edgevlm.process.progress import silent
from edgevlm.tuning import search
from edgevlm.tuning.dialogues import DialogueTask, _blocks
from edgevlm.tuning.request import TuneRequest

CONTEXT = 96


@pytest.fixture(scope="module")
def model() -> Talker:
    return library.talker_model("llava")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions in POPE's form, half of which are to be answered with yes."""
    folder = tmp_path_factory.mktemp("pope")
    lines = []
    for number in range(4):
        scene(40 + number, 60, seed=number).save(folder / f"{number}.png")
        label = "yes" if number % 2 else "no"
        question = {"question_id": number, "image": f"{number}.png", "text": "Is there a cat?", "label": label}
        lines.append(json.dumps(question))
    (folder / "pope.json").write_text("\n".join(lines), encoding="utf-8")
    return folder / "pope.json"


def request_of(data: str | Path, out: Path, **changes: object) -> TuneRequest:
    made = TuneRequest(
        library.talker_checkpoint("llava"), "tflite", str(data), out, max_drop=100, pictures=4, context_length=CONTEXT
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def of_programs(model: Talker) -> Generator:
    """The components in torch."""
    return model.through(ProgramSession(model.programs))


def test_a_model_is_no_farther_from_itself_than_rounding(model: Talker, tmp_path: Path) -> None:
    data, calibration = request_of("objects:train:4:3", tmp_path).opened
    assert calibration is None
    assert isinstance(data, Questions)
    task = DialogueTask(model, data, questions=3, progress=silent)
    assert (task.questions, task.judged, task.accuracy) == (3, False, 1.0)
    found = task.score(of_programs(model))
    assert (found.accuracy, found.agreement) == (1.0, 1.0)
    assert found.distance < 1e-6


def test_what_a_fault_costs_is_measured(asked: Path, tmp_path: Path) -> None:
    model = library.talker_model("llava")
    data, _ = request_of(asked, tmp_path).opened
    assert isinstance(data, Questions)
    task = DialogueTask(model, data, questions=4, progress=silent)
    assert task.judged
    assert 0 <= task.accuracy <= 1
    module = model.programs[DECODE].module
    weight = next(each for name, each in module.named_parameters() if name.endswith("query.weight"))
    before = weight.detach().clone()
    with torch.no_grad():
        weight.mul_(-1)
    worse = task.score(of_programs(model), 2)
    assert worse.distance > 1e-4
    assert worse.accuracy == worse.agreement
    with torch.no_grad():
        weight.fill_(np.nan)
    with pytest.raises(CheckFailed, match="is not finite"):
        task.score(of_programs(model))
    with torch.no_grad():
        weight.copy_(before)


def test_pictures_of_no_class_are_described(asked: Path, tmp_path: Path) -> None:
    data, _ = request_of(asked.parent, tmp_path).opened
    assert isinstance(data, Questions)
    assert [(data[row].picture, data[row].text) for row in range(len(data))] == [(f"{row}.png", "") for row in range(4)]


def test_layers_are_measured_a_block_at_a_time() -> None:
    names = ["patches", "layers.0.query", "layers.0.mlp.up", "tower.layers.11.key", "head[0]"]
    assert _blocks(names) == ["patches", "layers.0.*", "tower.layers.11.*", "head[[]0]"]


@pytest.mark.parametrize(
    ("model", "changes", "expected"),
    [
        ("llava", {"calibration": True}, "talks, and its ranges are never measured"),
        (None, {"context_length": 64}, "does not talk: expected neither a context"),
    ],
)
def test_what_does_not_belong_to_a_model_is_refused(
    model: str | None, changes: dict[str, object], expected: str, tmp_path: Path
) -> None:
    from edgevlm.compression.calibration import CalibrationSource

    if "calibration" in changes:
        changes = {"calibration": CalibrationSource("objects:train:40:4")}
    named = library.talker_checkpoint(model) if model else "edgevlm-student"
    with pytest.raises(InputError, match=expected):
        _ = request_of("objects:train:40:3", tmp_path, model=named, **changes).opened


@pytest.mark.slow
def test_a_search(asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "FAMILIES", ("int8", "int8-static"))  # the second of which it does not hold
    monkeypatch.setattr(search, "GROUP_SIZES", (32,))
    out, where = tmp_path / "tuned", str(library.talker_checkpoint("llava"))
    command = ["tune", where, "--target", "tflite", "--data", str(asked), "--max-drop", "100%", "--pictures", "20"]
    shown = CliRunner().invoke(main, [*command, "--context", str(CONTEXT), "--out", str(out), "--json"])
    assert shown.exit_code == 0, shown.output
    tuned = json.loads(shown.stdout)
    assert [each["recipe"]["name"] for each in tuned["trials"]] == ["fp32", "int8", "int4-weights"]
    assert [each["error"] for each in tuned["trials"]] == [None] * 3
    assert tuned["best"]["recipe"]["name"] == "int4-weights"
    assert (tuned["pictures"], tuned["words"], tuned["counts"]) == (4, 0, "answered right")
    blocks = [each["layer"] for each in tuned["costs"]["int8"]]
    assert {"decode/layers.0.*", "decode/layers.1.*", "embed_tokens/table"} <= {*blocks}
    assert all(each["score"]["distance"] >= 0 for each in tuned["costs"]["int8"])
    assert f"--context {CONTEXT}" in tuned["next_command"]
    said = (out / "recipe.yaml").read_text(encoding="utf-8")
    assert "4 questions of" in said
    recipe = resolve(out / "recipe.yaml")
    assert recipe.weights == BUILTIN["int4-weights"].weights
    assert recipe.parity.min_top1_agreement is not None
    again = pipeline.Request(Path(where), ("tflite",), recipe, tmp_path / "dist", context_length=CONTEXT)
    (outcome,) = pipeline.convert(again)
    assert outcome.status == "passed"
