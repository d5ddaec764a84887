"""k-shot linear probe: how well a few pictures of each class teach a linear classifier on top of the embeddings.

The rule for the classifier is CLIP's (Radford et al., arXiv 2103.00020, section 3.2): logistic regression by L-BFGS
with at most 1,000 iterations. Its strength of regularisation is fixed beforehand, since the pictures that are left are
the test and a few pictures leave none to choose with.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.spec import F32
from edgevlm.errors import DataError, MissingDependency

INVERSE_REGULARISATION = 31.6
"""scikit-learn's `C` for embeddings of length one: the 0.316 of CLIP's published example, whose embeddings are not
normalised and have a length of about ten, so that the weights on the same vectors are ten times smaller."""
_MAX_ITERATIONS = 1000


@dataclass(frozen=True)
class FewShot:
    """Accuracy of the probe, over several draws of the pictures it learns from, in shares of one.

    Attributes:
        shots: Pictures of each class that it learned from; all others are the test.
        classes: Number of classes.
        mean_per_class: Mean of the classes' own accuracies, averaged over the seeds.
        spread: Standard deviation (n - 1) over the seeds; None with a single one.
        by_seed: `mean_per_class` of each seed.
        chance: What guessing would reach.
    """

    shots: int
    classes: int
    mean_per_class: float
    spread: float | None
    by_seed: tuple[float, ...]
    chance: float


def require() -> None:
    """Raises MissingDependency if scikit-learn is not installed."""
    if importlib.util.find_spec("sklearn") is None:
        raise MissingDependency("scikit-learn", extra="distill")


def refuse_rare(truth: NDArray[np.int64], labels: Sequence[str], shots: int, *, where: str) -> None:
    """Raises DataError if a class has too few pictures to learn from `shots` of them and test on another."""
    classes, counts = np.unique(truth, return_counts=True)
    if len(classes) < 2:
        raise DataError(f"{where}: a probe tells classes apart: expected two or more with pictures, got {len(classes)}")
    if counts.min() <= shots:
        raise DataError(
            f"{where}: {shots} shots need at least {shots + 1} pictures of each class, one to test on; "
            f"{labels[classes[counts.argmin()]]!r} has {counts.min()}",
            hint="ask for fewer shots, or leave out --limit",
        )


def measure(
    embeddings: F32,
    truth: NDArray[np.int64],
    shots: int,
    seeds: int,
    step: Callable[[float], None] = lambda share: None,
) -> FewShot:
    """Fits and tests a probe for each of the seeds 0 to `seeds - 1`.

    The pictures of a draw of few shots are among those of a draw of more with the same seed.

    Args:
        embeddings: float32 [N, D], unit norm.
        truth: int64 [N], each picture's class; every class has more than `shots` pictures (see `refuse_rare`).
        shots: Pictures of each class to learn from.
        seeds: Number of draws.
        step: Told the share that is done, 0..1.
    """
    accuracies = []
    for seed in range(seeds):
        learned = draw(truth, shots, seed)
        accuracies.append(_probe(embeddings, truth, learned))
        step((seed + 1) / seeds)
    classes = len(np.unique(truth))
    return FewShot(
        shots=shots,
        classes=classes,
        mean_per_class=float(np.mean(accuracies)),
        spread=float(np.std(accuracies, ddof=1)) if seeds > 1 else None,
        by_seed=tuple(accuracies),
        chance=1 / classes,
    )


def draw(truth: NDArray[np.int64], shots: int, seed: int) -> NDArray[np.bool_]:
    """Which pictures are learned from, bool [N]: `shots` of each class."""
    order = np.random.default_rng(seed).permutation(len(truth))
    learned = np.zeros(len(truth), np.bool_)
    for number in np.unique(truth):
        learned[order[truth[order] == number][:shots]] = True
    return learned


def _probe(embeddings: F32, truth: NDArray[np.int64], learned: NDArray[np.bool_]) -> float:
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

    probe = LogisticRegression(C=INVERSE_REGULARISATION, max_iter=_MAX_ITERATIONS)
    with warnings.catch_warnings():
        # One picture a class looks to scikit-learn like a regression by mistake.
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        probe.fit(embeddings[learned], truth[learned])
    right = probe.predict(embeddings[~learned]) == truth[~learned]
    tested = truth[~learned]
    return float(np.mean([right[tested == number].mean() for number in np.unique(tested)]))
