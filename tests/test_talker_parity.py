"""Parity of models that talk: what is asked, what is measured, and which limits hold; no conversion is needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import library
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import edgevlm
from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.dialogue import Chat, Turn
from edgevlm.bundle.golden_dialogues import KEPT, GoldenDialogues, GoldenStep
from edgevlm.bundle.manifest import ParityCheck
from edgevlm.bundle.recipe import BUILTIN, ParityLimits, Recipe
from edgevlm.bundle.spec import F32, Array
from edgevlm.conversion import proof
from edgevlm.errors import BundleError, RecipeError
from edgevlm.inference.decoding import log_sum_exp
from edgevlm.inference.generator import Generator
from edgevlm.models.checkpoints import talking
from edgevlm.parity import generation

CONTEXT = {"blip": 48, "llava": 128, "smolvlm": 256}


@cache
def original(kind: str) -> Generator:
    folder, context = library.talker_checkpoint(kind), CONTEXT[kind]
    return library.asking(talking.load(folder, name=kind, context_length=context, lengths=(1, 16)))


@cache
def golden(kind: str) -> GoldenDialogues:
    return generation.make(original(kind))


class Other:
    """The original, but for what one component answers."""

    def __init__(self, kind: str, component: str, change: Any) -> None:
        self._session, self._component, self._change = original(kind).session, component, change

    def make_state(self, component: str) -> Any:
        return self._session.make_state(component)

    def run(self, component: str, inputs: Mapping[str, Array], state: Any = None) -> dict[str, NDArray[np.float32]]:
        found = self._session.run(component, inputs, state)
        return {name: self._change(each) for name, each in found.items()} if component == self._component else found

    def close(self) -> None: ...


def picture_of(name: str) -> Image.Image:
    return generation.golden_pictures(None)[name.removeprefix("golden/")]


def measured(kind: str, recipe: Recipe, other: Other | None = None) -> dict[str, ParityCheck]:
    own = original(kind)
    model = own if other is None else Generator(other, own.specs, own.image, own.dialogue, own.tokenizer)
    asked = generation.Asked(model, picture_of)
    report = generation.measure(asked, golden(kind), Path("b"), recipe, "reference")
    return {check.measure: check for check in report.checks}


@pytest.mark.parametrize("kind", CONTEXT)
def test_the_last_dialogue_has_a_picture_and_reaches_the_far_end(kind: str) -> None:
    found = golden(kind)
    last, context = found.dialogues[-1], CONTEXT[kind]
    assert last.picture == "golden/flat.png"
    assert context - 12 - 20 < len(last.token_ids) <= context - 12
    assert len(found.dialogues) == (5 if kind == "blip" else 6)
    assert len({*last.answer_ids}) > 1
    checks = measured(kind, BUILTIN["fp32"])
    assert all(check.passed for check in checks.values())
    assert (checks["same_answers"].value, checks["same_tokens"].value) == (1, 1)
    assert "perplexity" not in checks


@pytest.mark.parametrize("kind", ["blip", "llava"])
def test_an_artefact_that_hardly_looks_at_pictures_fails(kind: str) -> None:
    least = measured(kind, BUILTIN["int4-weights"])["picture_matters"]
    assert least.limit is not None
    assert least.value >= 2 * least.limit * (1 - 1e-4)  # what it changes in the original itself, or more
    mean = {name: each.mean(0) for name, each in _seen(kind).items()}
    for share, passes in ((0.0, False), (0.05, False), (0.9, True)):
        kept = np.float32(share)
        faded = Other(kind, "encode_image", lambda rows, kept=kept: rows * kept + mean[rows.shape] * (1 - kept))
        assert measured(kind, BUILTIN["int4-weights"], faded)["picture_matters"].passed == passes, share


def _seen(kind: str) -> dict[tuple[int, ...], F32]:
    """What golden's pictures are to a model, by the shape of what tells them."""
    found: dict[tuple[int, ...], list[F32]] = {}
    for picture in generation.golden_pictures(None).values():
        for rows in original(kind).see(picture).answers[0].values():
            found.setdefault(rows.shape, []).append(rows)
    return {shape: np.stack(each) for shape, each in found.items()}


