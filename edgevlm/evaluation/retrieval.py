"""Retrieval: finding a picture's captions among all captions, and a caption's picture among all pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.spec import F32

CUTS = (1, 5, 10)
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Recall:
    """Share of the queries with a right answer among the first 1, 5 and 10, 0..1.

    Attributes:
        at_1, at_5, at_10: What was reached.
        chance: What a random order would reach at 1, 5 and 10.
    """

    at_1: float
    at_5: float
    at_10: float
    chance: tuple[float, float, float]


@dataclass(frozen=True)
class Retrieval:
    """Both directions, by the protocol that is customary for COCO and Flickr30k.

    Attributes:
        pictures: Number of pictures with captions.
        texts: Number of different captions.
        image_to_text: For each picture, whether any of its captions is found among all different captions.
        text_to_image: For each different caption, whether a picture that has it is found among all pictures.
    """

    pictures: int
    texts: int
    image_to_text: Recall
    text_to_image: Recall


def measure(images: F32, texts: F32, captions: Sequence[Sequence[int]]) -> Retrieval:
    """Ranks by cosine.

    A caption that several pictures share is one text, and right for each of them. Without such captions this is the
    protocol of Karpathy and Fei-Fei (arXiv 1412.2306) to the letter. What scores as high as the best right answer
    ranks before it, so that a model that answers the same to everything finds nothing.

    Args:
        images: float32 [N, D], unit norm.
        texts: float32 [T, D], unit norm, each different caption once.
        captions: For each picture, the indices of its captions, one or more.
    """
    pictures: list[list[int]] = [[] for _ in texts]
    for picture, own in enumerate(captions):
        for text in own:
            pictures[text].append(picture)
    return Retrieval(len(images), len(texts), _recall(images, texts, captions), _recall(texts, images, pictures))


def _recall(queries: F32, gallery: F32, right: Sequence[Sequence[int]]) -> Recall:
    ranks = []
    for start in range(0, len(queries), _ROWS_AT_ONCE):
        scores = queries[start : start + _ROWS_AT_ONCE] @ gallery.T
        wanted = np.zeros(scores.shape, np.bool_)
        for row, own in zip(wanted, right[start : start + _ROWS_AT_ONCE], strict=True):
            row[list(own)] = True
        best = np.where(wanted, scores, -np.inf).max(1, keepdims=True)
        ranks.append(((scores >= best) & ~wanted).sum(1))
    before = np.concatenate(ranks)
    at_1, at_5, at_10 = (float((before < cut).mean()) for cut in CUTS)
    counts = np.array([len(set(own)) for own in right])
    one, five, ten = (float(_chance(counts, len(gallery), cut).mean()) for cut in CUTS)
    return Recall(at_1, at_5, at_10, (one, five, ten))


def _chance(right: NDArray[np.int64], count: int, cut: int) -> NDArray[np.float64]:
    """Probability that a random order of `count` has one of the `right` ones among the first `cut`: none is missed."""
    places = np.arange(min(cut, count))
    wrong = np.maximum(count - right[:, None] - places, 0)
    missed: NDArray[np.float64] = (wrong / (count - places)).prod(1)
    return 1 - missed
