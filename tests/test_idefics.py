"""Idefics: a picture beside the words, which a row sees from its token on, through gates."""

from __future__ import annotations

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
from edgevlm.inputs.chat import Cut, Message, write
from edgevlm.models.checkpoints import talking
from edgevlm.models.checkpoints.text_rules import AWKWARD_TEXTS

KINDS = ("idefics", "idefics-plain")
QUESTION = "Is there a red sofa in the photo?"


@pytest.mark.parametrize("kind", KINDS)
def test_a_question_has_the_ids_of_the_checkpoints_own_processor(kind: str) -> None:
    model, picture = load(kind), scene(40, 60, seed=1)
    texts = [text for text in (*AWKWARD_TEXTS, QUESTION) if text == text.strip(" ") and "<image>" not in text]
    for text in texts:
        theirs = talkers.asked(talker_checkpoint(kind), picture, text)["input_ids"][0].tolist()
        assert list(write(model.dialogue, [Message("user", text, 1)], [Cut()], model.tokenizer).ids) == theirs, text
    assert len(texts) > 15


@pytest.mark.parametrize("kind", KINDS)
def test_a_dialogue_without_a_picture_is_answered_as_transformers_does(kind: str) -> None:
    model = load(kind)
    network: Any = model.original.network
    ids = write(model.dialogue, [Message("user", QUESTION)], [], model.tokenizer).ids
    whole = network.generate(
        input_ids=torch.tensor([ids]),
        pixel_values=torch.randn(1, 1, 3, talkers.SIDE, talkers.SIDE),
        image_attention_mask=torch.zeros(1, len(ids), 1, dtype=torch.long),
        max_new_tokens=8,
        do_sample=False,
    )
    for session in (model.original, ProgramSession(model.programs)):
        answer = asking(model, session).generate(None, QUESTION, max_tokens=8)
        assert answer.text
        assert answer.token_ids == whole[0, len(ids) :].tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [(1, 3), (1, 64)])
def test_rows_before_the_picture_do_not_see_it(kind: str, lengths: tuple[int, ...]) -> None:
    """In parts of three, the picture's token is in another run than the rows that see it."""
    model = talking.load(talker_checkpoint(kind), name="i", lengths=lengths)
    logits = []
    for session in (model.original, ProgramSession(model.programs)):
        asked = asking(model, session)
        seen = asked.see(scene(60, 40, seed=2))
        written = asked.write([Message("user", QUESTION, 1)], seen)
        assert written.places == (written.ids.index(model.dialogue.spelling.token_id),)  # type: ignore[union-attr]
        before = asked.place()
        before.see(seen.answers[0])
        there = written.places[0]
        unseen = before.put(written.ids[:there])
        np.testing.assert_allclose(unseen, asked.place().put(written.ids[:there]), atol=1e-4)
        after = before.put(written.ids[there : there + 1])
        alone = asked.place()
        alone.put(written.ids[:there])
        assert np.abs(after - alone.put(written.ids[there : there + 1])).max() > 1e-3  # whose picture is zeros
        logits.append(asked.begin(asked.place(), written, seen))
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-4)


def test_a_second_question_and_answers_that_are_taken_back() -> None:
    model, picture = load("idefics"), scene(30, 30, seed=3)
    answers = ["a red circle", "two", "a longer answer than the others are"]
    ours, theirs = (
        asking(model, session).score(picture, QUESTION, answers)
        for session in (ProgramSession(model.programs), model.original)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    said = []
    for session in (model.original, ProgramSession(model.programs)):
        chat = asking(model, session).chat(picture)
        said.append([chat.ask(each, max_tokens=5).text for each in (QUESTION, "And a dog?")])
    assert said[0] == said[1]


def test_a_context_beyond_what_was_trained_is_refused() -> None:
    with pytest.raises(CheckpointError, match="expected a context of at most 2,048, got 4,096"):
        talking.load(talker_checkpoint("idefics"), name="i", context_length=4096)
    with pytest.raises(InputError, match="expected texts without <image>"):
        _ = asking(load("idefics")).generate(None, "an <image>").text
