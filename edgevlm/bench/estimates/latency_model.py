"""Latency from counts, fitted to published latencies, with a band of what leaving each of those out came to.

On a CPU, with I instructions of one thread, n threads and the clock f:

    t(n) = max(I / (IPC f) (1 - p + p / n), bytes that are read / memory bandwidth)

IPC, instructions a cycle, is the geometric mean of the published points on cores of the same width, those in float32
and those in int8 apart: kernels in int8 execute about one and a half times as many. Width is how many float32
multiply-adds a core can begin in a cycle; where there is no point of one width, IPC is that of the nearest times the
square root of the widths' ratio, half way between no gain and the whole. The parallel share p is the median of what
pairs of latencies on one thread and on several say (Amdahl, https://doi.org/10.1145/1465482.1465560). The points are
of convolutional networks, whose weights are read many times; the second term is for networks that read theirs once.

On an accelerator, with M multiply-adds:

    t = a M^b

fitted in logarithms to the points of that device: small networks use less of it than large ones.

No figure is claimed to be closer than the worst of the points was when it was predicted from the others.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edgevlm.bench.estimates.published import AcceleratorPoint, CpuPoint, points
from edgevlm.errors import DeviceError

NPU_SPREAD = 30 / 4
"""NPUs reach 4 % to 30 % of their peak: how far a network may be from a single point, either way."""
BUS_SPREAD = 12.8 / 5.5
"""A profile's bandwidth may be the bus's peak: Raspberry Pi 4's is 12.8 GB/s, and STREAM reads 5.5 GB/s of it."""
_LEAST_FOR_EXPONENT = 3


@dataclass(frozen=True)
class Prediction:
    """A latency that nobody measured; see `edgevlm.bench.results.Estimated` for what each figure says."""

    low_ms: float
    middle_ms: float
    high_ms: float
    bound_by: Literal["instructions", "bandwidth", "calibration point"]
    calibration: tuple[str, ...]
    error: float


@dataclass(frozen=True)
class Fit:
    """What points say of CPUs.

    Attributes:
        instructions_a_cycle: On one thread, by `fma_lanes` and whether it computes in integers.
        parallel_share: p above, 0 to 1.
    """

    instructions_a_cycle: Mapping[tuple[int, bool], float]
    parallel_share: float


@dataclass(frozen=True)
class LeftOut:
    """A published latency, and what is predicted of it from other points.

    Attributes:
        fma_lanes, integer, threads: Of the published one; 0 lanes and one thread where it is an accelerator's.
    """

    called: str
    fma_lanes: int
    integer: bool
    threads: int
    published_ms: float
    predicted_ms: float

    @property
    def factor(self) -> float:
        """How many times longer than predicted it takes."""
        return self.published_ms / self.predicted_ms

    @property
    def error(self) -> float:
        """Relative to the published one; positive where the prediction is too slow."""
        return self.predicted_ms / self.published_ms - 1


def predict(
    instructions: int,
    *,
    fma_lanes: int,
    clock_mhz: int,
    threads: int,
    reads_bytes: int,
    bandwidth_gb_s: float,
    integer: bool = False,
    known: Sequence[CpuPoint] | None = None,
) -> Prediction:
    """Latency on a CPU.

    The band is as wide as the worst error among points on cores of that width and that number of threads when each was
    left out, in float32 and int8 alike, so that one or two points of a kind claim no more than all. Where none of that
    kind has that number of threads, all of that width count, widened by what the parallel shares of the pairs would
    make of the difference. Where no point is on cores of that width, the band covers no gain over the nearest width,
    and the whole, and the worst error of points that were predicted without any of their own width. Several threads on
    less work than any point's may gain nothing: the band then covers that too.

    Args:
        instructions: Of one inference on one thread.
        fma_lanes: The core's width, 1 or more.
        clock_mhz: Of the core.
        threads: On as many cores of that kind.
        reads_bytes: What an inference is taken to read from memory.
        bandwidth_gb_s: Of the memory, 10^9 bytes a second; 0 where it is not known, which leaves memory out.
        integer: Whether most of its multiply-adds are of integers.
        known: The points; None for those of `published.yaml`.

    Raises:
        DeviceError: the width is not known, or there are too few points.
    """
    known = points().cpu if known is None else known
    if fma_lanes < 1:
        raise DeviceError(
            "no latency is estimated for a core of unknown width",
            hint="set fma_lanes in the device's profile: float32 multiply-adds a cycle, of its optimisation guide",
        )
    found = fit(known)
    middle_ms = _compute_ms(found, instructions, (fma_lanes, integer), clock_mhz, threads)
    if any(point.fma_lanes == fma_lanes for point in known):
        relevant = [point for point in known if point.fma_lanes == fma_lanes]
        rows, least, most = _same_width(known, (fma_lanes, integer), threads)
    else:
        relevant = list(known)
        rows, least, most = _other_width(known, fma_lanes)
    if not rows:
        raise DeviceError("too few published latencies to say how far an estimate is off")
    low_ms, high_ms = middle_ms * least, middle_ms * most
    if threads > 1 and instructions < min(point.instructions for point in known):
        # Threads cost small work more than it gains: nothing says that it gains at all.
        high_ms = max(high_ms, _compute_ms(found, instructions, (fma_lanes, integer), clock_mhz, 1) * most)
    memory_ms = reads_bytes / (bandwidth_gb_s * 1e6) if bandwidth_gb_s else 0.0
    return Prediction(
        low_ms=max(low_ms, memory_ms),
        middle_ms=max(middle_ms, memory_ms),
        high_ms=max(high_ms, memory_ms * BUS_SPREAD),
        bound_by="instructions" if middle_ms >= memory_ms else "bandwidth",
        calibration=tuple(
            dict.fromkeys(point.called for point in (*relevant, *(_pairs(known) if threads > 1 else ())))
        ),
        error=max(abs(row.error) for row in rows),
    )


