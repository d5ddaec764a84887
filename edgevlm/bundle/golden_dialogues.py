"""What `golden/golden.json` holds of a model that talks: dialogues, and the original's answers, step by step.

A test on a device walks picture -> features, dialogue -> text -> ids -> logits -> token -> text, and finds the first
stage that differs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgevlm import schema
from edgevlm.bundle.golden import GOLDEN
from edgevlm.bundle.recipe import Recipe, usual_limits
from edgevlm.bundle.spec import TokenId
from edgevlm.errors import BundleError

SCHEMA_VERSION = 3
KEPT = 64
"""Logits of a step: the largest."""
TIE = 1e-3
"""Logits of the original closer than this are equal."""
_LEAST = 5


@dataclass(frozen=True)
class Limits:
    """How far an artefact may be from the original.

    Attributes:
        max_abs_error: Of a logit among the original's 64 largest; None sets none.
        mean_kl: Mean Kullback-Leibler divergence of the next token's probabilities, in nats, of those 64 and all
            others as one; of compressed weights also of the original's answers, whose perplexity may be `exp(mean_kl)`
            times the original's.
        top1_agreement: Least share with the same most probable token, of the steps at which the original's is ahead of
            the next by `margin`.
        same_answers: Least share of answers that are the same to the end, ties aside.
        same_tokens: Least share of the original's tokens that its own answers begin with, ties aside.
        margin: Difference of two logits; log(2) is twice the probability.
    """

    max_abs_error: float | None
    mean_kl: float | None
    top1_agreement: float | None
    same_answers: float | None = None
    same_tokens: float | None = None
    margin: float = math.log(2)


def limits(recipe: Recipe) -> Limits:
    """What a recipe allows: what its `parity` says where that is its own, and what suits its precision else."""
    if recipe.weights.dtype == "int4":
        usual = Limits(None, 0.5, 0.75)
    elif recipe.weights.dtype != "float" or recipe.weights.sparsity:
        usual = Limits(None, 0.1, 0.85)
    elif recipe.precision == "fp16":
        usual = Limits(None, 0.01, 0.9, same_tokens=0.5)
    else:
        usual = Limits(1e-3, 1e-6, 1.0, 1.0, 1.0, TIE)
    own = recipe.parity
    if own == usual_limits(recipe):
        return usual
    return replace(usual, max_abs_error=own.max_abs_error, mean_kl=own.max_kl, top1_agreement=own.min_top1_agreement)


@dataclass(frozen=True)
class GoldenStep:
    """What the original makes of what was said so far.

    Attributes:
        token_ids: Of the 64 largest logits, the largest first.
        logits: These.
        logsumexp: Logarithm of the sum of `exp` of all logits: what a logit is less it is a log-probability.
    """

    token_ids: tuple[TokenId, ...]
    logits: tuple[float, ...]
    logsumexp: float


@dataclass(frozen=True)
class GoldenDialogue:
    """A question, and the original's greedy answer.

    Attributes:
        picture: Path of the picture in the bundle; None where there is none.
        question: What is asked.
        text: The dialogue written out, the picture spelled.
        token_ids: Of the text, with those that every text begins with.
        answer_ids: Of the answer.
        answer: Its text.
        steps: A step before each token of the answer.
    """

    picture: str | None
    question: str
    text: str
    token_ids: tuple[TokenId, ...]
    answer_ids: tuple[TokenId, ...]
    answer: str
    steps: tuple[GoldenStep, ...]


@dataclass(frozen=True)
class GoldenConversation:
    """Several turns, written out: how, and not what a model would say.

    Attributes:
        system: The system text; None where there is none.
        picture: Path of the picture that the first question shows; None where it shows none.
        said: By the user and the model in turn, the last by the user.
        text: The conversation written out, the picture spelled.
        token_ids: Of the text, with those that every text begins with.
        last_ids: Of the last question, as it is put behind the answer before it where a state has all until there.
    """

    system: str | None
    picture: str | None
    said: tuple[str, ...]
    text: str
    token_ids: tuple[TokenId, ...]
    last_ids: tuple[TokenId, ...]


@dataclass(frozen=True)
class GoldenDialogues:
    """What `golden.json` holds of a model that talks.

    Attributes:
        schema_version: Of this file: 3.
        dialogues: What was asked: five or more, two pictures of one question among them.
        pixels: Of each picture, by its path, the sha256 of what `encode_image` takes of it, its tiles one behind the
            other, as uint8 [N, 3, H, W], in hexadecimal.
        conversations: With a picture and without, and with a system text where the model has a place for one; empty
            where it has no chat template.
    """

    schema_version: int
    dialogues: tuple[GoldenDialogue, ...]
    pixels: Mapping[str, str]
    conversations: tuple[GoldenConversation, ...] = field(default=(), metadata={"since": "2.1"})


def write(folder: Path, golden: GoldenDialogues) -> None:
    """Writes a bundle's file."""
    (folder / GOLDEN).parent.mkdir(exist_ok=True)
    text = json.dumps(schema.write(golden), ensure_ascii=False)
    (folder / GOLDEN).write_text(text + "\n", encoding="utf-8")


def read(folder: Path, *, newer: bool) -> GoldenDialogues:
    """Reads a bundle's file.

    Args:
        folder: The bundle's.
        newer: Whether the bundle is of a newer minor version of the format, whose keys are left out.

    Raises:
        BundleError: it is missing, damaged, of another version, or has no dialogue.
    """
    path = folder / GOLDEN
    if not path.is_file():
        raise BundleError(
            f"{folder}: expected {GOLDEN}, which the artefact is held against, got no such file",
            hint="a bundle that was exported for an app has none: verify the one that it was made of",
        )
    hint = "copy the bundle again, or convert the model again"
    data = schema.read_json(path, error=BundleError, hint=hint, encoding="utf-8")
    found = schema.read(GoldenDialogues, data, where=str(path), error=BundleError, ignored=[] if newer else None)
    if found.schema_version != SCHEMA_VERSION:
        raise BundleError(f"{path}: expected schema_version {SCHEMA_VERSION}, got {found.schema_version}", hint=hint)
    for number, dialogue in enumerate(found.dialogues):
        steps = dialogue.steps
        whole = all(map(_is_whole, steps))
        if not steps or len(steps) != len(dialogue.answer_ids) or not whole or max(dialogue.answer_ids) >= 1 << 31:
            raise BundleError(f"{path}: dialogues[{number}]: expected a step for each token of the answer", hint=hint)
    if any(len(each.said) % 2 == 0 for each in found.conversations):
        raise BundleError(f"{path}: conversations: expected the user to begin and to end each", hint=hint)
    shown = {(each.picture, each.question) for each in found.dialogues if each.picture is not None}
    if len(found.dialogues) < _LEAST or len({question for _, question in shown}) == len(shown):
        raise BundleError(
            f"{path}: expected {_LEAST} dialogues or more, two pictures of one question among them, got "
            f"{len(found.dialogues)}",
            hint=hint,
        )
    if {picture for picture, _ in shown} != found.pixels.keys():
        raise BundleError(f"{path}: pixels: expected those of each picture that is asked about", hint=hint)
    return found


def _is_whole(step: GoldenStep) -> bool:
    """Whether it can be: logits in their order, and a sum over at least these and at most 2^31."""
    logits = step.logits
    return (
        len(logits) == len(step.token_ids) > 0
        and list(logits) == sorted(logits, reverse=True)
        and logits[0] - 1e-3 <= step.logsumexp <= logits[0] + math.log(1 << 31)
    )
