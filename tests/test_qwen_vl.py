"""Qwen-VL: places on three axes, over chunks, pictures and answers that are taken back; sizes of pictures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import talkers
import torch
from click.testing import CliRunner
from library import asking, talker_checkpoint
from library import talker_model as load
from pictures import scene

from edgevlm.bundle.recipe import BUILTIN
from edgevlm.cli import main
from edgevlm.conversion.pipeline import Request
from edgevlm.errors import CheckpointError, InputError
from edgevlm.graphs.session import ProgramSession
from edgevlm.inputs.chat import Message
from edgevlm.models.checkpoints import talking
from edgevlm.models.generators.decoder import Places

KINDS = ("qwen2-vl", "qwen2.5-vl", "qwen3-vl")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [(1, 4), (1, 64)])
def test_two_pictures_in_one_dialogue_stand_where_transformers_puts_them(kind: str, lengths: tuple[int, ...]) -> None:
    """With four rows at once, a picture's rows come in several runs, and two pictures in one."""
    folder = talker_checkpoint(kind)
    model = talking.load(folder, name=kind, picture_size=talkers.SIZES[kind], lengths=lengths)
    shown = [talkers.scaled(scene(40, 60, seed=seed), model) for seed in (1, 2)]
    said = [
        {"role": "user", "content": [{"type": "image", "image": shown[0]}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A dog."}]},
        {"role": "user", "content": [{"type": "image", "image": shown[1]}, {"type": "text", "text": "And this?"}]},
    ]
    inputs = talkers.processor_of(folder).apply_chat_template(
        said, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    network: Any = model.original.network
    expected = network.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    messages = [Message("user", "What is it?", 1), Message("assistant", "A dog."), Message("user", "And this?", 1)]
    for session in (model.original, ProgramSession(model.programs)):
        asked = asking(model, session)
        seen = [asked.see(picture) for picture in shown]
        written = asked._written(messages, [each.cut for each in seen])
        assert list(written.ids) == inputs["input_ids"][0].tolist()
        place = asked.place()
        logits = place.put(written.ids, np.concatenate([each.rows for each in seen]), written.places)
        for token_id in expected.tolist():
            assert int(logits.argmax()) == token_id
            logits = place.put([token_id])


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_is_taken_back_leaves_places_as_they_were(kind: str) -> None:
    model, picture = load(kind), scene(90, 70, seed=1)
    answers = ["a red circle", "two", "a longer answer than the others are"]
    ours, theirs = (
        asking(model, session).score(picture, "What is it?", answers)
        for session in (ProgramSession(model.programs), model.original)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    alone = [asking(model).score(picture, "What is it?", [each])[0] for each in answers]
    np.testing.assert_allclose(theirs, alone, atol=1e-4)


def test_places_are_exact_where_float16_is_not() -> None:
    """Whole numbers beyond 2,048 are not all float16's, so that places are integers, and marks small."""
    module: Any = load("qwen2-vl").programs["decode"].module
    rows, columns = 2, 3
    slots = torch.arange(4096, dtype=torch.int32)
    positions = torch.arange(3001, 3001 + 8, dtype=torch.int32)[None]
    marks = torch.zeros(1, 8, 3, dtype=torch.float16)
    marks[0, :6, 0] = torch.tensor([1, 1, 1, 1, 1, 2])
    marks[0, :6, 1] = torch.tensor([0, 0, 0, 1, 1, 1])
    marks[0, :6, 2] = torch.tensor([0, 1, 2, 0, 1, 2])
    places = Places(positions, slots, groups=1)
    ended = torch.zeros(1, 4096, 1)
    ended[0, [100, 200, 3006]] = 1  # two pictures before, and this one
    found = torch.cat(_with_slots(module, slots)._axes(places, marks, ended)).tolist()
    first = 3001 - 2 * (rows * columns - 3)
    behind = first + max(rows, columns)
    assert found == [
        [first] * 6 + [behind, behind + 1],
        [first, first, first, first + 1, first + 1, first + 1, behind, behind + 1],
        [first, first + 1, first + 2, first, first + 1, first + 2, behind, behind + 1],
    ]


def _with_slots(module: Any, slots: torch.Tensor) -> Any:
    """A decoder's arithmetic of places, at a longer context."""

    class Longer:
        columns, saved = module.columns, module.saved
        _axes = type(module)._axes

    longer = Longer()
    longer.slots = slots  # type: ignore[attr-defined]
    return longer


def test_a_square_is_the_usual_size_and_is_told(tmp_path: Path) -> None:
    model = talking.load(talker_checkpoint("qwen2-vl"), name="q")
    assert (model.image.height, model.image.width, model.image.resize) == (64, 64, "exact")  # the processor's most
    assert any("all are scaled to 64 x 64 pixels" in note for note in model.notes)
    assert model.dialogue.spelling is not None
    assert model.dialogue.spelling.positions == 16


WRONG: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "patches of another size": (lambda c: c.update(patch_size=4), r"patch_size: expected 8, as config.json has, got 4"),
    "squares of another size": (lambda c: c.update(merge_size=1), r"merge_size: expected 2, as config.json has, got 1"),
    "pictures as they are": (lambda c: c.update(do_resize=False), r"do_resize: expected true, got false"),
    "another filter": (lambda c: c.update(resample=9), r"resample: expected one of 0 \(nearest\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_processor_that_a_bundle_cannot_carry_is_refused(case: str, tmp_path: Path) -> None:
    change, message = WRONG[case]
    folder = Path(shutil.copytree(talker_checkpoint("qwen2-vl"), tmp_path / "q"))
    file = folder / "preprocessor_config.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        talking.load(folder, name="q", picture_size=(32, 32))


@pytest.mark.parametrize("size", [(30, 32), (32, 8), (0, 32), (16384, 32)])
def test_a_size_that_patches_do_not_divide_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(
        InputError, match=r"expected a size of pictures in multiples of 16 pixels up to 8,192"
    ) as raised:
        talking.load(talker_checkpoint("qwen2-vl"), name="q", picture_size=size)
    assert "--picture-size" in (raised.value.hint or "")


def test_a_size_is_of_whole_windows_which_need_no_mask() -> None:
    with pytest.raises(InputError, match="in multiples of 32 pixels up to 8,192, got 48 x 32"):
        talking.load(talker_checkpoint("qwen2.5-vl"), name="q", picture_size=(48, 32))
    model = talking.load(talker_checkpoint("qwen2.5-vl"), name="q", picture_size=(96, 64))
    encode_image: Any = model.programs["encode_image"].module
    assert encode_image.windows == 6
    patches = 96 * 64 // talkers.PATCH**2
    assert all(buffer.numel() < patches**2 for buffer in encode_image.buffers())
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 3, 96, 64)).astype(np.float32)
    ours, theirs = (
        session.run("encode_image", {"pixels": pixels})["features"]
        for session in (ProgramSession(model.programs), model.original)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_a_size_is_for_those_that_take_any() -> None:
    with pytest.raises(InputError, match="expected no size of pictures, which llava has from the checkpoint"):
        talking.load(talker_checkpoint("llava"), name="l", picture_size=(32, 32))
    student = Request("edgevlm-student", ("tflite",), BUILTIN["fp32"], Path("dist"), picture_size=(32, 32))
    with pytest.raises(InputError, match="a size of pictures are of models that talk"):
        student.load()


@pytest.mark.parametrize("given", ["", "448x", "x448", "448 x 672", "-448", "448x672x3", "a"])
def test_what_is_no_size_is_refused(given: str) -> None:
    done = CliRunner().invoke(main, ["convert", "--target", "tflite", "--picture-size", given])
    assert done.exit_code == 2
    assert "--picture-size: expected a height in pixels, or height x width as 448x672" in " ".join(done.output.split())
