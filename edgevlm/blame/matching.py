"""Which op of the float model an artefact's op stands for: the one whose values it has, in whatever layout.

Names do not say: backends fuse, split and rename ops, move channels last and fold scales into weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import inf

import numpy as np

from edgevlm.blame.reference import Expected
from edgevlm.bundle.spec import F32

_MAX = float(np.finfo(np.float32).max)
LEAST_SIZE = 4
"""Elements below which equal values may be chance."""
_HUGE = 1e3
"""A magnitude that attention's masks have, and values between ops seldom."""


def unmasked(value: F32) -> F32:
    """The value, in which what a mask made huge or infinite is as large as the largest of the rest.

    Beside a mask's own numbers no error of the scores that it was added to would be seen.
    """
    magnitudes = np.abs(value)
    huge = magnitudes >= _HUGE
    if not huge.any() or huge.all():
        return value
    most = float(magnitudes[~huge].max())
    return value.clip(-most, most) if float(magnitudes[huge].min()) > 10 * most else value


@dataclass(frozen=True)
class Match:
    """The closest op of the float model, and how far it is: |a - b| / |b - mean(b)|, of the vectors of all elements.

    The mean is left out because two nearly constant vectors are close to each other whatever they mean.
    """

    expected: Expected
    error: float


class Matcher:
    """Finds ops of the float model by their values."""

    def __init__(self, expected: Sequence[Expected]) -> None:
        self._by_size: dict[int, list[_Candidate]] = {}
        for each in expected:
            value = unmasked(each.value)
            if np.isfinite(value).all():
                norm, spread = np.linalg.norm(value), np.linalg.norm(value - value.mean())
                candidate = _Candidate(each, value, float(norm), max(float(spread), 1e-30))
                self._by_size.setdefault(value.size, []).append(candidate)

    def closest(self, value: F32) -> Match | None:
        """The op whose result differs least.

        None if no op has as many elements, they are too few to tell, or some are not a number.
        """
        candidates = self._by_size.get(value.size, [])
        if value.size < LEAST_SIZE or not candidates or np.isnan(value).any():
            return None
        flat = unmasked(value).reshape(-1).clip(-_MAX, _MAX)
        norm = float(np.linalg.norm(flat.astype(np.float64)))
        best: Match | None = None
        for each in sorted(candidates, key=lambda found: abs(found.norm - norm)):
            # No order of the elements brings two vectors closer than their lengths are.
            if best is not None and abs(each.norm - norm) >= best.error * each.spread:
                continue
            apart = min((float(np.linalg.norm(flat - other)) for other in _layouts(each.value, value)), default=inf)
            if best is None or apart / each.spread < best.error:
                best = Match(each.op, apart / each.spread)
        return best


@dataclass(frozen=True)
class _Candidate:
    """An op of the model, its result without masks, the length of that, and the length without its mean."""

    op: Expected
    value: F32
    norm: float
    spread: float


def _layouts(value: F32, like: F32) -> Iterator[F32]:
    """The value's elements in the order of every permutation of its axes; the usual one first."""
    squeezed = value.reshape([size for size in value.shape if size > 1] or [1])
    if value.shape == like.shape or squeezed.ndim > 4:
        yield squeezed.reshape(-1)
        if squeezed.ndim > 4 or len(set(squeezed.shape)) == squeezed.ndim:
            return
    for order in permutations(range(squeezed.ndim)):
        yield squeezed.transpose(order).reshape(-1)
