"""What is computed with embeddings once they are there: scores, a label's embedding of several texts, cosines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.spec import F32


def softmax(logits: NDArray[np.floating]) -> F32:
    """Along the last axis, [N, L] -> float32 [N, L]; each row sums to 1."""
    exponents = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(exponents / exponents.sum(-1, keepdims=True), np.float32)


def label_scores(images: F32, labels: F32, logit_scale: float) -> F32:
    """How well each label describes each picture: softmax of the scaled cosines.

    Args:
        images: Embeddings, float32 [N, D], unit norm.
        labels: Likewise, float32 [L, D].
        logit_scale: Factor of the cosines.

    Returns:
        float32 [N, L]; each row sums to 1.
    """
    return softmax(logit_scale * images @ labels.T)


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