def test_compressed_weights_are_held_to_the_perplexity_of_the_originals_answers() -> None:
    recipe = BUILTIN["int8"]
    own, flat = (
        measured("llava", recipe, other)["perplexity"]
        for other in (None, Other("llava", "decode", lambda logits: logits * np.float32(0.3)))
    )
    steps = [step for dialogue in golden("llava").dialogues for step in dialogue.steps]
    expected = math.exp(float(np.mean([step.logsumexp - step.logits[0] for step in steps])))
    assert own.value == pytest.approx(expected, rel=1e-4)
    assert own.limit == pytest.approx(expected * math.exp(0.1), rel=1e-4)
    assert own.passed
    assert flat.value > 2 * own.value
    assert not flat.passed


def test_same_tokens_are_those_before_an_answer_parts() -> None:
    dialogues = golden("llava").dialogues
    token = next(each for d in dialogues for each in d.answer_ids if d.answer_ids.index(each) == 2)

    def never(logits: F32) -> F32:
        return np.where(np.arange(logits.shape[-1]) == token, np.float32(-30), logits)

    found = measured("llava", BUILTIN["fp16"], Other("llava", "decode", never))
    begun = [next((n for n, each in enumerate(d.answer_ids) if each == token), len(d.answer_ids)) for d in dialogues]
    assert 2 in begun
    assert found["same_tokens"].value == pytest.approx(sum(begun) / sum(len(d.answer_ids) for d in dialogues))
    whole = [count == len(d.answer_ids) for count, d in zip(begun, dialogues, strict=True)]
    assert found["same_answers"].value == np.mean(whole)
    assert (found["same_tokens"].limit, found["same_answers"].limit) == (0.5, None)


TURN = Turn("<<", ">>")
EDITS: dict[str, Callable[[Chat], Chat | None]] = {
    "how an answer stands before the next question": lambda chat: replace(chat, assistant=TURN),
    "a question without a picture": lambda chat: replace(chat, user=TURN),
    "a system text": lambda chat: replace(chat, system=None if chat.system else TURN),
    "no template": lambda _: None,
}


@pytest.mark.parametrize("kind", ["llava", "smolvlm"])
def test_several_turns_are_written_out(kind: str) -> None:
    chat, found = original(kind).dialogue.chat, golden(kind).conversations
    assert chat is not None
    assert [(each.system, each.picture) for each in found[:2]] == [(None, None), (None, "golden/flat.png")]
    assert [each.system is not None for each in found[2:]] == ([True] if chat.system else [])
    for each in found:
        assert all(said in each.text for said in (*each.said, each.system or ""))
        assert each.token_ids[-len(each.last_ids) :] == each.last_ids
        assert original(kind).tokenizer.text(each.last_ids).count(each.said[-1].strip()) == 1


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_other_rules_of_turns_are_refused(edit: Callable[[Chat], Chat | None]) -> None:
    own, stored = original("llava"), golden("llava")
    assert own.dialogue.chat is not None
    if own.dialogue.chat.system is None and edit is EDITS["a system text"]:
        stored = replace(stored, conversations=tuple(replace(each, system="Hi") for each in stored.conversations))
    rules = replace(own.dialogue, chat=edit(own.dialogue.chat))
    asked = generation.Asked(Generator(own.session, own.specs, own.image, rules, own.tokenizer), picture_of)
    with pytest.raises(BundleError, match=r"golden: .* the manifest's rules write another conversation"):
        generation.measure(asked, stored, Path("b"), BUILTIN["fp32"], "reference")


