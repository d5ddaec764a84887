"""Does an artefact that talks say what the original says: logits along the original's answers, and answers of its own.

Along the original's answer every step is compared, so that one tie does not spoil the rest; an answer of its own shows
what a user will read.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from edgevlm.bundle.golden import FOLDER
from edgevlm.bundle.golden_dialogues import KEPT, SCHEMA_VERSION, GoldenDialogue, GoldenDialogues, GoldenStep
from edgevlm.bundle.manifest import ParityCheck, ParityReport
from edgevlm.bundle.recipe import Recipe
from edgevlm.bundle.spec import F32
from edgevlm.data.scenes import Scenes
from edgevlm.errors import BundleError
from edgevlm.inference.generator import Generator, Seen
from edgevlm.inputs.chat import Message, Written
from edgevlm.inputs.pictures import Picture
from edgevlm.process.progress import Progress, silent

_SEED = 20_260_102
_TOKENS = 12
"""Of each answer."""
_TIE = 1e-3
"""Logits of the original closer than this are equal."""
_QUESTIONS = (
    "What is in this picture?",
    "How many shapes are there, and of which colours?",
    "Is there a circle? Answer yes or no.",
)
_BEGINNINGS = ("", "a picture of", "there are")
"""What a captioner goes on from."""


@dataclass(frozen=True)
class Limits:
    """How far an artefact may be from the original.

    Attributes:
        max_abs_error: Of a logit among the original's 64 largest; None sets none.
        kl: Mean Kullback-Leibler divergence of the next token's probabilities, in nats, as far as those 64 tell.
        top1_agreement: Least share with the same most probable token, of the steps at which the original's is ahead of
            the next by `margin`.
        same_tokens: Least share of answers that are the same to the end, ties aside.
        margin: Difference of two logits; log(2) is twice the probability.
    """

    max_abs_error: float | None
    kl: float
    top1_agreement: float
    same_tokens: float
    margin: float = math.log(2)


def limits(recipe: Recipe) -> Limits:
    """What a recipe allows."""
    if recipe.weights.dtype == "int4":
        return Limits(None, 0.5, 0.75, 0.0)
    if recipe.weights.dtype != "float" or recipe.weights.sparsity:
        return Limits(None, 0.1, 0.85, 0.0)
    return Limits(None, 0.01, 0.9, 0.0) if recipe.precision == "fp16" else Limits(1e-3, 1e-6, 1.0, 1.0, _TIE)


def golden_pictures() -> dict[str, Image.Image]:
    """File name -> what is asked about: drawn scenes of several shapes, and a grey picture, which shows nothing."""
    wide, tall, square = (Image.fromarray(pixels) for pixels in Scenes(_SEED, size=160).batch(0, 3).pixels)
    return {
        "wide.png": wide.crop((0, 30, 160, 127)),
        "tall.png": tall.crop((40, 0, 120, 160)),
        "square.png": square,
        "grey.png": Image.new("RGB", (160, 97), (128, 128, 128)),
    }


class Asked:
    """A model that is asked about golden pictures, each of which it sees once.

    Args:
        model: The original, or an artefact.
        find: The picture that golden.json has a name for.
    """

    def __init__(self, model: Generator, find: Callable[[str], Picture]) -> None:
        self.model = model
        self._find = find
        self._seen: dict[str, Seen] = {}

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

    def follow(self, written: Written, seen: Seen | None, answer_ids: Sequence[int]) -> F32:
        """Logits before each token of a given answer, float32 [T, V]."""
        place = self.model.place()
        found = [self.model.begin(place, written, seen)]
        for token_id in answer_ids[:-1]:
            found.append(place.put([token_id]))
        return np.stack(found)


def write_pictures(folder: Path) -> None:
    """Writes what is asked about into a bundle's `golden/`."""
    (folder / FOLDER).mkdir(exist_ok=True)
    for name, picture in golden_pictures().items():
        picture.save(folder / FOLDER / name)


def make(original: Generator, progress: Progress = silent) -> GoldenDialogues:
    """Asks the original.

    The last dialogue reaches the far end of the context: what is computed wrongly from large positions, short ones do
    not show.

    Args:
        original: The float model.
        progress: Told how far it is.
    """
    pictures = {f"{FOLDER}/{name}": picture for name, picture in golden_pictures().items()}
    model = Asked(original, pictures.__getitem__)
    questions = _QUESTIONS if original.dialogue.chat is not None else _BEGINNINGS
    asked: list[tuple[str | None, str]] = [
        (name, questions[number % len(questions)]) for number, name in enumerate(pictures)
    ]
    asked.append((f"{FOLDER}/square.png", questions[-2]))
    if original.dialogue.chat is not None:
        asked += [(None, "What colours does a rainbow have?"), (None, _long_question(original))]
    found = []
    for number, (shown, question) in enumerate(asked):
        progress("asking the original", number / len(asked))
        found.append(_answer(model, shown, question))
    return GoldenDialogues(SCHEMA_VERSION, tuple(found), model.pixels)


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
    allowed = limits(recipe)
    errors, divergences, agreements, same, finite = [], [], [], [], []
    first: dict[tuple[str | None, str], F32] = {}
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
        if max(max(step.token_ids) for step in dialogue.steps) >= logits.shape[1]:
            raise BundleError(
                f"{where}: golden: expected ids below {logits.shape[1]:,}, as there are logits, got others"
            )
        finite.append(float(np.isfinite(logits).mean()))
        if finite[-1] < 1:
            continue
        first[dialogue.picture, dialogue.question] = logits[0]
        for step, got in zip(dialogue.steps, logits, strict=True):
            error, divergence, agrees = _compare(step, got)
            errors.append(error)
            divergences.append(divergence)
            if step.logits[0] - max(step.logits[1:], default=-math.inf) >= allowed.margin:
                agreements.append(agrees)
        same.append(_is_same(dialogue, logits))
    others = [name for name, pixels in model.pixels.items() if golden.pixels[name] != pixels]
    if others:
        raise BundleError(
            f"{where}: golden: {others[0]}: the manifest's rules make other pixels of it than golden.json has"
        )
    checks = [_check("finite", min(finite, default=0.0), 1.0, least=True)]
    if errors:
        agreement = float(np.mean(agreements)) if agreements else 1.0
        checks += [
            _check("max_abs_error", max(errors), allowed.max_abs_error),
            _check("mean_kl", float(np.mean(divergences)), allowed.kl),
            _check("top1_agreement", agreement, allowed.top1_agreement, least=True),
            _check("same_answers", float(np.mean(same)), allowed.same_tokens, least=True),
            _check("picture_matters", _difference(first), 1e-6 if _looks(golden) else None, least=True),
        ]
    return ParityReport(evidence, len(golden.dialogues), tuple(checks))


