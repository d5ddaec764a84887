"""What there is to choose from on a device, and what of it nothing else beats in every respect.

One is better than another only where the difference exceeds its error: that of measured medians is the interval of
`edgevlm.bench.ratios`, an estimate's its band, a cosine's what the gate of `edgevlm bench --compare` allows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from edgevlm.bench.compare import ACCURACY_DROP
from edgevlm.bench.ratios import ratio
from edgevlm.bench.results import Artefact, Estimated, Evidence, Measured, Result, evidence

Respect = Literal["latency", "size", "accuracy"]


@dataclass(frozen=True)
class Point:
    """The latency of one artefact's component on one device, at the thread count whose median is least.

    Attributes:
        evidence: `measured` or `estimated`.
        low_ms: The shortest time, or the low end of an estimate's band.
        middle_ms: The median, or an estimate's middle.
        high_ms: The 90th percentile, or the high end of an estimate's band.
        result: Where they are from.
    """

    device: str
    artefact: Artefact
    component: str
    evidence: Evidence
    threads: int
    low_ms: float
    middle_ms: float
    high_ms: float
    result: Measured | Estimated


def points(results: Iterable[Result]) -> tuple[Point, ...]:
    """One point for each device, artefact, component and kind of evidence that has a latency."""
    found: dict[tuple[str, Artefact, str, Evidence], Point] = {}
    for result in results:
        point = _point(result)
        if point is None or not all(0 < each < math.inf for each in _times(point)):
            continue
        key = (point.device, point.artefact, point.component, point.evidence)
        if key not in found or point.middle_ms < found[key].middle_ms:
            found[key] = point
    return tuple(found.values())


def best_known(among: Iterable[Point]) -> tuple[Point, ...]:
    """The points without the estimates of what was measured as well."""
    among = tuple(among)
    measured = {(each.device, each.artefact, each.component) for each in among if each.evidence == "measured"}
    return tuple(
        each
        for each in among
        if each.evidence == "measured" or (each.device, each.artefact, each.component) not in measured
    )


def surely_faster(one: Point, other: Point) -> bool:
    """Whether the one takes less time than the other by more than these figures may be wrong."""
    if isinstance(one.result, Measured) and isinstance(other.result, Measured):
        return ratio(one.result, other.result).low > 1
    return one.high_ms < other.low_ms


def fastest(among: Sequence[Point]) -> tuple[Point, ...]:
    """The one of the least median, and those of which these figures cannot tell that they are slower, as they come."""
    best = min(among, key=lambda each: each.middle_ms)
    return tuple(each for each in among if not surely_faster(best, each))


def ranked(among: Sequence[Point]) -> tuple[Point, ...]:
    """From fast to slow; those that these figures cannot tell apart as they come."""
    left, found = list(among), list[Point]()
    while left:
        equals = fastest(left)
        found += equals
        left = [each for each in left if each not in equals]
    return tuple(found)


def front(among: Sequence[Point], respects: Sequence[Respect]) -> tuple[Point, ...]:
    """Those that no other is at least as good as in all these respects and surely better in one, from fast to slow.

    Only the same component on the same device is compared, and only artefacts of the same model, since accuracy is
    closeness to the artefact's own float model.

    Args:
        among: Points; those of unknown accuracy are left out where it is one of the respects.
        respects: What counts.
    """
    known = [each for each in among if "accuracy" not in respects or each.artefact.accuracy is not None]
    kept = [each for each in known if not any(_beats(other, each, respects) for other in known)]
    return tuple(sorted(kept, key=lambda each: each.middle_ms))


def stairs(front: Sequence[Point], against: Respect) -> tuple[Point, ...]:
    """Of a front those with the best figures, whatever their error: the corners of the line along it."""
    corners: list[Point] = []
    for each in front:
        if not corners or _cost(each, against) < _cost(corners[-1], against):
            corners.append(each)
    return tuple(corners)


def _times(point: Point) -> tuple[float, ...]:
    processes = point.result.processes if isinstance(point.result, Measured) else ()
    return (point.low_ms, point.middle_ms, point.high_ms, *(each.median_ms for each in processes))


def _point(result: Result) -> Point | None:
    if isinstance(result, Measured):
        engine = result.times.engine_ms
        band = (engine.min, engine.median, engine.p90)
    elif isinstance(result, Estimated):
        band = (result.low_ms, result.middle_ms, result.high_ms)
    else:
        return None
    return Point(result.device, result.artefact, result.component, evidence(result), result.threads, *band, result)


def _beats(one: Point, other: Point, respects: Sequence[Respect]) -> bool:
    if (one.device, one.component, one.artefact.model) != (other.device, other.component, other.artefact.model):
        return False
    if any(_cost(one, respect) > _cost(other, respect) for respect in respects):
        return False
    return any(_surely_better(one, other, respect) for respect in respects)


def _surely_better(one: Point, other: Point, respect: Respect) -> bool:
    if respect == "latency":
        return surely_faster(one, other)
    return _cost(other, respect) - _cost(one, respect) > (ACCURACY_DROP if respect == "accuracy" else 0)


def _cost(point: Point, respect: Respect) -> float:
    if respect == "latency":
        return point.middle_ms
    if respect == "size":
        return point.artefact.size_bytes
    return -(point.artefact.accuracy or 0.0)
