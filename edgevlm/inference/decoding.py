"""How the next token is chosen from logits: the largest, or drawn by a seed, the same on every target."""

from __future__ import annotations

import sys

import numpy as np

from edgevlm.bundle.dialogue import Sampling
from edgevlm.bundle.spec import F32
from edgevlm.errors import InputError, TensorError, shown
from edgevlm.inference.embeddings import softmax

_COLDEST = 1e-4
"""Temperatures below it take the largest logit, as 0 does."""


class Chooser:
    """Chooses token after token.

    Equal logits and an equal seed give equal tokens, whatever computed the logits: numbers are drawn by numpy's PCG64,
    and all else is computed in float64, in the order of transformers' own: temperature, top k, top p.

    Args:
        sampling: How.
        seed: Of the numbers that are drawn; looked at where the temperature is above 0.

    Raises:
        InputError: numbers out of their ranges.

    Example:
        >>> Chooser(Sampling()).next(np.array([0.1, 2.0, -1.0], np.float32))
        1
    """

    def __init__(self, sampling: Sampling, seed: int = 0) -> None:
        _check(sampling, seed)
        self._sampling = sampling
        self._draws = np.random.Generator(np.random.PCG64(seed))

    def next(self, logits: F32) -> int:
        """The next token's id.

        Args:
            logits: float32 [V].

        Raises:
            TensorError: one of them is no number.
        """
        _refuse_no_numbers(logits)
        if self._sampling.temperature < _COLDEST:
            return int(logits.argmax())
        scaled = np.asarray(logits, np.float64) / self._sampling.temperature
        order = np.argsort(-scaled, kind="stable")
        if self._sampling.top_k:
            order = order[: self._sampling.top_k]
        shares = softmax(scaled[order])
        if self._sampling.top_p < 1:
            kept = int(np.searchsorted(shares.cumsum(), self._sampling.top_p)) + 1
            order, shares = order[:kept], shares[:kept] / shares[:kept].sum()
        drawn = int(np.searchsorted(shares.cumsum(), self._draws.random(), side="right"))
        return int(order[min(drawn, len(order) - 1)])


def log_likelihood(logits: F32, token_id: int) -> float:
    """The logarithm of a token's probability.

    >>> round(log_likelihood(np.zeros(4, np.float32), 2), 4)
    -1.3863

    Raises:
        TensorError: a logit is no number.
    """
    _refuse_no_numbers(logits)
    return float(logits[token_id]) - log_sum_exp(logits)


def log_sum_exp(logits: F32) -> float:
    """The logarithm of the sum of `exp` of all, in float64: a logit less it is a log-probability.

    >>> round(log_sum_exp(np.zeros(4, np.float32)), 4)
    1.3863
    """
    wide = np.asarray(logits, np.float64)
    largest = wide.max()
    return float(largest + np.log(np.exp(wide - largest).sum()))


def _refuse_no_numbers(logits: F32) -> None:
    if not np.isfinite(logits).all():
        raise TensorError(
            f"logits: expected finite values, got {int((~np.isfinite(logits)).sum())} of {logits.size} that are "
            "NaN or infinite",
            hint="float16 has overflowed: convert the model again with another recipe",
        )


def _check(sampling: Sampling, seed: int) -> None:
    """Refuses what would choose in silence otherwise than asked."""
    if not isinstance(sampling, Sampling):
        raise InputError(f"sampling: expected a Sampling or None, got {type(sampling).__name__}")
    whole = [isinstance(each, int) and not isinstance(each, bool) and each >= 0 for each in (sampling.top_k, seed)]
    temperature, top_p = sampling.temperature, sampling.top_p
    are_numbers = all(
        isinstance(each, int | float | np.floating) and not isinstance(each, bool) for each in (temperature, top_p)
    )
    # Python compares an integer of any length with a float, and numpy divides by none that no float holds.
    if not (are_numbers and 0 <= temperature <= sys.float_info.max and 0 < top_p <= 1 and all(whole)):
        raise InputError(
            "expected a temperature of 0 or more, a top_k and a seed of 0, 1, ..., and a top_p above 0 and at most 1, "
            f"got {shown(sampling)} and the seed {shown(seed)}",
            hint="temperature 0 takes the likeliest word; Sampling() is that",
        )
