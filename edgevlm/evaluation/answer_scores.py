"""How right a short answer is, by the rules of benchmarks: VQAv2, GQA, ChartQA, DocVQA; and yes or no as POPE counts.

Every rule gives 0..1 for an answer, and a benchmark's figure is the mean.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgevlm.errors import DataError

_AGREE = 3
"""People that have to give an answer for it to be wholly right, by VQAv2's rule."""
_NEAR = 0.05
"""By how much a number may be off, by ChartQA's rule."""
_LIKE = 0.5
"""The least likeness that counts, by DocVQA's rule."""
_ARTICLES = frozenset(("a", "an", "the"))
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {"none": "0", **{word: str(number) for number, word in enumerate(_NUMBERS)}}
_NOT = (
    *(
        "ai",
        "are",
        "ca",
        "could",
        "did",
        "does",
        "do",
        "had",
        "has",
        "have",
        "is",
        "might",
        "must",
        "need",
        "sha",
        "should",
        "was",
        "were",
        "wo",
        "would",
    ),
    *(),
)
_WHO = {
    "I": "m ve",
    "you": "d ll re ve",
    "he": "s",
    "she": "s",
    "it": "d ll",
    "they": "d ll re ve",
    "we": "ve",
    "that": "d ll s",
    "there": "d re s",
    "what": "d ll re s ve",
    "when": "d s",
    "where": "d s ve",
    "who": "d ll s ve",
    "why": "d ll re s",
    "how": "d ll s",
    "somebody": "s",
    "someone": "s",
    "could": "ve",
    "might": "ve",
    "must": "ve",
    "should": "ve",
    "would": "ve",
}
_CONTRACTIONS = {
    word.replace("'", "").lower(): word.lower()
    for word in (
        *(f"{verb}n't" for verb in _NOT),
        *(f"{who}'{end}" for who, ends in _WHO.items() for end in ends.split()),
        *("let's", "ma'am", "o'clock", "y'all", "'twas"),
    )
}
"""Those whose letters are no word without the apostrophe (`it's` is not among them), in the form that has it."""
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_NUMBER_COMMA = re.compile(r"(\d),(\d)")
_LOOSE_PERIOD = re.compile(r"\.(?!\d)")
_NO = frozenset(("no", "not"))


def normalise(answer: str) -> str:
    """An answer as VQAv2 compares it: lower case, no punctuation or articles, digits for number words.

    A mark of punctuation goes where it stands beside a blank, and is one itself where it does not: `red/blue` is two
    words. (https://visualqa.org/evaluation.html; commas within numbers go, a period stays before a digit alone.)

    >>> normalise("The two dogs, isnt it?")
    "2 dogs isn't it"
    """
    text = " ".join(answer.lower().split())
    joined = bool(_NUMBER_COMMA.search(text))
    for mark in _PUNCTUATION:
        beside = joined or f"{mark} " in f"{text} " or f" {mark}" in f" {text}"
        text = text.replace(mark, "" if beside else " ")
    words = (_DIGITS.get(word, word) for word in _LOOSE_PERIOD.sub("", text).split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, people: Sequence[str]) -> float:
    """VQAv2's rule: as right as people agree, three of whom make it wholly right (Goyal et al., 2017,
    https://arxiv.org/abs/1612.00837).

    Each of the people is left out in turn, and the answer is worth a third for each of the others who gave it, one at
    most. Both sides are normalised always: the official script leaves answers alone where all people say the same.

    >>> round(vqa_accuracy("two", ["2"] * 3 + ["3"] * 7), 3)
    0.9

    Args:
        answer: The model's.
        people: Theirs, ten for VQAv2.

    Raises:
        DataError: nobody has answered.
    """
    if not people:
        raise DataError("expected people's answers to a question, got none")
    said, known = normalise(answer), [normalise(each) for each in people]
    same = known.count(said)
    shares = [min(1.0, (same - (each == said)) / _AGREE) for each in known]
    return sum(shares) / len(shares)


