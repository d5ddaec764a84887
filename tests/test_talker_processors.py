"""Pictures and words of models that talk, beside the checkpoint's own processor: equal pixels, tiles and ids."""

from __future__ import annotations

import io
import itertools
import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import talkers
from library import asking, talker_checkpoint
from library import talker_model as load
from pictures import EVERY_MODE, ORIENTATIONS, oriented, scene, sixteen_bit_png
from PIL import Image, ImageOps

from edgevlm.errors import CheckpointError
from edgevlm.inputs.chat import Cut, write
from edgevlm.models.checkpoints import chat_rules, talking

SHOWN = (scene(90, 70, seed=1), scene(20, 96, seed=2).convert("L"), scene(33, 33, seed=3), scene(40, 100, seed=4))
"""What dialogues are about: many tiles and few, a grey picture, and one in which no side is a multiple of a tile's."""


@cache
def processor(kind: str) -> Any:
    return talkers.processor_of(talker_checkpoint(kind))


@pytest.mark.parametrize("kind", [kind for kind in talkers.KINDS if kind not in talkers.WITHOUT_TEMPLATE])
def test_thirty_dialogues_have_the_ids_of_the_checkpoints_own_processor(kind: str) -> None:
    model, pictures = load(kind), itertools.cycle(SHOWN)
    assert model.dialogue.chat is not None
    asked, cuts_seen, count = asking(model), set[Cut](), 0
    for messages in chat_rules.dialogues(with_system=model.dialogue.chat.system is not None):
        shown, said = [], chat_rules.to_conversation(messages)
        for content in (each for message in said for each in message["content"] if each["type"] == "image"):
            shown.append(talkers.scaled(next(pictures), model))
            content["image"] = shown[-1]
        theirs = processor(kind).apply_chat_template(said, tokenize=True, add_generation_prompt=True, return_dict=True)
        cuts = [asked.cut(picture)[1] for picture in shown]
        written = write(model.dialogue, messages, cuts, model.tokenizer)
        assert list(written.ids) == theirs["input_ids"][0], written.text
        rows = model.dialogue.spelling.positions if model.dialogue.spelling else 0
        assert len(written.places) == rows * sum(max(cut.rows * cut.columns + 1, 1) for cut in cuts)
        cuts_seen |= {*cuts}
        count += 1
    assert count >= 30
    cut_into = {"smolvlm": 3, "smolvlm-one-key": 3, "internvl": 4, "internvl-qwen3-normed": 4}
    assert len(cuts_seen) == cut_into.get(kind, 1)


def _as_processors_take_them(given: bytes) -> Image.Image:
    """Upright, which is the business of whoever loads a picture; and 16 bits as `inputs.pictures` defines them."""
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(given)))
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    return picture


def _thin(height: int, width: int) -> bytes:
    file = io.BytesIO()
    scene(height, width, seed=5).save(file, "PNG")
    return file.getvalue()


AWKWARD: dict[str, bytes] = {
    **{name: make() for name, make in EVERY_MODE.items()},
    **{f"turned {orientation}": oriented(orientation) for orientation in ORIENTATIONS},
    "16 bits": sixteen_bit_png(np.linspace(0, 65535, 40 * 70).astype(np.uint16).reshape(40, 70)),
    "wide": _thin(1, 400),
    "tall": _thin(400, 1),
    "one pixel": _thin(1, 1),
}


@pytest.mark.parametrize("kind", ["llava", "smolvlm", "idefics3-whole", "internvl", "paligemma", "blip-2", "blip"])
def test_awkward_pictures_have_the_pixels_of_the_checkpoints_own_processor(kind: str) -> None:
    asked, theirs = asking(load(kind)), talkers.picture_processor_of(talker_checkpoint(kind))
    as_asked = {"crop_to_patches": True} if kind == "internvl" else {}  # by the processor of pictures and words
    for name, given in AWKWARD.items():
        picture = _as_processors_take_them(given)
        expected = np.asarray(theirs(picture, do_normalize=False, do_rescale=False, **as_asked)["pixel_values"])
        pixels, _ = asked.cut(given)
        np.testing.assert_array_equal(pixels, expected.reshape(pixels.shape), err_msg=name)


@pytest.mark.parametrize("name", ["fake_image_token", "global_image_token"])
def test_a_tokenizer_by_whose_names_a_picture_is_written_otherwise_is_refused(name: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(talker_checkpoint("smolvlm"), tmp_path / "smolvlm"))
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["extra_special_tokens"] = {name: "<row_6_col_6>"}
    file.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"that writes a picture of 0 x 0 tiles as .* got .*<row_6_col_6>"):
        talking.load(folder, name="s")