def test_every_kind_of_conversation_is_there_since_2_1(tmp_path: Path) -> None:
    dialogue, stored = original("llava").dialogue, golden("llava")
    manifest = replace(library.student("tflite", "int8").manifest, format_version="2.1", dialogue=dialogue)
    bundle = Bundle(tmp_path, manifest)
    proof.check_kinds(bundle, stored)
    for lacking in ((), stored.conversations[:1], stored.conversations[1:]):
        with pytest.raises(BundleError, match="golden: conversations: expected some with a picture and without"):
            proof.check_kinds(bundle, replace(stored, conversations=lacking))
    older = replace(bundle, manifest=replace(manifest, format_version="2.0"))
    proof.check_kinds(older, replace(stored, conversations=()))


def test_a_recipes_own_limits_hold_or_are_refused() -> None:
    for name, recipe in BUILTIN.items():
        generation.check_limits(recipe)
        assert generation.limits(replace(recipe, name="mine", summary="copied")) == generation.limits(recipe), name
    own = replace(BUILTIN["int8"], name="mine", parity=ParityLimits(min_top1_agreement=0.97, max_kl=0.002))
    generation.check_limits(own)
    limits = generation.limits(own)
    assert (limits.max_abs_error, limits.mean_kl, limits.top1_agreement) == (None, 0.002, 0.97)
    found = measured("llava", own)
    assert (found["mean_kl"].limit, found["top1_agreement"].limit) == (0.002, 0.97)
    assert found["perplexity"].limit is not None
    loose = replace(own, parity=ParityLimits(min_top1_agreement=0.5))
    assert measured("llava", loose)["perplexity"].limit is None
    for recipe in (
        replace(own, parity=ParityLimits(min_cosine=0.9)),
        replace(BUILTIN["fp32"], name="mine", weights=BUILTIN["int8"].weights),  # whose limits are another precision's
    ):
        with pytest.raises(RecipeError, match=r"recipe mine: parity\.min_cosine: expected limits of logits"):
            generation.check_limits(recipe)
        generation.limits(recipe)  # as of a bundle that was made before


def test_limits_of_the_other_kind_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    of_encoders = replace(BUILTIN["fp16"], name="mine", parity=ParityLimits(min_cosine=0.9))
    with pytest.raises(RecipeError, match=r"recipe mine: parity\.min_cosine"):
        edgevlm.convert(library.talker_checkpoint("blip"), target="tflite", recipe=of_encoders, out=tmp_path)
    of_talkers = replace(BUILTIN["fp16"], name="mine", parity=ParityLimits(max_kl=0.1))
    with pytest.raises(RecipeError, match=r"recipe mine: parity\.max_kl: expected limits of embeddings"):
        edgevlm.convert(target="tflite", recipe=of_talkers, out=tmp_path)
    file = tmp_path / "mine.yaml"
    file.write_text("precision: fp16\nparity:\n  max_kl: 2\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"parity\.max_kl: expected a number from 0 to 1, got 2"):
        Recipe.load(file)
    assert [each.name for each in tmp_path.iterdir()] == ["mine.yaml"]


def test_the_divergence_of_what_is_not_kept_is_of_all_together() -> None:
    """Of flat logits: what leaves the kept tokens for the others is no divergence of the first order."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1, 5000)
    kept = np.argsort(-logits)[:KEPT]
    step = GoldenStep(tuple(kept.tolist()), tuple(logits[kept].tolist()), log_sum_exp(logits))
    found = logits.copy()
    found[kept] += 1e-4
    shares, others = (np.exp(each - log_sum_exp(each)) for each in (logits, found))
    true = float((shares * np.log(shares / others)).sum())
    _, divergence, _ = generation.compare(step, found)
    assert true < 1e-9
    assert divergence == pytest.approx(true, abs=1e-9)
    found = logits.copy()
    found[kept[0]] += 3  # and what is one is seen
    others = np.exp(found - log_sum_exp(found))
    true = float((shares * np.log(shares / others)).sum())
    assert generation.compare(step, found)[1] == pytest.approx(true, rel=1e-3)