def exact(answer: str, expected: str) -> float:
    """1 where both are the same, normalised: GQA's rule (Hudson, Manning, 2019, https://arxiv.org/abs/1902.09506)."""
    return float(normalise(answer) == normalise(expected))


def relaxed(answer: str, expected: str) -> float:
    """1 where a number is within 5 %, and else where both are the same in lower case: ChartQA's rule (Masry et al.,
    2022, https://arxiv.org/abs/2203.10244).

    >>> relaxed("10.4", "10"), relaxed("10.6", "10"), relaxed("Blue ", "blue")
    (1.0, 0.0, 1.0)
    """
    got, wanted = _number(answer), _number(expected)
    if got is not None and wanted:
        return float(abs(got - wanted) <= _NEAR * abs(wanted))
    return float(answer.strip().lower() == expected.strip().lower())


def _number(text: str) -> float | None:
    """A number, or a percentage as its hundredth part; None for what is neither."""
    text = text.strip()
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None


def anls(answer: str, expected: Sequence[str]) -> float:
    """Normalised Levenshtein similarity to the likest of the right answers, 0 below a half: DocVQA's rule.

    Biten et al., 2019, https://arxiv.org/abs/1905.13648.

    >>> round(anls("edge vlm", ["EdgeVLM", "none"]), 3), anls("cat", ["dog"])
    (0.875, 0.0)

    Raises:
        DataError: there is no right answer.
    """
    if not expected:
        raise DataError("expected right answers to a question, got none")
    likeness = max(_likeness(" ".join(answer.lower().split()), " ".join(each.lower().split())) for each in expected)
    return likeness if likeness >= _LIKE else 0.0


def _likeness(one: str, other: str) -> float:
    longest = max(len(one), len(other))
    return 1.0 if not longest else 1 - _edits(one, other) / longest


def _edits(one: str, other: str) -> int:
    """The Levenshtein distance: characters to put in, take out or change."""
    row = list(range(len(other) + 1))
    for number, character in enumerate(one, 1):
        before, row[0] = row[0], number
        for place, beside in enumerate(other, 1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (character != beside))
    return row[-1]


# Yes or no


@dataclass(frozen=True)
class YesNo:
    """Of questions that are answered yes or no; see `score_yes_no`.

    Attributes:
        accuracy: Share that is right.
        precision: Of the answers yes, the share that is right; 0 where there is none.
        recall: Of the questions whose answer is yes, the share that got it.
        f1: The harmonic mean of the two.
        yes_ratio: Share of the answers that are yes.
    """

    accuracy: float
    precision: float
    recall: float
    f1: float
    yes_ratio: float


def says_yes(answer: str) -> bool:
    """Whether POPE's script takes an answer for yes: all but those whose first sentence has a word no or not.

    Li et al., 2023, https://arxiv.org/abs/2305.10355.

    >>> says_yes("There is no dog. Yes."), says_yes("I cannot tell")
    (False, True)
    """
    words = answer.split(".")[0].replace(",", "").split(" ")
    return not any(word == "No" or word in _NO for word in words)


def score_yes_no(answers: Sequence[str], expected: Sequence[bool]) -> YesNo:
    """POPE's figures.

    Args:
        answers: The model's, as it said them.
        expected: Whether yes is right.

    Raises:
        DataError: no answers, or another number of them.
    """
    if len(answers) != len(expected) or not answers:
        raise DataError(f"expected an answer to each of {len(expected)} questions, got {len(answers)}")
    said = [says_yes(each) for each in answers]
    both = sum(got and wanted for got, wanted in zip(said, expected, strict=True))
    precision, recall = both / max(sum(said), 1), both / max(sum(expected), 1)
    return YesNo(
        accuracy=sum(got == wanted for got, wanted in zip(said, expected, strict=True)) / len(said),
        precision=precision,
        recall=recall,
        f1=2 * precision * recall / (precision + recall) if both else 0.0,
        yes_ratio=sum(said) / len(said),
    )
