"""Does an artefact that talks say what the original says: logits along the original's answers, and answers of its own.

Along the original's answer every step is compared, so that one tie does not spoil the rest; an answer of its own shows
what a user will read.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from edgevlm.bundle.dialogue import DECODE, Chat, Tiling
from edgevlm.bundle.golden import FOLDER
from edgevlm.bundle.golden_dialogues import (
    KEPT,
    SCHEMA_VERSION,
    TIE,
    GoldenConversation,
    GoldenDialogue,
    GoldenDialogues,
    GoldenStep,
    limits,
)
from edgevlm.bundle.manifest import ParityCheck, ParityReport
from edgevlm.bundle.recipe import Recipe, usual_limits
from edgevlm.bundle.spec import F32
from edgevlm.data.scenes import Scenes
from edgevlm.errors import BundleError, InputError, RecipeError
from edgevlm.inference.decoding import log_likelihood, log_sum_exp
from edgevlm.inference.generator import Generator, Seen
from edgevlm.inputs.chat import Message, Written, go_on, write
from edgevlm.inputs.pictures import Picture
from edgevlm.process.progress import Progress, silent

_SEED = 20_260_102
_TOKENS = 12
"""Of each answer."""
_LOOKED = 0.5
"""Of what a grey picture in another's place changed in the original, how much it must change in an artefact."""
_ROUNDED = 1e-6
"""What rounding alone changes in logits: an original that a grey picture moves by no more does not look at it."""
_NO_SHARE = 1e-12
"""Of all tokens together whose logits are not kept, at least: what rounding leaves of none."""
_LARGEST_LOG = 700.0
"""Whose exponential is a number still."""
_QUESTIONS = (
    "What is in this picture?",
    "How many shapes are there, and of which colours?",
    "Is there a circle? Answer yes or no.",
)
_BEGINNINGS = ("", "a picture of", "there are")
"""What a captioner goes on from."""
_SYSTEM = "Be brief."
_SAID = ("What is it?", "Three shapes, in a row.", " Na\u00efve \U0001f600 question: which colour?")
"""What a conversation is written out with."""
_GREY, _FLAT = "grey.png", "flat.png"
_FOLLOWS, _AGAIN = ("What follows? ", "there are "), "one red circle and two blue stars, "
"""What a question that fills the context, or a caption, begins with; and what it repeats."""


def check_limits(recipe: Recipe) -> None:
    """Refuses limits of a recipe's own that say nothing of a model that talks.

    Raises:
        RecipeError: there are some.
    """
    if recipe.parity.min_cosine is not None and recipe.parity != usual_limits(recipe):
        raise RecipeError(
            f"recipe {recipe.name}: parity.min_cosine: expected limits of logits, since the model talks and has no "
            f"embeddings, got {recipe.parity.min_cosine:g}",
            hint="max_kl, max_abs_error and min_top1_agreement are what its answers are held to; without parity, what "
            "suits the recipe's precision",
        )


def golden_pictures(tiling: Tiling | None) -> dict[str, Image.Image]:
    """File name -> what is asked about: drawn scenes of several shapes, and a grey picture, which shows nothing.

    They are long, since a model that cuts pictures cuts a square into the most tiles, each of which is encoded: at
    SmolVLM's size 17, and 19 of these three. Only the tall one has several rows and columns of them; the grey one's
    are all the same.

    Args:
        tiling: How pictures are cut; a grid has several rows and columns where its sides are as two to three.
    """
    flat, tall = (Image.fromarray(pixels) for pixels in Scenes(_SEED, size=160).batch(0, 2).pixels)
    left, right = (26, 133) if tiling is not None and tiling.grid is not None else (42, 117)
    return {
        "tall.png": tall.crop((left, 0, right, 160)),
        _FLAT: flat.crop((0, 60, 160, 100)),
        _GREY: Image.new("RGB", (160, 40), (128, 128, 128)),
    }


def is_grey(picture: str | None) -> bool:
    """Whether a golden picture, by its path, is the one that shows nothing."""
    return picture is not None and Path(picture).name == _GREY