def _answer(asked: Asked, picture: str | None, question: str) -> GoldenDialogue:
    original = asked.model
    written, seen = asked.write(picture, question)
    place = original.place()
    logits = original.begin(place, written, seen)
    ids: list[int] = []
    steps: list[GoldenStep] = []
    while len(ids) < _TOKENS:
        largest = np.argsort(-logits, kind="stable")[:KEPT]
        wide = logits.astype(np.float64)
        total = float(wide.max() + np.log(np.exp(wide - wide.max()).sum()))
        steps.append(GoldenStep(tuple(largest.tolist()), tuple(logits[largest].tolist()), total))
        ids.append(int(largest[0]))
        if ids[-1] in original.dialogue.end_ids or place.left < 1:
            break
        logits = place.put([ids[-1]])
    said = [each for each in ids if each not in original.dialogue.end_ids]
    return GoldenDialogue(
        picture, question, written.text, written.ids, tuple(ids), original.tokenizer.text(said), tuple(steps)
    )


def _long_question(original: Generator) -> str:
    """One that leaves just enough of the context for an answer."""
    room = original.dialogue.context_length - _TOKENS
    words, question = "one red circle and two blue stars, ", "What follows? "
    while len(original.write([Message("user", question + words)], None).ids) <= room:
        question += words
    return question


def _check_words(model: Generator, dialogue: GoldenDialogue, where: Path) -> None:
    """Refuses an answer whose text, or whose end, is not what the manifest's rules make of its ids."""
    ids, ends = dialogue.answer_ids, frozenset(model.dialogue.end_ids)
    said = ids[:-1] if ids[-1] in ends else ids
    if ends & {*said} or model.tokenizer.text(said) != dialogue.answer:
        raise BundleError(
            f"{where}: golden: {dialogue.question[:60]!r}: the manifest's rules end the answer elsewhere, or make "
            "another text of its ids, than golden.json has"
        )


def _compare(step: GoldenStep, got: F32) -> tuple[float, float, bool]:
    """The largest error of a kept logit, the divergence, and whether the most probable token is the same."""
    expected = np.array(step.logits, np.float64)
    found = got[list(step.token_ids)].astype(np.float64)
    largest = float(got.max())
    total = largest + math.log(float(np.exp(got.astype(np.float64) - largest).sum()))
    shares = np.exp(expected - step.logsumexp)
    divergence = float((shares * ((expected - step.logsumexp) - (found - total))).sum())
    picked = int(got.argmax())
    tied = [token for token, logit in zip(step.token_ids, step.logits, strict=True) if logit >= expected[0] - _TIE]
    return float(np.abs(found - expected).max()), max(divergence, 0.0), picked in tied


def _is_same(dialogue: GoldenDialogue, logits: F32) -> bool:
    """Whether the artefact's own answer is the original's, to its end or to a step that two tokens tie at.

    As long as it would have said the same, its own logits are those along the original's answer.
    """
    for step, expected, got in zip(dialogue.steps, dialogue.answer_ids, logits, strict=True):
        if int(got.argmax()) != expected:
            return len(step.logits) > 1 and step.logits[0] - step.logits[1] < _TIE
    return True


def _difference(first: Mapping[tuple[str | None, str], F32]) -> float:
    """By how much the first logits of an answer differ at most between two pictures of one question."""
    by_question: dict[str, list[F32]] = {}
    for (picture, question), logits in first.items():
        if picture is not None:
            by_question.setdefault(question, []).append(logits)
    return max(
        (float(np.abs(each[0] - other).max()) for each in by_question.values() for other in each[1:]), default=0.0
    )


def _looks(golden: GoldenDialogues) -> bool:
    """Whether the original's own answers differ between two pictures of one question."""
    seen: dict[str, set[tuple[float, ...]]] = {}
    for dialogue in golden.dialogues:
        if dialogue.picture is not None:
            seen.setdefault(dialogue.question, set()).add(dialogue.steps[0].logits)
    return any(len(each) > 1 for each in seen.values())


def _check(measure: str, value: float, limit: float | None, *, least: bool = False) -> ParityCheck:
    passed = limit is None or (value >= limit if least else value <= limit)
    return ParityCheck("decode", measure, value, limit, passed)
