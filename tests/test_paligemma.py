"""PaliGemma: picture and question see each other, so that they are put at once; one question a picture."""

from __future__ import annotations

from pathlib import Path

import library
import pytest
import talkers
from library import asking, talker_checkpoint
from library import talker_model as load
from pictures import scene

from edgevlm.conversion import pipeline
from edgevlm.errors import CheckpointError, InputError
from edgevlm.graphs.session import ProgramSession
from edgevlm.inputs.chat import Message, go_on, write
from edgevlm.models.checkpoints import talking
from edgevlm.models.checkpoints.text_rules import AWKWARD_TEXTS
from edgevlm.models.generators.paligemma import Decoder
from edgevlm.parity import generation
from edgevlm.runtimes.tflite.runtime import TFLiteRuntime

KINDS = ("paligemma", "paligemma-2")
QUESTION = "Is there a red sofa in the photo?"


@pytest.mark.parametrize("kind", KINDS)
def test_a_question_has_the_ids_of_the_checkpoints_own_processor(kind: str) -> None:
    model, processor = load(kind), talkers.processor_of(talker_checkpoint(kind))
    asked, picture = asking(model), scene(40, 60, seed=1)
    cut = asked.cut(picture)[1]
    texts = [text for text in (*AWKWARD_TEXTS, QUESTION, "caption en") if "<image>" not in text]
    for text in texts:
        theirs = processor(images=picture, text=f"<image>{text}")["input_ids"][0]
        assert list(write(model.dialogue, [Message("user", text, 1)], [cut], model.tokenizer).ids) == theirs, text
    assert len(texts) > 20


def test_a_question_is_seen_by_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    model, picture = load("paligemma-2"), scene(90, 70, seed=1)
    expected = asking(model).generate(picture, QUESTION, max_tokens=12)
    assert expected.text
    monkeypatch.setattr(Decoder, "prefix", False)
    causal = asking(model, ProgramSession(model.programs)).generate(picture, QUESTION, max_tokens=12)
    assert causal.text
    assert causal.token_ids != expected.token_ids


def test_padding_is_seen_by_nobody() -> None:
    """At its own length, and at a longer one, a prefix is answered alike."""
    folder, picture = talker_checkpoint("paligemma-2"), scene(90, 70, seed=1)
    model = load("paligemma-2")
    count = len(asking(model).write([Message("user", QUESTION, 1)], asking(model).see(picture)).ids)
    answers = []
    for lengths in ((1, count), (1, count + 50), (1, 20, 100, 200)):
        model = talking.load(folder, name="p", context_length=200, lengths=lengths)
        answer = asking(model, ProgramSession(model.programs)).generate(picture, QUESTION, max_tokens=12)
        assert answer.text
        answers.append(answer.token_ids)
    assert answers[0] == answers[1] == answers[2]


def test_a_prefix_that_no_length_holds_is_refused() -> None:
    model = talking.load(talker_checkpoint("paligemma"), name="p", context_length=128, lengths=(1, 32))
    with pytest.raises(InputError, match="at most 32 positions, which this model takes at once, got") as raised:
        _ = asking(model).generate(scene(40, 40, seed=1), "a question, " * 9).text
    assert "--lengths 1,128" in (raised.value.hint or "")
    with pytest.raises(InputError, match="at most 32 positions, which this model takes at once"):
        asking(model).refuse_unfit("a question, " * 9)
    with pytest.raises(InputError, match="lengths: expected a last one that holds a picture, which takes 16"):
        talking.load(talker_checkpoint("paligemma"), name="p", lengths=(1, 16))
    assert load("paligemma").programs["decode"].spec.lengths == (1, 80, 512)  # a usual question, and any


def test_it_answers_one_question() -> None:
    model = load("paligemma")
    chat = asking(model).chat(scene(40, 40, seed=1))
    assert chat.ask(QUESTION, max_tokens=2).text
    with pytest.raises(InputError, match="expected one question: this model was made for one a picture"):
        chat.ask("And where?")
    with pytest.raises(InputError, match="expected one question"):
        go_on(model.dialogue, "And where?", model.tokenizer)
    said = [Message("user", "a", 0), Message("assistant", "b"), Message("user", "c")]
    with pytest.raises(InputError, match="expected one question, got an answer"):
        write(model.dialogue, said, [], model.tokenizer)
    with pytest.raises(InputError, match="no system text"):
        _ = asking(model).generate(None, "a", system="Be brief.").text


def test_golden_has_no_conversations_and_questions_as_long_as_they_may_be() -> None:
    model = talking.load(talker_checkpoint("paligemma"), name="p", context_length=128, lengths=(1, 64))
    golden = generation.make(asking(model))
    assert golden.conversations == ()
    assert max(len(each.token_ids) for each in golden.dialogues) in range(40, 65)


def test_a_window_that_slides_within_the_context_is_refused(tmp_path: Path) -> None:
    folder = talkers.write_paligemma(tmp_path / "p", sliding_window=64)
    with pytest.raises(CheckpointError, match="sliding_window: expected at least the context, 512"):
        talking.load(folder, name="p")
    assert talking.load(folder, name="p", context_length=64, lengths=(1, 48)).dialogue.context_length == 64


@pytest.mark.slow
def test_runners_that_cannot_hold_it_are_named() -> None:
    bundle = library.talker("paligemma-2", "tflite", "fp32")
    assert bundle.manifest.format_version == "4.0"
    assert bundle.components["decode"].spec.prefix
    with pytest.raises(InputError, match="no runner of tflite's own holds this bundle"):
        pipeline.verify(bundle, runner=True)
    (advice,) = TFLiteRuntime().advice(bundle)["decode"]
    assert advice.kind == "refused"
    assert "cannot ask this file" in advice.message
