"""How near written captions are to people's: BLEU-4, ROUGE-L and CIDEr-D, as papers about captioning report them.

BLEU: Papineni et al., 2002 (https://aclanthology.org/P02-1040). ROUGE-L: Lin, 2004 (https://aclanthology.org/W04-1013),
with COCO's beta of 1.2. CIDEr-D: Vedantam, Zitnick, Parikh, 2015 (https://arxiv.org/abs/1411.5726).

The numbers are those of the reference implementation, pycocoevalcap, on the same tokens; its own tokens are those of a
program in Java, which `tokens` comes near to.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgevlm.errors import DataError

_LONGEST = 4
"""Words in the longest n-gram that is compared."""
_TINY, _SMALL = 1e-15, 1e-9
"""What the reference implementation adds, so that no share is 0 and none is of nothing."""
_BETA = 1.2
"""How much more recall counts than precision in ROUGE-L."""
_SIGMA = 6.0
"""Of CIDEr-D's penalty for another length, in words."""
_CLITICS = re.compile(r"(n't|'(?:s|m|d|ll|re|ve))\b")
_WORDS = re.compile(r"n't|'(?:s|m|d|ll|re|ve)\b|\d+(?:[.,]\d+)+|\w+(?:[-']\w+)*")

NGrams = Counter[tuple[str, ...]]


@dataclass(frozen=True)
class CaptionScores:
    """What captions score against the references.

    Attributes:
        bleu4: Of all captions together, 0..1.
        rouge_l: Mean over the pictures, 0..1.
        cider_d: Mean over the pictures, 0..10: ten where every caption is each of its references.
        each_cider_d: Of each picture, by its key.
        each_rouge_l: Likewise.
    """

    bleu4: float
    rouge_l: float
    cider_d: float
    each_cider_d: Mapping[str, float]
    each_rouge_l: Mapping[str, float]


def score_captions(captions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> CaptionScores:
    """Compares captions with people's.

    >>> found = score_captions({"1.jpg": "a red circle"}, {"1.jpg": ["a red circle", "one red circle"]})
    >>> found.rouge_l
    1.0

    Args:
        captions: Of each picture, by its key.
        references: People's, one or more for each picture that has a caption. How rare an n-gram is, for CIDEr-D, is
            counted over those that are given: scores of different sets of pictures cannot be compared.

    Raises:
        DataError: no captions, or a picture without a reference.
    """
    lacking = [key for key in captions if not references.get(key)]
    if lacking or not captions:
        raise DataError(
            f"expected captions, with a reference or more each, got none for {lacking[0]}"
            if lacking
            else "expected captions, got none"
        )
    said = {key: tokens(text) for key, text in captions.items()}
    known = {key: [tokens(text) for text in references[key]] for key in captions}
    rouge = {key: _rouge_l(words, known[key]) for key, words in said.items()}
    cider = _cider_d(said, known)
    count = len(said)
    return CaptionScores(
        bleu4=_bleu(said, known),
        rouge_l=sum(rouge.values()) / count,
        cider_d=sum(cider.values()) / count,
        each_cider_d=cider,
        each_rouge_l=rouge,
    )


def tokens(text: str) -> list[str]:
    """Lower-case words without punctuation, much as the Penn Treebank's tokenizer cuts them.

    >>> tokens("A dog's ball, isn't it?")
    ['a', 'dog', "'s", 'ball', 'is', "n't", 'it']
    """
    return _WORDS.findall(_CLITICS.sub(r" \1", text.lower().replace("\u2019", "'")))


def _ngrams(words: Sequence[str], length: int) -> NGrams:
    return Counter(tuple(words[place : place + length]) for place in range(len(words) - length + 1))


# BLEU-4


def _bleu(said: Mapping[str, list[str]], known: Mapping[str, list[list[str]]]) -> float:
    """The geometric mean of the shares of n-grams that are found, of all captions together; less if they are short."""
    matched, written = [0] * _LONGEST, [0] * _LONGEST
    length = expected = 0
    for key, words in said.items():
        length += len(words)
        expected += min((len(each) for each in known[key]), key=lambda other: (abs(other - len(words)), other))
        for number in range(_LONGEST):
            most: NGrams = Counter()
            for each in known[key]:
                most |= _ngrams(each, number + 1)
            mine = _ngrams(words, number + 1)
            matched[number] += (mine & most).total()
            written[number] += mine.total()
    shares = [(hit + _TINY) / (all_ + _SMALL) for hit, all_ in zip(matched, written, strict=True)]
    logarithm = sum(map(math.log, shares)) / _LONGEST
    return math.exp(logarithm + min(0.0, 1 - expected / max(length, _SMALL)))


# ROUGE-L


def _rouge_l(words: Sequence[str], known: Sequence[Sequence[str]]) -> float:
    """The F-measure of the longest common subsequence, by the best precision and the best recall of any reference."""
    common = [_longest_common(words, each) for each in known]
    precision = max(found / max(len(words), 1) for found in common)
    recall = max(found / max(len(each), 1) for found, each in zip(common, known, strict=True))
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        before = 0
        for place, beside in enumerate(other, 1):
            before, row[place] = row[place], before + 1 if word == beside else max(row[place], row[place - 1])
    return row[-1]


# CIDEr-D


@dataclass(frozen=True)
class _Weighted:
    """A text's n-grams of each length, weighted by how rare they are, with their norms; `length` counts its bigrams."""

    weights: tuple[Mapping[tuple[str, ...], float], ...]
    norms: tuple[float, ...]
    length: int


def _cider_d(said: Mapping[str, list[str]], known: Mapping[str, list[list[str]]]) -> dict[str, float]:
    """Ten times the mean cosine of weighted n-grams, each counted no oftener than in the reference."""
    pictures = Counter(
        ngram
        for references in known.values()
        for ngram in {each for words in references for number in range(_LONGEST) for each in _ngrams(words, number + 1)}
    )
    most = math.log(len(known))

    def weigh(words: Sequence[str]) -> _Weighted:
        counts = [_ngrams(words, number + 1) for number in range(_LONGEST)]
        weights = tuple(
            {ngram: times * (most - math.log(max(pictures[ngram], 1))) for ngram, times in each.items()}
            for each in counts
        )
        norms = tuple(math.sqrt(sum(weight**2 for weight in each.values())) for each in weights)
        return _Weighted(weights, norms, counts[1].total())

    found = {}
    for key, words in said.items():
        mine, references = weigh(words), [weigh(each) for each in known[key]]
        found[key] = 10 * sum(_likeness(mine, each) for each in references) / len(references)
    return found


def _likeness(mine: _Weighted, other: _Weighted) -> float:
    """Mean over the lengths of n-grams, 0..1."""
    total = 0.0
    for number in range(_LONGEST):
        norm = mine.norms[number] * other.norms[number]
        beside = other.weights[number]
        dot = sum(
            min(weight, beside[each]) * beside[each] for each, weight in mine.weights[number].items() if each in beside
        )
        total += dot / norm if norm else 0.0
    return total / _LONGEST * math.exp(-((mine.length - other.length) ** 2) / (2 * _SIGMA**2))