class Asked:
    """A model that is asked about golden pictures, each of which it sees once, as it follows each answer once.

    Args:
        model: The original, or an artefact.
        find: The picture that golden.json has a name for.
    """

    def __init__(self, model: Generator, find: Callable[[str], Picture]) -> None:
        self.model = model
        self._find = find
        self._seen: dict[str, Seen] = {}
        self._followed: dict[tuple[object, ...], tuple[Seen | None, F32]] = {}

    def write(self, picture: str | None, question: str) -> tuple[Written, Seen | None]:
        """The ids of a question, and the picture that it is about."""
        if picture is not None and picture not in self._seen:
            self._seen[picture] = self.model.see(self._find(picture))
        seen = None if picture is None else self._seen[picture]
        return self.model.write([Message("user", question, 0 if seen is None else 1)], seen), seen

    @property
    def pixels(self) -> dict[str, str]:
        """Of each picture that was seen, the sha256 of its pixels; see `GoldenDialogues`."""
        return {
            name: hashlib.sha256(seen.pixels.round().astype(np.uint8).tobytes()).hexdigest()
            for name, seen in self._seen.items()
        }

    def converse(self, system: str | None, said: tuple[str, ...], picture: str | None) -> GoldenConversation:
        """Turns of the user and the model written out, a picture with the first; nobody is asked."""
        told = [Message("user" if number % 2 == 0 else "assistant", text) for number, text in enumerate(said)]
        if picture is not None:
            told[0] = replace(told[0], pictures=1)
        if system is not None:
            told = [Message("system", system), *told]
        model = self.model
        cuts = [] if picture is None else [model.cut(self._find(picture))[1]]
        written = write(model.dialogue, told, cuts, model.tokenizer)
        last = go_on(model.dialogue, said[-1], model.tokenizer)
        return GoldenConversation(system, picture, said, written.text, written.ids, tuple(last))

    def follow(self, written: Written, seen: Seen | None, answer_ids: Sequence[int]) -> F32:
        """Logits before each token of a given answer, float32 [T, V]."""
        known = (written.ids, id(seen), *answer_ids[:-1])
        if known not in self._followed:
            place = self.model.place()
            found = [self.model.begin(place, written, seen)]
            for token_id in answer_ids[:-1]:
                found.append(place.put([token_id]))
            self._followed[known] = seen, np.stack(found)  # kept with its logits, so that no other has its id
        return self._followed[known][1]


def write_pictures(folder: Path, tiling: Tiling | None) -> None:
    """Writes what is asked about into a bundle's `golden/`; see `golden_pictures`."""
    (folder / FOLDER).mkdir(exist_ok=True)
    for name, picture in golden_pictures(tiling).items():
        picture.save(folder / FOLDER / name)


def make(original: Generator, progress: Progress = silent) -> GoldenDialogues:
    """Asks the original.

    The last dialogue begins with a picture and reaches the far end of the context: what is computed wrongly from large
    positions, short ones do not show.

    Args:
        original: The float model.
        progress: Told how far it is.
    """
    pictures = {f"{FOLDER}/{name}": picture for name, picture in golden_pictures(original.dialogue.tiling).items()}
    model = Asked(original, pictures.__getitem__)
    asked, found = _asked_about(model, tuple(pictures)), []
    for number, (shown, question) in enumerate(asked):
        progress("asking the original", number / len(asked))
        found.append(answer(model, shown, question))
    _, flat, _ = pictures
    return GoldenDialogues(SCHEMA_VERSION, tuple(found), model.pixels, _conversations(model, flat))


def golden_questions(original: Generator) -> list[tuple[Picture | None, str]]:
    """The pictures and questions of golden dialogues, without answers: what ranges are measured on, too."""
    pictures = golden_pictures(original.dialogue.tiling)
    asked = _asked_about(Asked(original, pictures.__getitem__), tuple(pictures))
    return [(None if shown is None else pictures[shown], question) for shown, question in asked]


def _asked_about(model: Asked, pictures: tuple[str, ...]) -> list[tuple[str | None, str]]:
    """Names of pictures, and what is asked about each; the last reaches the far end of the context."""
    chat = model.model.dialogue.chat
    first, second, third = _QUESTIONS if chat is not None else _BEGINNINGS
    tall, flat, grey = pictures
    asked: list[tuple[str | None, str]] = [(tall, first), (flat, second), (grey, second), (flat, third)]
    if chat is not None:
        asked.append((None, "What colours does a rainbow have?"))
    return [*asked, (flat, _long_question(model, flat))]