def fit(known: Sequence[CpuPoint], pairs: Sequence[CpuPoint] | None = None) -> Fit:
    """IPC and the parallel share.

    Points with a figure of one thread decide on the IPC of their kind; where there is none, that of the fewest threads
    is taken back to one thread.

    Args:
        known: What IPC is fitted to.
        pairs: What the parallel share is fitted to; None for the same points.

    Raises:
        DeviceError: there is no point, or no pair of latencies on one thread and on several.
    """
    shares = parallel_shares(known if pairs is None else pairs)
    if not shares:
        raise DeviceError("no published latency on one thread and on several, which estimates are fitted to")
    share = statistics.median(shares)
    kinds: dict[tuple[int, bool], list[CpuPoint]] = {}
    for point in known:
        kinds.setdefault((point.fma_lanes, point.integer), []).append(point)
    return Fit({kind: _instructions_a_cycle(group, share) for kind, group in kinds.items()}, share)


def parallel_shares(known: Iterable[CpuPoint]) -> tuple[float, ...]:
    """p of each pair: from t(n) / t(1) = 1 - p + p / n."""
    return tuple(
        (1 - latency_ms / point.figures[0][1]) / (1 - 1 / threads)
        for point in _pairs(known)
        for threads, latency_ms in point.figures[1:]
    )


def speedup(share: float, threads: int) -> float:
    """How many times faster n threads are than one: 1 / (1 - p + p / n)."""
    return 1 / (1 - share + share / threads)


def left_out(known: Sequence[CpuPoint], *, whole_width: bool = False) -> tuple[LeftOut, ...]:
    """Every published latency, predicted without its point; or without all points on cores of that width.

    A point without which nothing could be fitted is passed over.
    """
    rows = []
    for point in known:
        others = [each for each in known if each is not point]
        fitted = [each for each in others if not (whole_width and each.fma_lanes == point.fma_lanes)]
        if not fitted or not parallel_shares(others):
            continue
        found = fit(fitted, others)
        for threads, latency_ms in point.figures:
            kind = (point.fma_lanes, point.integer)
            expected_ms = _compute_ms(found, point.instructions, kind, point.clock_mhz, threads)
            rows.append(LeftOut(point.called, *kind, threads, latency_ms, expected_ms))
    return tuple(rows)


def scale(multiply_adds_millions: float, known: Sequence[AcceleratorPoint]) -> Prediction:
    """Latency on an accelerator.

    From three points on, the exponent is fitted and the band is as wide as the worst point that was left out. With
    fewer the nearest point in size is scaled in proportion, and the band is `NPU_SPREAD` either way: the share of its
    peak that an NPU reaches differs that much from network to network.

    Args:
        multiply_adds_millions: Of one inference, 10^6.
        known: Points of that device and unit.

    Raises:
        DeviceError: there is no point, or no work to scale.
    """
    if not known:
        raise DeviceError(
            "nobody published a latency on this device's accelerator, and without one it could be anything between 4 % "
            "and 30 % of its peak",
            hint="Xcode's Core ML performance report of the .mlpackage, with the phone attached, measures it",
        )
    if multiply_adds_millions <= 0:
        raise DeviceError(f"expected multiply-adds, got {multiply_adds_millions:g} million")
    if len({(point.device, point.unit) for point in known}) > 1:
        raise ValueError("expected points of one device and unit")
    middle_ms = _scaled_ms(multiply_adds_millions, known)
    rows = accelerators_left_out(known)
    least = min(1.0, *(row.factor for row in rows)) if rows else 1 / NPU_SPREAD
    most = max(1.0, *(row.factor for row in rows)) if rows else NPU_SPREAD
    low_ms, high_ms = middle_ms * least, middle_ms * most
    smallest = min(known, key=lambda point: point.multiply_adds_millions)
    if multiply_adds_millions < smallest.multiply_adds_millions:
        # What a call costs whatever it computes is not known: it may take as long as the smallest that was measured.
        high_ms = max(high_ms, smallest.latency_ms)
        middle_ms = math.sqrt(low_ms * high_ms)
    return Prediction(
        low_ms=low_ms,
        middle_ms=middle_ms,
        high_ms=high_ms,
        bound_by="calibration point",
        calibration=tuple(point.called for point in known),
        error=max(abs(row.error) for row in rows) if rows else NPU_SPREAD - 1,
    )


