"""LLaVA-NeXT: a picture of one of the sizes that it was trained with, as tiles within `encode_image`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import talkers
import torch
from library import asking, talker_checkpoint
from library import talker_model as load
from pictures import scene
from PIL import Image

from edgevlm.errors import CheckpointError, InputError
from edgevlm.graphs.session import ProgramSession
from edgevlm.inputs.chat import Message, write
from edgevlm.inputs.resampling import weights
from edgevlm.models.checkpoints import talking
from edgevlm.models.checkpoints.text_rules import AWKWARD_TEXTS
from edgevlm.models.generators.llava_next import Tiles

SIDE = talkers.SIDE


@pytest.mark.parametrize("resample", ["bicubic", "bilinear", "lanczos"])
@pytest.mark.parametrize(("height", "width"), [(SIDE, 2 * SIDE), (3 * SIDE, SIDE), (2 * SIDE, 4 * SIDE)])
def test_the_whole_is_what_pillow_makes_of_it_but_for_ties(resample: Any, height: int, width: int) -> None:
    image = replace(load("llava-next").image, height=height, width=width, resample=resample)
    rng = np.random.default_rng(3)
    for _ in range(5):
        picture = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        pixels = torch.from_numpy(np.asarray(picture, np.float32).transpose(2, 0, 1)[None])
        whole, *tiles = Tiles(image, SIDE)(pixels).numpy()
        filtered = picture.resize((SIDE, SIDE), Image.Resampling[resample.upper()])
        off = np.abs(whole - np.asarray(filtered, np.float32).transpose(2, 0, 1))
        assert off.max() <= 1  # where a sum is half way between two whole numbers
        assert np.mean(off > 0) < 2e-3
        cut = [(x, y) for y in range(0, height, SIDE) for x in range(0, width, SIDE)]
        for (x, y), tile in zip(cut, tiles, strict=True):
            expected = np.asarray(picture.crop((x, y, x + SIDE, y + SIDE)), np.float32)
            np.testing.assert_array_equal(tile, expected.transpose(2, 0, 1))


def test_a_matrix_of_weights_adds_up_to_one() -> None:
    np.testing.assert_allclose(weights(96, 32, "bicubic").sum(1), 1, atol=1e-6)
    np.testing.assert_array_equal(weights(5, 5, "lanczos"), np.eye(5))


def test_a_question_has_the_ids_of_the_checkpoints_own_processor() -> None:
    model, folder = load("llava-next"), talker_checkpoint("llava-next")
    picture = talkers.scaled(scene(40, 60, seed=1), model)
    cut = asking(model).cut(picture)[1]
    for text in AWKWARD_TEXTS:
        if "<image>" in text:
            continue
        theirs = talkers.asked(folder, picture, text)["input_ids"][0].tolist()
        assert list(write(model.dialogue, [Message("user", text, 1)], [cut], model.tokenizer).ids) == theirs, text


@pytest.mark.parametrize("size", [(SIDE, 2 * SIDE), (3 * SIDE, SIDE), (2 * SIDE, 2 * SIDE)])
def test_every_size_has_its_own_rows(size: tuple[int, int]) -> None:
    model = talking.load(talker_checkpoint("llava-next"), name="l", picture_size=size)
    asked, picture = asking(model, ProgramSession(model.programs)), scene(70, 50, seed=2)
    pixels = asked.cut(picture)[0]
    ours, theirs = (each.encode(pixels)[0]["features"] for each in (asked, asking(model)))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    per_tile = SIDE // talkers.PATCH
    down, across = (side // SIDE * per_tile for side in size)
    assert ours.shape[1] == per_tile**2 + down * (across + 1)
    newline: Any = model.original.network.model.image_newline
    rows = ours[0, per_tile**2 :].reshape(down, across + 1, -1)
    np.testing.assert_allclose(rows[:, -1], np.tile(newline.detach().numpy(), (down, 1)), atol=1e-6)


def test_a_square_of_two_tiles_a_side_is_taken_where_none_is_asked_for() -> None:
    model = talking.load(talker_checkpoint("llava-next"), name="l")
    assert (model.image.height, model.image.width) == (2 * SIDE, 2 * SIDE)
    assert any("whatever their proportions" in note for note in model.notes)


def test_other_sizes_and_contradictions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one of the sizes of pictures that this model was trained with, 32x64, 64x32"):
        talking.load(talker_checkpoint("llava-next"), name="l", picture_size=(SIDE, SIDE))
    folder = talkers.write_llava_next(tmp_path / "l")
    content = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    content["image_grid_pinpoints"] = content["image_grid_pinpoints"][1:]
    (folder / "preprocessor_config.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CheckpointError, match="image_grid_pinpoints: expected sizes in multiples of 32 pixels"):
        talking.load(folder, name="l")