def measure(
    model: Asked, golden: GoldenDialogues, where: Path, recipe: Recipe, evidence: str, progress: Progress = silent
) -> ParityReport:
    """Asks an artefact the same.

    Args:
        model: The artefact.
        golden: What the original answered.
        where: The bundle, for errors.
        recipe: Whose limits hold.
        evidence: What asking it proves.
        progress: Told how far it is.

    Raises:
        BundleError: golden.json has other pixels, texts, ids or ends than the manifest's rules make.
    """
    _check_conversations(model, golden, where)
    allowed = limits(recipe)
    errors, divergences, agreements, finite = [], [], [], []
    begins, lengths = list[int](), list[int]()
    surprise: list[tuple[float, float]] = []
    first: dict[tuple[str, str], F32] = {}
    for number, dialogue in enumerate(golden.dialogues):
        progress("asking the artefact", number / len(golden.dialogues))
        written, seen = model.write(dialogue.picture, dialogue.question)
        if (written.text, written.ids) != (dialogue.text, dialogue.token_ids):
            raise BundleError(
                f"{where}: golden: {dialogue.question[:60]!r}: the manifest's rules write another text, or other ids, "
                "than golden.json has"
            )
        _check_words(model.model, dialogue, where)
        logits = model.follow(written, seen, dialogue.answer_ids)
        if max(*dialogue.answer_ids, *(max(step.token_ids) for step in dialogue.steps)) >= logits.shape[1]:
            raise BundleError(
                f"{where}: golden: expected ids below {logits.shape[1]:,}, as there are logits, got others"
            )
        finite.append(float(np.isfinite(logits).mean()))
        if finite[-1] < 1:
            continue
        if dialogue.picture is not None:
            first[dialogue.picture, dialogue.question] = logits[0]
        for step, token_id, got in zip(dialogue.steps, dialogue.answer_ids, logits, strict=True):
            error, divergence, agrees = compare(step, got)
            errors.append(error)
            divergences.append(divergence)
            surprise.append((step.logsumexp - step.logits[0], -log_likelihood(got, token_id)))
            if step.logits[0] - max(step.logits[1:], default=-math.inf) >= allowed.margin:
                agreements.append(agrees)
        begins.append(_same_tokens(dialogue, logits))
        lengths.append(len(dialogue.answer_ids))
    others = [name for name, pixels in model.pixels.items() if golden.pixels[name] != pixels]
    if others:
        raise BundleError(
            f"{where}: golden: {others[0]}: the manifest's rules make other pixels of it than golden.json has"
        )
    checks = [ParityCheck.of(DECODE, "finite", min(finite, default=0.0), 1.0)]
    if errors:
        agreement = float(np.mean(agreements)) if agreements else 1.0
        checks += [
            ParityCheck.of(DECODE, "max_abs_error", max(errors), allowed.max_abs_error),
            ParityCheck.of(DECODE, "mean_kl", float(np.mean(divergences)), allowed.mean_kl),
            ParityCheck.of(DECODE, "top1_agreement", agreement, allowed.top1_agreement),
            ParityCheck.of(DECODE, "same_answers", float(np.mean(np.equal(begins, lengths))), allowed.same_answers),
            ParityCheck.of(DECODE, "same_tokens", sum(begins) / sum(lengths), allowed.same_tokens),
            _picture_matters(golden, first),
        ]
        if recipe.weights.dtype != "float" or recipe.weights.sparsity:
            checks.append(_perplexity(surprise, allowed.mean_kl))
    return ParityReport(evidence, len(golden.dialogues), tuple(checks))


def kinds_of_conversation(chat: Chat) -> list[tuple[bool, bool]]:
    """Whether one has a system text, and whether it has a picture: of each kind that golden.json has one of."""
    if chat.assistant is None:
        return []
    return [(False, False), (False, True), *([(True, True)] if chat.system is not None else [])]


def _conversations(model: Asked, picture: str) -> tuple[GoldenConversation, ...]:
    """Written out by the original's rules: what second turns and system texts are is nowhere else in golden.json."""
    chat = model.model.dialogue.chat
    if chat is None:
        return ()
    return tuple(
        model.converse(_SYSTEM if has_system else None, _SAID, picture if has_picture else None)
        for has_system, has_picture in kinds_of_conversation(chat)
    )


def answer(asked: Asked, picture: str | None, question: str) -> GoldenDialogue:
    """A question, and what the original says, step by step.

    Args:
        asked: The original.
        picture: By the name that it is found by.
        question: About it.
    """
    original = asked.model
    written, seen = asked.write(picture, question)
    place = original.place()
    logits = original.begin(place, written, seen)
    ids: list[int] = []
    steps: list[GoldenStep] = []
    while len(ids) < _TOKENS:
        largest = np.argsort(-logits, kind="stable")[:KEPT]
        steps.append(GoldenStep(tuple(largest.tolist()), tuple(logits[largest].tolist()), log_sum_exp(logits)))
        ids.append(int(largest[0]))
        if ids[-1] in original.dialogue.end_ids or place.left < 1:
            break
        logits = place.put([ids[-1]])
    said = [each for each in ids if each not in original.dialogue.end_ids]
    return GoldenDialogue(
        picture, question, written.text, written.ids, tuple(ids), original.tokenizer.text(said), tuple(steps)
    )


def _long_question(model: Asked, picture: str) -> str:
    """One about a picture that leaves just enough of the context for an answer, or that is as long as one may be."""
    decode = model.model.specs[DECODE]
    room = model.model.dialogue.context_length - _TOKENS
    if decode.prefix:
        room = min(room, decode.lengths[-1])
    question = _FOLLOWS[model.model.dialogue.chat is None]
    while len(model.write(picture, question + _AGAIN)[0].ids) <= room:
        question += _AGAIN
    return question


