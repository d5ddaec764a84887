"""From which cosine on a picture is taken to show one of the labels at all: softmax cannot say that none fits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.spec import F32


@dataclass(frozen=True)
class Threshold:
    """A threshold on the best label's cosine, found on half of the pictures, and what it does to the other half.

    Each picture is asked about twice: with its own label among the others, and with that left out, as if the picture
    showed something that nobody thought of.

    Attributes:
        cosine: The threshold: the one with the best mean of the two shares below.
        kept: Share of pictures whose best cosine reaches it while their label is there, 0..1.
        refused: Share of pictures whose best cosine stays below it while their label is left out, 0..1.
        auroc: How often a picture with its label has a larger best cosine than another without (area under the ROC
            curve): 1 where a threshold can separate them, 0.5 where none helps. Of all pictures.
        pictures: On how many `kept` and `refused` were measured.
    """

    cosine: float
    kept: float
    refused: float
    auroc: float
    pictures: int


def measure(cosines: F32, truth: NDArray[np.int64]) -> Threshold | None:
    """The threshold, and how far it can be trusted.

    Args:
        cosines: float32 [N, L], of each picture with each label.
        truth: int64 [N], index of each picture's label.

    Returns:
        None with fewer than two pictures or labels: there is nothing to leave out, or to measure on.
    """
    if min(cosines.shape) < 2:
        return None
    there = cosines.max(1)
    others = cosines.copy()
    others[np.arange(len(truth)), truth] = -np.inf
    gone = others.max(1)
    # Drawn, since pictures come sorted by label.
    order = np.random.default_rng(0).permutation(len(truth))
    chosen, held = order[::2], order[1::2]
    value = _best(there[chosen], gone[chosen])
    return Threshold(
        cosine=value,
        kept=float((there[held] >= value).mean()),
        refused=float((gone[held] < value).mean()),
        auroc=_auroc(there, gone),
        pictures=len(held),
    )


def _best(there: F32, gone: F32) -> float:
    """The threshold with the best balanced accuracy: midway between two cosines that were seen, or at one of them."""
    seen = np.unique(np.concatenate([there, gone]).astype(np.float64))
    candidates = np.concatenate([seen[:1], (seen[1:] + seen[:-1]) / 2])
    kept = 1 - np.searchsorted(np.sort(there), candidates) / len(there)
    refused = np.searchsorted(np.sort(gone), candidates) / len(gone)
    return float(candidates[np.argmax(kept + refused)])


def _auroc(positive: F32, negative: F32) -> float:
    """Mann-Whitney's U over the number of pairs; a tie counts half."""
    ordered = np.sort(negative)
    below, up_to = (np.searchsorted(ordered, positive, side=side) for side in ("left", "right"))
    return float((below + up_to).mean() / 2 / len(negative))
