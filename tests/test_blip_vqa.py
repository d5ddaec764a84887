"""BLIP that answers questions: a question is put at once, and its answer sees it alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import library
import numpy as np
import pytest
import talkers
from library import asking, talker_checkpoint
from library import talker_model as load
from pictures import scene

from edgevlm.bundle.claims import check_claims
from edgevlm.bundle.dialogue import Turn
from edgevlm.conversion import pipeline
from edgevlm.errors import BundleError, CheckpointError, InputError
from edgevlm.graphs.session import ProgramSession
from edgevlm.inputs.chat import Message, write
from edgevlm.models.checkpoints import talking
from edgevlm.models.checkpoints.text_rules import AWKWARD_TEXTS
from edgevlm.runtimes.tflite.runtime import TFLiteRuntime

QUESTION = "is there a red sofa in the photo?"


def test_a_question_has_the_ids_of_the_checkpoints_own_processor() -> None:
    model, processor = load("blip-vqa"), talkers.processor_of(talker_checkpoint("blip-vqa"))
    for text in (*AWKWARD_TEXTS, QUESTION, ""):
        for pictures in (0, 1):
            ours = write(model.dialogue, [Message("user", text, pictures)], [], model.tokenizer).ids
            assert list(ours) == processor(text=text)["input_ids"], text


def test_an_answer_sees_the_question_and_the_question_the_picture() -> None:
    model, scores = load("blip-vqa"), []
    for seed, question in ((1, QUESTION), (2, QUESTION), (1, "how many triangles?")):
        ours, theirs = (
            asking(model, session).score(scene(60, 40, seed=seed), question, ["a red circle"])[0]
            for session in (ProgramSession(model.programs), model.original)
        )
        assert ours == pytest.approx(theirs, abs=1e-4)
        scores.append(theirs)
    assert min(abs(np.subtract.outer(scores, scores)[np.triu_indices(3, 1)])) > 1e-3


def test_an_answer_that_is_taken_back_leaves_the_question() -> None:
    model, picture = load("blip-vqa"), scene(30, 30, seed=3)
    answers = ["a red circle", "two", "a longer answer than the others are"]
    ours, theirs = (
        asking(model, session).score(picture, QUESTION, answers)
        for session in (ProgramSession(model.programs), model.original)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    alone = [asking(model).score(picture, QUESTION, [each])[0] for each in answers]
    np.testing.assert_allclose(theirs, alone, atol=1e-4)


def test_a_shorter_question_behind_a_longer_one_sees_nothing_of_it() -> None:
    """In the same state, whose slots behind the shorter one still have the longer one's keys."""
    model, picture = load("blip-vqa"), scene(30, 30, seed=3)
    for session in (model.original, ProgramSession(model.programs)):
        asked = asking(model, session)
        seen = asked.see(picture)
        place, logits = asked.place(), {}
        for question in ("how many triangles are above the square in the photo?", "what?"):
            place.used = 0
            logits[question] = asked.begin(place, asked.write([Message("user", question, 1)], seen), seen)
        fresh = asked.begin(asked.place(), asked.write([Message("user", "what?", 1)], seen), seen)
        np.testing.assert_allclose(logits["what?"], fresh, atol=1e-5)


@pytest.mark.parametrize("lengths", [(1, 16), (1, 20, 100)])
def test_padding_is_seen_by_nobody(lengths: tuple[int, ...]) -> None:
    model = talking.load(talker_checkpoint("blip-vqa"), name="b", context_length=128, lengths=lengths)
    expected = asking(load("blip-vqa")).generate(scene(90, 70, seed=1), QUESTION, max_tokens=8)
    answer = asking(model, ProgramSession(model.programs)).generate(scene(90, 70, seed=1), QUESTION, max_tokens=8)
    assert expected.text
    assert answer.text == expected.text


def test_what_it_cannot_do_is_refused(tmp_path: Path) -> None:
    model = talking.load(talker_checkpoint("blip-vqa"), name="b", context_length=64, lengths=(1, 16))
    chat = asking(model).chat(scene(40, 40, seed=1))
    assert chat.ask(QUESTION, max_tokens=2).text
    with pytest.raises(InputError, match="expected one question"):
        chat.ask("and where?")
    with pytest.raises(InputError, match="at most 16 positions, which this model takes at once"):
        _ = asking(model).generate(scene(40, 40, seed=1), "a question, " * 4).text
    with pytest.raises(CheckpointError, match="expected a context of at most max_position_embeddings, 128, got 256"):
        talking.load(talker_checkpoint("blip-vqa"), name="b", context_length=256)
    folder = Path(shutil.copytree(talker_checkpoint("blip-vqa"), tmp_path / "b"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["text_config"]["is_decoder"] = False
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match="expected no such tensor"):
        talking.load(folder, name="b")
    config["architectures"] = ["BlipForImageTextRetrieval"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match="BlipForConditionalGeneration or BlipForQuestionAnswering, got"):
        talking.load(folder, name="b")
    with pytest.raises(InputError, match="expected a last one that holds a question, which this model takes at once"):
        talking.load(talker_checkpoint("blip-vqa"), name="b", lengths=(1,))


@pytest.mark.slow
def test_runners_that_cannot_hold_it_are_named_and_the_manifest_is_whole() -> None:
    bundle = library.talker("blip-vqa", "tflite", "fp32")
    manifest = bundle.manifest
    assert manifest.format_version == "4.0"
    assert manifest.dialogue is not None
    assert manifest.dialogue.chat is not None
    with pytest.raises(InputError, match="no runner of tflite's own holds this bundle"):
        pipeline.verify(bundle, runner=True)
    (advice,) = TFLiteRuntime().advice(bundle)["decode"]
    assert "cannot ask this file" in advice.message
    chat = manifest.dialogue.chat
    for wrong in (replace(chat, assistant=Turn("", "")), replace(chat, user_with_picture=Turn("<picture>", ""))):
        changed = replace(manifest, dialogue=replace(manifest.dialogue, chat=wrong))
        with pytest.raises(BundleError, match="expected a token that stands for a picture, or one question"):
            check_claims(bundle.path, changed)