def _check_conversations(model: Asked, golden: GoldenDialogues, where: Path) -> None:
    """Refuses conversations that the manifest's rules write otherwise, or not at all."""
    for each in golden.conversations:
        try:
            same = model.converse(each.system, each.said, each.picture) == each
        except InputError:  # no chat template, or none with a system text
            same = False
        if not same:
            raise BundleError(
                f"{where}: golden: {each.said[-1][:60]!r}: the manifest's rules write another conversation, or other "
                "ids, than golden.json has"
            )


def _check_words(model: Generator, dialogue: GoldenDialogue, where: Path) -> None:
    """Refuses an answer whose text, or whose end, is not what the manifest's rules make of its ids."""
    ids, ends = dialogue.answer_ids, frozenset(model.dialogue.end_ids)
    said = ids[:-1] if ids[-1] in ends else ids
    if ends & {*said} or model.tokenizer.text(said) != dialogue.answer:
        raise BundleError(
            f"{where}: golden: {dialogue.question[:60]!r}: the manifest's rules end the answer elsewhere, or make "
            "another text of its ids, than golden.json has"
        )


def compare(step: GoldenStep, got: F32) -> tuple[float, float, bool]:
    """The largest error of a kept logit, the divergence, and whether the most probable token is the same.

    Of tokens whose logits are not kept, the divergence is of all together: without them, what small errors move from
    the kept ones to these, and back, would not cancel out, and be more than the divergence itself.
    """
    expected = np.array(step.logits, np.float64)
    found = got[list(step.token_ids)].astype(np.float64)
    shares, own_shares = np.exp(expected - step.logsumexp), np.exp(found - log_sum_exp(got))
    others, own_others = (max(1 - float(each.sum()), _NO_SHARE) for each in (shares, own_shares))
    divergence = float((shares * ((expected - step.logsumexp) - (found - log_sum_exp(got)))).sum())
    divergence += others * math.log(others / own_others)
    picked = int(got.argmax())
    tied = [token for token, logit in zip(step.token_ids, step.logits, strict=True) if logit >= expected[0] - TIE]
    return float(np.abs(found - expected).max()), max(divergence, 0.0), picked in tied


def _same_tokens(dialogue: GoldenDialogue, logits: F32) -> int:
    """How many of the original's tokens the artefact's own answer begins with: all, where two tie at what differs.

    As long as it would have said the same, its own logits are those along the original's answer.
    """
    for place, (step, expected, got) in enumerate(zip(dialogue.steps, dialogue.answer_ids, logits, strict=True)):
        if int(got.argmax()) != expected:
            tied = len(step.logits) > 1 and step.logits[0] - step.logits[1] < TIE
            return len(dialogue.answer_ids) if tied else place
    return len(dialogue.answer_ids)


def _perplexity(surprise: Sequence[tuple[float, float]], kl: float | None) -> ParityCheck:
    """Of the original's answers to the artefact, beside what they are to the original itself."""
    own, got = (math.exp(min(float(np.mean(each)), _LARGEST_LOG)) for each in zip(*surprise, strict=True))
    return ParityCheck.of(DECODE, "perplexity", got, None if kl is None else own * math.exp(kl))


def _picture_matters(golden: GoldenDialogues, first: Mapping[tuple[str, str], F32]) -> ParityCheck:
    """By how much a grey picture changes the first logits, in another's place, where it does so least.

    An artefact that does not look at pictures says the same to each, and may be near the original in all else. The
    limit is a share of what the original's change at least, as far as golden.json has them; none where that is nothing.
    """
    steps = {
        (each.picture, each.question): each.steps[0]
        for each in golden.dialogues
        if each.picture is not None and (each.picture, each.question) in first  # others were no numbers
    }
    found = []
    for (grey, question), step in steps.items():
        for (picture, other), beside in steps.items():
            if question == other and grey != picture and is_grey(grey):
                changed = float(np.abs(first[grey, question] - first[picture, question]).max())
                found.append((changed, _least_change(step, beside)))
    changes = [(changed, own_change) for changed, own_change in found if own_change > _ROUNDED]
    if not changes:
        return ParityCheck.of(DECODE, "picture_matters", min((changed for changed, _ in found), default=0.0), None)
    changed, expected = min(changes, key=lambda two: two[0] / two[1])
    return ParityCheck.of(DECODE, "picture_matters", changed, _LOOKED * expected)


def _least_change(one: GoldenStep, other: GoldenStep) -> float:
    """By how much two steps' logits differ at least: those that only one of them has are below the other's smallest."""
    found = 0.0
    for here, there in ((one, other), (other, one)):
        known = dict(zip(there.token_ids, there.logits, strict=True))
        for token_id, logit in zip(here.token_ids, here.logits, strict=True):
            beside = known.get(token_id)
            found = max(found, logit - there.logits[-1] if beside is None else abs(logit - beside))
    return found
