"""Zero-shot classification: the label whose text is nearest to the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.spec import F32


@dataclass(frozen=True)
class ClassAccuracy:
    """One class.

    Attributes:
        label: Its name.
        pictures: How many there are of it.
        accuracy: Share of them that were recognised, 0..1.
        mistaken_for: The label that the others were most often taken for; None where there are no others.
    """

    label: str
    pictures: int
    accuracy: float
    mistaken_for: str | None


@dataclass(frozen=True)
class ZeroShot:
    """Accuracy over all labels of a dataset, in shares of one.

    Attributes:
        pictures: Number of labelled pictures.
        classes: Number of labels to choose from.
        top1: Share of pictures whose label scores highest.
        top5: Share of pictures whose label is among the five highest; None with five labels or fewer.
        mean_per_class: Mean of the classes' own accuracies, over the classes that have pictures: what the papers call
            class-mean accuracy, or mean per-class recall.
        chance: What guessing would reach in `top1` and `mean_per_class`.
        by_class: Every class that has pictures.
    """

    pictures: int
    classes: int
    top1: float
    top5: float | None
    mean_per_class: float
    chance: float
    by_class: tuple[ClassAccuracy, ...]


def measure(scores: F32, truth: NDArray[np.int64], labels: Sequence[str]) -> ZeroShot:
    """Compares the best labels with the true ones.

    Args:
        scores: float32 [N, L], the larger the better; of equal scores the first counts as the higher.
        truth: int64 [N], index of each picture's label.
        labels: L names.
    """
    ranked = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    best = ranked[:, 0]
    by_class = tuple(_class_accuracy(best[truth == number], number, labels) for number in np.unique(truth))
    return ZeroShot(
        pictures=len(truth),
        classes=len(labels),
        top1=float((best == truth).mean()),
        top5=float((ranked == truth[:, None]).any(1).mean()) if len(labels) > 5 else None,
        mean_per_class=float(np.mean([found.accuracy for found in by_class])),
        chance=1 / len(labels),
        by_class=by_class,
    )


def _class_accuracy(answers: NDArray[np.int64], number: int, labels: Sequence[str]) -> ClassAccuracy:
    wrong = answers[answers != number]
    return ClassAccuracy(
        label=labels[number],
        pictures=len(answers),
        accuracy=float((answers == number).mean()),
        mistaken_for=labels[int(np.bincount(wrong).argmax())] if len(wrong) else None,
    )