def accelerators_left_out(known: Sequence[AcceleratorPoint]) -> tuple[LeftOut, ...]:
    """Every point of one device, predicted from its others; none where those are too few to say anything."""
    if len(known) < _LEAST_FOR_EXPONENT:
        return ()
    rows = []
    for point in known:
        others = [each for each in known if each is not point]
        expected_ms = _scaled_ms(point.multiply_adds_millions, others)
        rows.append(LeftOut(point.called, 0, False, 1, point.latency_ms, expected_ms))
    return tuple(rows)


def _compute_ms(found: Fit, instructions: int, kind: tuple[int, bool], clock_mhz: int, threads: int) -> float:
    """The first term of the formula; kind is `fma_lanes`, and whether it computes in integers."""
    fma_lanes, integer = kind
    alike = {width: rate for (width, own), rate in found.instructions_a_cycle.items() if own == integer}
    rates = alike or {width: rate for (width, _), rate in found.instructions_a_cycle.items()}
    nearest = _nearest(rates, fma_lanes)
    instructions_a_cycle = rates[nearest] * math.sqrt(fma_lanes / nearest)
    return instructions / (instructions_a_cycle * clock_mhz * 1e3) / speedup(found.parallel_share, threads)


def _nearest(widths: Iterable[int], fma_lanes: int) -> int:
    return min(widths, key=lambda width: (abs(math.log(width / fma_lanes)), width))


def _instructions_a_cycle(group: Sequence[CpuPoint], share: float) -> float:
    single = [point for point in group if point.figures[0][0] == 1]
    rates = []
    for point in single or group:
        threads, latency_ms = point.figures[0]
        rates.append(point.instructions / (latency_ms * point.clock_mhz * 1e3) / speedup(share, threads))
    return statistics.geometric_mean(rates)


def _same_width(known: Sequence[CpuPoint], kind: tuple[int, bool], threads: int) -> tuple[list[LeftOut], float, float]:
    """The points left out that say how wide the band is; the least and the greatest factor."""
    rows = [row for row in left_out(known) if row.fma_lanes == kind[0]]
    alike = [row for row in rows if row.threads == threads]
    rows = alike if any(row.integer == kind[1] for row in alike) else rows
    shares = parallel_shares(known)
    middle = statistics.median(shares)
    factors = [1.0]
    for row in rows:
        for share in (min(shares), max(shares)):
            scaling = speedup(share, row.threads) / speedup(middle, row.threads)
            factors.append(row.factor * scaling * speedup(middle, threads) / speedup(share, threads))
    return rows, min(factors), max(factors)


def _other_width(known: Sequence[CpuPoint], fma_lanes: int) -> tuple[list[LeftOut], float, float]:
    """The same where no point is on cores of that width."""
    rows = list(left_out(known, whole_width=True)) or list(left_out(known))
    nearest = _nearest({point.fma_lanes for point in known}, fma_lanes)
    gain = math.sqrt(max(fma_lanes, nearest) / min(fma_lanes, nearest))
    factors = [1 / gain, gain, *(row.factor for row in rows)]
    return rows, min(factors), max(factors)


def _pairs(known: Iterable[CpuPoint]) -> list[CpuPoint]:
    return [point for point in known if len(point.figures) > 1 and point.figures[0][0] == 1]


def _scaled_ms(multiply_adds_millions: float, known: Sequence[AcceleratorPoint]) -> float:
    sizes = [math.log(point.multiply_adds_millions) for point in known]
    size = math.log(multiply_adds_millions)
    if len(known) < _LEAST_FOR_EXPONENT or len(set(sizes)) == 1:
        nearest = min(known, key=lambda point: abs(math.log(point.multiply_adds_millions) - size))
        return nearest.latency_ms * multiply_adds_millions / nearest.multiply_adds_millions
    exponent, constant = statistics.linear_regression(sizes, [math.log(point.latency_ms) for point in known])
    return math.exp(constant + exponent * size)
