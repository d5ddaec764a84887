"""What is computed with embeddings once they are there: scores, a label's embedding of several texts, cosines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.spec import F32
from edgevlm.errors import InputError

Real = TypeVar("Real", bound=np.floating)
CENTRED_COSINE = (
    "Centred cosine: the mean cosine of embeddings with the float model's, once the float model's mean embedding is "
    "taken from both, since what all embeddings share would hide how they differ; 1 is the same."
)
"""For those who are shown one."""

Scores = Literal["softmax", "sigmoid", "cosine"]
"""What is said of a picture and a text: the text's share among all that were given, the probability that it fits, which
others do not change, or the plain cosine."""


def softmax(logits: NDArray[Real]) -> NDArray[Real]:
    """Along the last axis, [..., L] -> [..., L] in the same type; each row sums to 1."""
    exponents = np.exp(logits - logits.max(-1, keepdims=True))
    shares: NDArray[Real] = exponents / exponents.sum(-1, keepdims=True)
    return shares


def sigmoid(logits: NDArray[np.floating]) -> F32:
    """Of each number by itself, float32 of the same shape."""
    small = np.exp(-np.abs(logits))
    return np.asarray(np.where(logits >= 0, 1, small) / (1 + small), np.float32)


def usual_scores(logit_bias: float | None) -> Scores:
    """What a model was trained to say: of each pair by itself where it has a bias (SigLIP), else a share (CLIP)."""
    return "softmax" if logit_bias is None else "sigmoid"


def label_scores(
    images: F32, labels: F32, logit_scale: float, logit_bias: float | None = None, kind: Scores | None = None
) -> F32:
    """How well each label describes each picture; see `score`.

    Args:
        images: Embeddings, float32 [N, D], unit norm.
        labels: Likewise, float32 [L, D].
        logit_scale: Factor of the cosines.
        logit_bias: What is added then; None where the model has none.
        kind: What is said; what the model was trained to say where None.

    Returns:
        float32 [N, L].
    """
    return score(images @ labels.T, logit_scale, logit_bias, kind)


def score(cosines: F32, logit_scale: float, logit_bias: float | None, kind: Scores | None = None) -> F32:
    """What is said of each picture and label, of the cosine of their embeddings.

    Softmax as CLIP has it (Radford et al., 2021, arXiv 2103.00020), sigmoid as SigLIP (Zhai et al., 2023, arXiv
    2303.15343): the only one of the two by which no label at all may fit.

    >>> score(np.array([[0.1, 0.12]], np.float32), 100.0, -10.0).round(2)
    array([[0.5 , 0.88]], dtype=float32)

    Args:
        cosines: float32 [N, L].
        logit_scale: Factor of the cosines.
        logit_bias: What is added then; None where the model has none.
        kind: What is said; what the model was trained to say where None.

    Returns:
        float32 [N, L]: of `softmax` each row sums to 1, `sigmoid` is in 0..1, `cosine` in -1..1.

    Raises:
        InputError: another kind; or `sigmoid` of a model that has no bias.
    """
    kind = kind or usual_scores(logit_bias)
    if kind not in get_args(Scores):
        raise InputError(f"scores: expected one of {', '.join(get_args(Scores))}, got {kind!r}")
    if kind == "cosine":
        return cosines
    if kind == "softmax":
        return np.asarray(softmax(logit_scale * cosines), np.float32)
    if logit_bias is None:
        raise InputError(
            "this model was trained to compare texts, by softmax, and has no bias for a sigmoid",
            hint="ask for cosine, and find a threshold for it: edgevlm evaluate --threshold",
        )
    return sigmoid(logit_scale * cosines + logit_bias)


def average(embeddings: F32, sizes: Sequence[int]) -> F32:
    """One unit vector a label: the mean of its texts' embeddings, of length one again.

    Prompt ensembling of CLIP (Radford et al., 2021, arXiv 2103.00020, section 3.1.4).

    Args:
        embeddings: float32 [sum of sizes, D], the texts of one label after those of another.
        sizes: How many texts each label has.

    Returns:
        float32 [labels, D].
    """
    means = np.stack([part.mean(0) for part in np.split(embeddings, np.cumsum(sizes)[:-1])])
    return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True), np.float32)


def cosines(expected: F32, got: F32) -> NDArray[np.float64]:
    """Of each row of one with the same row of the other, [N, ...] -> float64 [N]."""
    a, b = (each.astype(np.float64).reshape(len(each), -1) for each in (expected, got))
    found: NDArray[np.float64] = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return found


def centred_cosine(expected: F32, got: F32, *, mean: NDArray[np.floating] | None = None) -> float:
    """The mean cosine once a mean embedding is taken from both sides.

    Embeddings of one model share a large mean, so that plain cosines are near 1 whatever is left of the rest.

    Args:
        expected, got: [N, D].
        mean: [D]; that of `expected` where None.
    """
    centre = expected.astype(np.float64).mean(0) if mean is None else mean
    return float(cosines(expected - centre, got - centre).mean())
