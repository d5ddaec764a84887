"""Judges a model's answers by the rule of the benchmark that asked, with intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgevlm.data.questions import Form, PictureQuestion, Questions
from edgevlm.errors import DataError, ImageError
from edgevlm.evaluation.answer_scores import YesNo, anls, exact, relaxed, score_yes_no, vqa_accuracy
from edgevlm.evaluation.asking import said_letter
from edgevlm.evaluation.caption_scores import CaptionScores, score_captions

RULES: Mapping[Form, str] = {
    "vqa": "people who agree",
    "gqa": "exact",
    "pope": "yes or no",
    "chartqa": "a number within 5 %, else exact",
    "docvqa": "ANLS",
    "choice": "the letter",
    "captions": "CIDEr-D",
}
_DRAWS = 2_000
"""Of a bootstrap."""
_SHARE = 0.95
"""Of the draws that an interval holds."""
_ROTATED_DIGITS = 6
"""MMBench's rotations of one question have indices whose last digits are the same, as many as these."""


@dataclass(frozen=True)
class Share:
    """A mean of questions' scores.

    Attributes:
        questions: How many.
        score: 0..1.
        low, high: Between which 95 % of the means of as many questions lie that are drawn from these, with replacement.
    """

    questions: int
    score: float
    low: float
    high: float


@dataclass(frozen=True)
class Judged:
    """What a model's answers are worth.

    Attributes:
        rule: How each was judged.
        total: Over all questions; of captions, the mean of CIDEr-D, 0..10.
        by_category: Over those of each kind that the benchmark names.
        yes_no: Of questions that are answered yes or no, POPE's figures.
        circular: Of options in several orders, the questions that were answered rightly in each; None for others.
        captions: Of captions, all that is measured.
        unread: Answers that name no option, and so are wrong.
        letters: How often each letter was said, for one who says the same to all; empty for other questions.
        skipped: Key of each question whose picture cannot be read, and why; no part of any figure.
    """

    rule: str
    total: Share
    by_category: Mapping[str, Share]
    yes_no: YesNo | None
    circular: Share | None
    captions: CaptionScores | None
    unread: int
    letters: Mapping[str, int]
    skipped: Mapping[str, str]


def judge(data: Questions, answers: Mapping[str, str | ImageError]) -> Judged:
    """Judges answers.

    Args:
        data: The questions.
        answers: Of some or all of them, by key, or why a picture cannot be read.

    Raises:
        DataError: no question was answered.
    """
    asked = [data[row] for row in range(len(data)) if data[row].key in answers]
    found = {each.key: answers[each.key] for each in asked}
    skipped = {key: each.message for key, each in found.items() if isinstance(each, ImageError)}
    said = {key: each for key, each in found.items() if isinstance(each, str)}
    questions = [each for each in asked if each.key in said]
    if not questions:
        raise DataError(f"{data.name}: expected answers, got none: no picture can be read")
    captions = None
    if data.form == "captions":
        captions = score_captions(said, {each.key: each.answers for each in questions})
        scores = [*captions.each_cider_d.values()]
    else:
        scores = [_score(data.form, each, said[each.key]) for each in questions]
    kinds: dict[str, list[float]] = defaultdict(list)
    for question, score in zip(questions, scores, strict=True):
        if question.category is not None:
            kinds[question.category].append(score)
    picked = [said_letter(said[each.key], each) for each in questions] if data.form == "choice" else []
    return Judged(
        rule=RULES[data.form],
        total=mean(scores),
        by_category={kind: mean(each) for kind, each in sorted(kinds.items())},
        yes_no=_yes_no(questions, said) if data.form == "pope" else None,
        circular=_circular(questions, scores) if data.form == "choice" else None,
        captions=captions,
        unread=picked.count(None),
        letters={letter: picked.count(letter) for letter in sorted({each for each in picked if each is not None})},
        skipped=skipped,
    )


def mean(scores: Sequence[float]) -> Share:
    """A mean with its interval, by the bootstrap's percentiles; the same scores give the same interval."""
    values = np.asarray(scores, np.float64)
    rng = np.random.default_rng(0)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(_DRAWS)]
    low, high = np.quantile(means, ((1 - _SHARE) / 2, (1 + _SHARE) / 2))
    return Share(len(values), float(values.mean()), float(low), float(high))


def _score(form: Form, question: PictureQuestion, answer: str) -> float:
    if form == "vqa":
        return vqa_accuracy(answer, question.answers)
    if form == "docvqa":
        return anls(answer, question.answers)
    (expected,) = question.answers
    if form == "choice":
        return float(said_letter(answer, question) == expected)
    if form == "pope":
        return score_yes_no([answer], [expected == "yes"]).accuracy
    return relaxed(answer, expected) if form == "chartqa" else exact(answer, expected)


def _yes_no(questions: Sequence[PictureQuestion], said: Mapping[str, str]) -> YesNo:
    return score_yes_no([said[each.key] for each in questions], [each.answers == ("yes",) for each in questions])


def _circular(questions: Sequence[PictureQuestion], scores: Sequence[float]) -> Share | None:
    """Of the questions that are asked in several orders of their options; None where none is."""
    orders: dict[str, list[float]] = defaultdict(list)
    for question, score in zip(questions, scores, strict=True):
        key = str(int(question.key[-_ROTATED_DIGITS:])) if question.key.isdecimal() else question.key
        orders[key].append(score)
    several = [min(each) for each in orders.values() if len(each) > 1]
    return mean(several) if several else None
