"""Files of models that talk beside their models: sound ones are not blamed, and a fault is blamed on its layer."""

from __future__ import annotations

import json
from pathlib import Path

import library
import pytest
import torch
from click.testing import CliRunner

from edgevlm.blame.bundles import blame_bundle, source_model
from edgevlm.blame.talkers import blame_talker
from edgevlm.bundle.dialogue import DECODE
from edgevlm.cli import main
from edgevlm.models.checkpoints import talking
from edgevlm.models.talker import Talker

FUNCTIONS = ["encode_image", "embed_tokens", "decode", "prefill_16"]
SLOW = [
    each
    for each in library.TALKERS
    if each[0] in ("llava-next", "qwen2.5-vl", "paligemma-2", "blip-vqa") or each == ("smolvlm", "coreml", "fp16")
]


def model_of(kind: str) -> Talker:
    return talking.load(library.talker_checkpoint(kind), name=kind, **library.talker_options(kind))


def test_a_fault_is_blamed_on_its_layer_at_every_length() -> None:
    bundle, model = library.talker("blip", "tflite", "fp32"), model_of("blip")
    with torch.no_grad():
        model.programs[DECODE].module.layers[1].cross.query.weight.mul_(-1)  # type: ignore[union-attr, index]
    *before, decode, prefill = blame_talker(bundle, model)
    assert [each.culprit for each in before] == [None, None]
    for found in (decode, prefill):
        assert found.culprit is not None
        assert found.culprit.layer == f"{found.component}/layers.1.cross.query"


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "target", "recipe"), SLOW)
def test_a_sound_file_is_not_blamed(kind: str, target: str, recipe: str) -> None:
    bundle = library.talker(kind, target, recipe)
    found = blame_bundle(bundle, source_model(bundle, str(library.talker_checkpoint(kind))))
    assert [each.culprit for each in found] == [None] * 4
    assert all(each.steps[-1].error is not None for each in found)


@pytest.mark.slow
def test_a_bundle_is_held_against_the_model_that_it_was_made_of(tmp_path: Path) -> None:
    bundle = library.talker("blip", "tflite", "fp32")
    model = source_model(bundle, str(library.talker_checkpoint("blip")))
    assert isinstance(model, Talker)
    assert {name: program.spec for name, program in model.programs.items()} == {
        name: component.spec for name, component in bundle.components.items()
    }
    page, where = tmp_path / "page.html", str(library.talker_checkpoint("blip"))
    command = ["verify", str(bundle.path), "--blame", "--model", where, "--out", str(page), "--json"]
    shown = CliRunner().invoke(main, command)
    assert shown.exit_code == 0, shown.output
    told = json.loads(shown.stdout)["blame"]
    assert [(each["component"], each["first"]) for each in told] == [(function, None) for function in FUNCTIONS]
    assert page.read_text(encoding="utf-8").count("<svg") == 4
    refused = CliRunner().invoke(main, [*command[:3], "--model", str(library.talker_checkpoint("llava"))])
    assert refused.exit_code == 2
    assert "is not the model that the bundle was made of" in refused.output
