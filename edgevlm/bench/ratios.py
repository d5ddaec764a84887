"""How much slower one run is than another, as an interval that other runs of the same would lie in.

What varies from one process to the next (where its memory lies, who shares the core) is the same for all inferences of
a process, so hundreds of them count as one figure: their median. The interval is the one of Hodges and Lehmann (1963):
of all ratios of a new process's median to an old one's, the outermost are left out, as many as the rank test of Mann
and Whitney (1947) allows. It takes no shape of distribution for granted, needs three processes of each run, and a
process that was caught in a burst of other work makes it wider rather than wrong.

What differs between the two runs as a whole, such as a machine that does other work today, no number of processes
shows. A yardstick does, the same small computation timed in every process: by as much as the machine has become slower
or faster for it, the interval is wider to that side, since some of that, or all, may be in the ratio.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgevlm.bench.results import Measured
from edgevlm.errors import InputError

ONE_IN = 20
"""An end of the interval is beyond the true ratio in one comparison of so many, at most."""
UNKNOWN = 3.0
"""What cannot be known, of too few processes or of two different machines, is taken to be within this factor."""
_SAME = 0.1  # how much the yardstick may differ without being mentioned


@dataclass(frozen=True)
class Ratio:
    """A new time over an old one.

    Attributes:
        middle: The best guess.
        low, high: Where it lies.
        caveats: What makes that wide, besides the processes' own differences.
    """

    middle: float
    low: float
    high: float
    caveats: tuple[str, ...] = ()

    def verdict(self, limit: float) -> Literal["regression", "cannot tell", "slower", "faster", "same"]:
        """What is known of a growth that may be this share: the whole interval has to be on one side of it."""
        if self.low > 1 + limit:
            return "regression"
        if self.high > 1 + limit:
            return "cannot tell"
        return "slower" if self.low > 1 else "faster" if self.high < 1 else "same"


def ratio(old: Measured, new: Measured) -> Ratio:
    """The ratio of two measurements' medians; of one that is in both runs, since the second left it out, it is 1.

    Raises:
        InputError: a time is none.
    """
    before, after = _medians(old), _medians(new)
    if min(*before, *after) <= 0:
        raise InputError(f"{new.device}: {new.artefact.name}: {new.component}: expected times of more than 0 ms")
    if old == new:
        return Ratio(1.0, 1.0, 1.0, ("measured once",))
    low, middle, high = interval(before, after)
    caveats = []
    if _left_out(len(before), len(after)) is None:
        caveats.append(f"a rough figure, of too few processes ({len(before)} and {len(after)})")
    if _machine(old) != _machine(new):
        low, high = low / UNKNOWN, high * UNKNOWN
        caveats.append("measured on different machines")
    if old.times.yardstick_ms and new.times.yardstick_ms:
        slower = new.times.yardstick_ms / old.times.yardstick_ms
        low, high = low / max(slower, 1.0), high / min(slower, 1.0)
        if max(slower, 1 / slower) > 1 + _SAME:
            said = f"{slower:.1f}x slower" if slower > 1 else f"{1 / slower:.1f}x faster"
            caveats.append(f"the machine itself was {said}")
    return Ratio(middle, low, high, tuple(caveats))


def interval(old: Sequence[float], new: Sequence[float]) -> tuple[float, float, float]:
    """Low end, middle and high end of the ratio of new times to old ones, which are all more than 0.

    >>> interval([2.0, 2.0, 2.5], [4.0, 5.0, 5.0])
    (1.6, 2.0, 2.5)
    """
    ratios = sorted(after / before for before in old for after in new)
    middle, left_out = statistics.median(ratios), _left_out(len(old), len(new))
    if left_out is None:
        return ratios[0] / UNKNOWN, middle, ratios[-1] * UNKNOWN
    return ratios[left_out], middle, ratios[-1 - left_out]


def _medians(measured: Measured) -> Sequence[float]:
    return [each.median_ms for each in measured.processes] or [measured.times.engine_ms.median]


def _machine(measured: Measured) -> tuple[object, ...]:
    system = measured.system
    return system.model, system.processor, system.architecture, system.cores


def _left_out(olds: int, news: int) -> int | None:
    """How many ratios to leave out at each end; None where all of them are too few."""
    orders, so_far = math.comb(olds + news, olds), 0
    for wins in range(olds * news):
        so_far += _orders(olds, news, wins)
        if so_far * ONE_IN > orders:
            return wins - 1 if wins else None
    raise ValueError(f"expected times of both, got {olds} and {news}")


@functools.cache
def _orders(olds: int, news: int, wins: int) -> int:
    """Of all orders of so many old and new times, those in which so many pairs have the new one first."""
    if wins < 0 or not (olds and news):
        return int(wins == 0)
    return _orders(olds - 1, news, wins - news) + _orders(olds, news - 1, wins)
