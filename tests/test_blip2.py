"""BLIP-2: queries that look at a picture become its rows; a text is gone on from as it is."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import talkers
import torch
from library import asking, talker_checkpoint
from library import talker_model as load
from pictures import scene
from transformers import Blip2Config

from edgevlm.errors import CheckpointError, InputError
from edgevlm.inputs.chat import Message, write
from edgevlm.models.checkpoints import talking
from edgevlm.models.checkpoints.text_rules import AWKWARD_TEXTS
from edgevlm.models.generators.blip2 import take_apart

KINDS = ("blip-2", "blip-2-norms-behind")
QUESTION = "Question: is there a red sofa in the photo? Answer:"


@pytest.mark.parametrize("text", [QUESTION, "a photo of", ""])
def test_a_text_has_the_ids_of_the_checkpoints_own_processor(text: str) -> None:
    model, processor = load("blip-2"), talkers.processor_of(talker_checkpoint("blip-2"))
    asked, picture = asking(model), scene(40, 60, seed=1)
    cut = asked.cut(picture)[1]
    for said in (text, *(f"{text} {each}" for each in AWKWARD_TEXTS if "<image>" not in each and "<" not in each)):
        theirs = processor(images=picture, text=said)["input_ids"]
        ours = write(model.dialogue, [Message("user", said, 1)], [cut], model.tokenizer).ids
        assert list(ours) == (theirs[0] if isinstance(theirs[0], list) else theirs), said
    assert ours[:7] == (4, 4, 4, 4, 4, 4, 2)


def test_a_text_of_no_words_is_gone_on_from() -> None:
    model, picture = load("blip-2"), scene(90, 70, seed=1)
    network: Any = model.original.network
    pixels = torch.tensor(talkers.picture_processor_of(talker_checkpoint("blip-2"))(picture)["pixel_values"][0])[None]
    theirs = network.generate(pixel_values=pixels, max_new_tokens=8, do_sample=False)[0].tolist()
    answer = asking(model).generate(picture, "", max_tokens=8)
    assert answer.text
    assert theirs[-len(answer.token_ids) :] == answer.token_ids
    assert asking(model).generate(picture, max_tokens=2).text  # what it is asked to describe


def test_it_answers_one_question() -> None:
    chat = asking(load("blip-2")).chat(scene(40, 40, seed=1))
    assert chat.ask(QUESTION, max_tokens=2).text
    with pytest.raises(InputError, match="expected one question"):
        chat.ask("And where?")


def test_the_queries_first_look_is_no_weight() -> None:
    """What the first layer asks is a constant: converters would make it of weights that NNCF has decided on."""
    names = {name for name, _ in load("blip-2").programs["encode_image"].module.named_parameters()}
    asks = {name.split(".")[1] for name in names if name.startswith("layers.") and ".cross_query." in name}
    own = {name.split(".")[1] for name in names if name.startswith("layers.") and ".query." in name}
    looks = {name.split(".")[1] for name in names if name.startswith("layers.") and ".key_of_picture." in name}
    assert (asks, own, looks) == ({"2"}, {"1", "2"}, {"0", "2"})


def test_what_is_not_carried_is_refused_by_name(tmp_path: Path) -> None:
    folder, image = talkers.write_blip_2(tmp_path / "blip"), load("blip-2").image
    t5: Any = SimpleNamespace(config=Blip2Config(text_config={"model_type": "t5"}), language_model=None)
    with pytest.raises(CheckpointError, match=r"text_config\.model_type: expected opt, got 't5'") as raised:
        take_apart(t5, image, 64, where="config.json")
    assert "blip2-opt" in (raised.value.hint or "")
    with pytest.raises(CheckpointError, match="expected a context of at most max_position_embeddings, 1,024, got"):
        talking.load(folder, name="b", context_length=2000)
    narrow = talkers.write_blip_2(tmp_path / "narrow", word_embed_proj_dim=48)
    with pytest.raises(CheckpointError, match="word_embed_proj_dim: expected hidden_size, 64, the width of a picture"):
        talking.load(narrow, name="b")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "image_token_index": None}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="image_token_index: expected the id of the token that stands for a pic"):
        talking.load(folder, name="b")
