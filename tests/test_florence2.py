"""Florence-2: a tower of windows and channels, and BART, which is asked at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import talkers
import torch
from library import asking, talker_checkpoint
from library import talker_model as load
from pictures import scene

from edgevlm.errors import CheckpointError, InputError
from edgevlm.graphs.session import ProgramSession
from edgevlm.inputs.chat import Message, write
from edgevlm.models.checkpoints import talking
from edgevlm.models.checkpoints.text_rules import AWKWARD_TEXTS
from edgevlm.models.generators.florence2 import Embed, WindowAttention

QUESTION = "What does the image describe?"


def test_a_question_has_the_ids_of_the_checkpoints_own_processor() -> None:
    model, processor = load("florence-2"), talkers.processor_of(talker_checkpoint("florence-2"))
    asked, picture = asking(model), scene(40, 60, seed=1)
    cut = asked.cut(picture)[1]
    for text in (*AWKWARD_TEXTS, QUESTION, ""):
        if "<image>" in text:
            continue
        theirs = processor(images=picture, text=text, add_special_tokens=False)["input_ids"]
        ours = write(model.dialogue, [Message("user", text, 1)], [cut], model.tokenizer).ids
        assert list(ours) == (theirs[0] if isinstance(theirs[0], list) else theirs), text


@pytest.mark.parametrize("window", [3, 4])
def test_the_tower_is_transformers_whether_or_not_windows_divide_the_grid(window: int, tmp_path: Path) -> None:
    folder = talkers.write_florence_2(tmp_path / "f", window=window)
    model = talking.load(folder, name="f", context_length=128, lengths=(1, 64))
    windows = [each for each in model.programs["encode_image"].module.modules() if isinstance(each, WindowAttention)]
    assert [each.grid for each in windows] == [(8, 8), (4, 4)]
    pixels = asking(model).cut(scene(60, 40, seed=2))[0]
    for each in pixels:
        inputs = {"pixels": each[None]} if each.ndim == 3 else {"pixels": each}
        ours, theirs = (
            session.run("encode_image", inputs)["features"]
            for session in (ProgramSession(model.programs), model.original)
        )
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_a_stage_says_how_large_its_grid_is() -> None:
    network: Any = load("florence-2").original.network
    for conv, size in zip(network.model.vision_tower.convs, ((33, 50), (41, 17)), strict=True):
        embed = Embed(conv)
        with torch.no_grad():
            made = embed(torch.zeros(1, embed.conv.in_channels, *size)).shape[2:]
        assert embed.size(size) == tuple(made)


def test_it_answers_one_question_at_once() -> None:
    model, picture = load("florence-2"), scene(40, 40, seed=1)
    scores = [
        asking(model, session).score(picture, QUESTION, ["a dog", "two red squares above a circle"])
        for session in (ProgramSession(model.programs), model.original)
    ]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-3)
    chat = asking(model).chat(picture)
    assert chat.ask(max_tokens=2).text == asking(model).generate(picture, QUESTION, max_tokens=2).text
    with pytest.raises(InputError, match="expected one question"):
        chat.ask("And where?")


def test_places_in_an_answer_are_said(tmp_path: Path) -> None:
    """They are special tokens, which texts of ids leave out elsewhere."""
    folder = talkers.write_florence_2(tmp_path / "f")
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    place = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    content["added_tokens"].append({"id": 5, "content": "<loc_7>", **place})
    kept = next(text for text, number in content["model"]["vocab"].items() if number == 5)
    content["model"]["vocab"] = {
        ("<loc_7>" if text == kept else text): n for text, n in content["model"]["vocab"].items()
    }
    content["model"]["merges"] = [each for each in content["model"]["merges"] if kept not in each]
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    model = talking.load(folder, name="f", context_length=128, lengths=(1, 64))
    dog = model.tokenizer.pieces("a dog")
    assert model.tokenizer.text([0, *dog, 5, 5]) == "a dog<loc_7><loc_7>"
    assert any("<CAPTION>" in note for note in model.notes)


def test_answers_begin_as_generate_is_told_to() -> None:
    model = load("florence-2")
    assert len(model.programs["decode"].module.first) == 2
    answer = asking(model).generate(scene(40, 40, seed=1), QUESTION, max_tokens=4)
    assert 0 not in answer.token_ids[:1]


def test_what_is_not_carried_is_refused_by_name(tmp_path: Path) -> None:
    folder = talkers.write_florence_2(tmp_path / "f")
    with pytest.raises(CheckpointError, match="expected a context of at most max_position_embeddings, 1,024, got"):
        talking.load(folder, name="f", context_length=2000)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))

    def changed(part: str, **values: Any) -> None:
        (folder / "config.json").write_text(json.dumps({**config, part: {**config[part], **values}}), encoding="utf-8")

    changed("text_config", scale_embedding=True)
    with pytest.raises(CheckpointError, match="expected one table of words for questions and answers"):
        talking.load(folder, name="f")
    changed("text_config", model_type="florence2_language")
    with pytest.raises(CheckpointError, match="got the layout of Microsoft's own code"):
        talking.load(folder, name="f")
    changed("text_config", decoder_layers=2000)
    with pytest.raises(CheckpointError, match=r"text_config\.decoder_layers: expected at most 1,000, got 2,000"):
        talking.load(folder, name="f")
    changed("vision_config", depths=[900, 900])
    with pytest.raises(CheckpointError, match=r"vision_config\.depths: expected at most 1,000, got 1,800"):
        talking.load(folder, name="f")
    pictures = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    large = {**pictures, "size": {"height": 416, "width": 416}}
    (folder / "preprocessor_config.json").write_text(json.dumps(large), encoding="utf-8")
    changed("text_config")
    with pytest.raises(CheckpointError, match="expected at least 52, for pictures of 416 x 416 pixels, got 50"):
        talking.load(folder, name="f")
