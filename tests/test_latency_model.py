"""The latency model: its formulas by hand, its errors by another way, and the published points that it is fitted to."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fetching import skipped_offline
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevlm.bench.estimates.latency_model import (
    BUS_SPREAD,
    NPU_SPREAD,
    Prediction,
    accelerators_left_out,
    fit,
    left_out,
    parallel_shares,
    predict,
    scale,
    speedup,
)
from edgevlm.bench.estimates.published import AcceleratorPoint, CpuPoint, points
from edgevlm.benchmarks.calibration.__main__ import POINTS, with_counts
from edgevlm.benchmarks.calibration.counting import bundle, cluster, count, split
from edgevlm.benchmarks.calibration.networks import NETWORKS, build, multiply_adds
from edgevlm.benchmarks.calibration.study import tables
from edgevlm.benchmarks.measuring import RESULTS
from edgevlm.devices.profile import builtin
from edgevlm.errors import DeviceError, InputError


def cpu(instructions: int, latency_ms: dict[str, float], *, lanes: int = 4, precision: str = "fp32") -> CpuPoint:
    name, clock_mhz = f"network of {instructions} {precision}", 1000
    return CpuPoint(name, "XNNPACK", "board", "core", lanes, clock_mhz, latency_ms, instructions, "cortex-a72", "paper")


# One instruction a cycle, all of it parallel; four instructions a cycle, 0.8 of it parallel.
SLOW, QUICK = cpu(10**8, {"1": 100.0, "2": 50.0}), cpu(4 * 10**8, {"1": 100.0, "4": 40.0})


def ask(known: tuple[CpuPoint, ...] | None = (SLOW, QUICK), **given: Any) -> Prediction:
    plain = {
        "instructions": 2 * 10**8,
        "fma_lanes": 4,
        "clock_mhz": 1000,
        "threads": 1,
        "reads_bytes": 0,
        "bandwidth_gb_s": 0.0,
    }
    asked = plain | given
    return predict(asked.pop("instructions"), **asked, known=known)


# Formulas, worked out by hand


def test_one_thread_takes_the_geometric_mean_of_what_the_points_say() -> None:
    found = fit((SLOW, QUICK))
    assert found.instructions_a_cycle == {(4, False): pytest.approx(2.0)}  # sqrt(1 * 4)
    assert found.parallel_share == pytest.approx(0.9)  # between 1 and 0.8
    prediction = ask()
    # Left out, SLOW is predicted at 25 ms and takes 100; QUICK at 400 ms and takes 100.
    assert prediction.middle_ms == pytest.approx(100.0)
    assert (prediction.low_ms, prediction.high_ms) == (pytest.approx(25.0), pytest.approx(400.0))
    assert prediction.error == pytest.approx(3.0)
    assert prediction.bound_by == "instructions"
    assert prediction.calibration == (SLOW.called, QUICK.called)


def test_threads_divide_the_parallel_share() -> None:
    assert speedup(0.9, 1) == 1
    assert speedup(0.9, 2) == pytest.approx(1 / 0.55)
    assert parallel_shares((SLOW, QUICK)) == (pytest.approx(1.0), pytest.approx(0.8))
    assert ask(threads=2).middle_ms == pytest.approx(55.0)
    # The one row on two threads is SLOW's: from QUICK alone, 25 ms on one thread and 15 on two; 50 were published.
    assert (ask(threads=2).low_ms, ask(threads=2).high_ms) == (pytest.approx(55.0), pytest.approx(55.0 * 50 / 15))


def test_a_width_with_figures_on_four_threads_alone_is_taken_back_to_one() -> None:
    wide = cpu(10**8, {"4": 10.0}, lanes=8)
    found = fit((SLOW, QUICK, wide))
    # 10 instructions a cycle on four cores, which are 1 / (0.1 + 0.9 / 4) = 3.077 times as fast as one.
    assert found.instructions_a_cycle[8, False] == pytest.approx(3.25)
    on_four = ask((SLOW, QUICK, wide), fma_lanes=8, threads=4)
    assert on_four.middle_ms == pytest.approx(20.0)
    # Without it, cores of four lanes and the square root of two: 2.828 a cycle, and 11.49 ms on four threads.
    assert on_four.low_ms == pytest.approx(20.0 * 10 / (10**8 / (2 * math.sqrt(2) * 1e6) * 0.325))
    on_one = ask((SLOW, QUICK, wide), fma_lanes=8)
    assert on_one.middle_ms == pytest.approx(20.0 * 1 / 0.325)
    # Were all of it parallel, one thread would take four times as long as four; with 0.8, 2.5 times.
    assert on_one.low_ms == pytest.approx(on_four.low_ms * 2.5)
    assert on_one.high_ms == pytest.approx(max(on_one.middle_ms, on_four.low_ms * 4))


def test_integers_have_a_rate_of_their_own() -> None:
    integer = cpu(6 * 10**8, {"1": 100.0}, precision="int8")
    known = (SLOW, QUICK, integer)
    assert fit(known).instructions_a_cycle == {(4, False): pytest.approx(2.0), (4, True): pytest.approx(6.0)}
    found = ask(known, integer=True)
    assert found.middle_ms == pytest.approx(100.0 / 3)
    # Left out, it is predicted as the others are, at 300 ms; those stay as they were.
    assert (found.low_ms, found.high_ms) == (pytest.approx(100.0 / 12), pytest.approx(400.0 / 3))
    assert ask(known).middle_ms == pytest.approx(100.0)
    # Nothing of integers is known on two threads, so that all that is known widens it, whatever the share may be.
    on_two, as_floats = ask(known, integer=True, threads=2), ask(known, threads=2)
    assert on_two.high_ms / on_two.middle_ms > 400.0 / 100.0
    assert as_floats.high_ms / as_floats.middle_ms == pytest.approx(50 / 15)
    # Cores of twice the width: the square root of two more of the same kind, whatever floats do there.
    wide = cpu(10**9, {"1": 100.0}, lanes=8)
    assert ask((*known, wide), integer=True, fma_lanes=8).middle_ms == pytest.approx(100.0 / 3 / math.sqrt(2))
    assert ask(integer=True).middle_ms == pytest.approx(100.0)  # no such point: as floats


def test_reading_weights_bounds_it_where_that_takes_longer() -> None:
    bound = ask(reads_bytes=10**9, bandwidth_gb_s=5.0)
    assert bound.bound_by == "bandwidth"
    assert (bound.low_ms, bound.middle_ms) == (pytest.approx(200.0), pytest.approx(200.0))
    assert bound.high_ms == pytest.approx(200.0 * BUS_SPREAD)
    assert ask(reads_bytes=10**9).middle_ms == pytest.approx(100.0)  # nothing is known of the memory
    assert ask(reads_bytes=10**8, bandwidth_gb_s=5.0).bound_by == "instructions"


def test_a_width_without_points_is_between_no_gain_and_the_whole() -> None:
    found = ask(fma_lanes=16)
    assert found.middle_ms == pytest.approx(100.0 / 2)  # four times the lanes, twice the rate
    assert found.low_ms <= 25.0
    assert found.high_ms >= 100.0
    assert found.calibration == (SLOW.called, QUICK.called)


def test_what_cannot_be_estimated_is_refused() -> None:
    with pytest.raises(DeviceError, match="unknown width") as raised:
        ask(fma_lanes=0)
    assert "fma_lanes" in (raised.value.hint or "")
    for known in ((), (cpu(10**8, {"1": 100.0}),)):
        with pytest.raises(DeviceError, match="no published latency on one thread and on several"):
            ask(known)
    with pytest.raises(DeviceError, match="too few"):
        ask((SLOW,))


# Accelerators


def npu(millions: float, latency_ms: float, device: str = "phone") -> AcceleratorPoint:
    return AcceleratorPoint(f"network of {millions}", device, "npu", latency_ms, millions, "paper")


def test_an_accelerator_is_fitted_as_a_power() -> None:
    known = (npu(1, 2), npu(4, 4), npu(16, 8))  # 2 M^0.5
    found = scale(64, known)
    assert found.middle_ms == pytest.approx(16.0)
    assert found.bound_by == "calibration point"
    # Two points are too few for an exponent: left out, they are scaled in proportion to 1, 8 and 16 ms.
    assert [row.predicted_ms for row in accelerators_left_out(known)] == pytest.approx([1, 8, 16])
    assert (found.low_ms, found.high_ms) == (pytest.approx(8.0), pytest.approx(32.0))
    assert found.error == pytest.approx(1.0)
    assert found.calibration == tuple(point.called for point in known)


def test_one_point_promises_little() -> None:
    found = scale(30, (npu(10, 2),))
    assert found.middle_ms == pytest.approx(6.0)
    assert (found.low_ms, found.high_ms) == (pytest.approx(0.8), pytest.approx(45.0))
    assert NPU_SPREAD == 7.5
    assert scale(30, (npu(10, 2), npu(1000, 2))).middle_ms == pytest.approx(6.0)  # the nearer in size


def test_without_a_point_there_is_no_estimate() -> None:
    with pytest.raises(DeviceError, match="nobody published a latency on this device's accelerator"):
        scale(300, ())
    with pytest.raises(DeviceError, match="expected multiply-adds, got 0 million"):
        scale(0, (npu(10, 2),))
    with pytest.raises(ValueError, match="one device and unit"):
        scale(30, (npu(10, 2), npu(20, 3, "tablet")))


# Everywhere


@settings(deadline=None, max_examples=50)
@given(
    instructions=st.integers(10**6, 10**11),
    lanes=st.sampled_from((2, 4, 8, 16)),
    clock_mhz=st.integers(600, 4000),
    threads=st.integers(1, 8),
    reads_bytes=st.integers(0, 10**9),
    bandwidth_gb_s=st.sampled_from((0.0, 5.5, 200.0)),
    integer=st.booleans(),
    more=st.floats(1.0, 3.0),
)
def test_more_work_never_takes_less(
    instructions: int,
    lanes: int,
    clock_mhz: int,
    threads: int,
    reads_bytes: int,
    bandwidth_gb_s: float,
    integer: bool,
    more: float,
) -> None:
    given_ = {
        "instructions": instructions,
        "fma_lanes": lanes,
        "clock_mhz": clock_mhz,
        "threads": threads,
        "reads_bytes": reads_bytes,
        "bandwidth_gb_s": bandwidth_gb_s,
        "integer": integer,
    }
    found = ask(None, **given_)
    assert 0 < found.low_ms <= found.middle_ms <= found.high_ms
    harder = (
        {"instructions": math.ceil(instructions * more)},
        {"reads_bytes": math.ceil(reads_bytes * more)},
        {"clock_mhz": max(1, math.floor(clock_mhz / more))},
        {"fma_lanes": lanes // 2},
    )
    for change in harder:
        assert ask(None, **given_ | change).middle_ms >= found.middle_ms * (1 - 1e-9)
    assert ask(None, **given_ | {"threads": threads + 1}).middle_ms <= found.middle_ms * (1 + 1e-9)


@settings(deadline=None, max_examples=50)
@given(millions=st.floats(1.0, 1e5), more=st.floats(1.0, 10.0))
def test_a_larger_network_never_takes_less(millions: float, more: float) -> None:
    for device in {point.device for point in points().accelerators}:
        own = [point for point in points().accelerators if point.device == device]
        found, larger = scale(millions, own), scale(millions * more, own)
        assert 0 < found.low_ms <= found.middle_ms <= found.high_ms
        assert larger.middle_ms >= found.middle_ms * (1 - 1e-9)


def test_leaving_out_agrees_with_a_plain_account_of_it() -> None:
    """The same from the file's figures, written down again without the model's functions."""
    expected = []
    for index, point in enumerate(points().cpu):
        rest = [each for number, each in enumerate(points().cpu) if number != index]
        shares = sorted(
            (1 - each.latency_ms[n] / each.latency_ms["1"]) * int(n) / (int(n) - 1)
            for each in rest
            for n in each.latency_ms
            if "1" in each.latency_ms and n != "1"
        )
        half = len(shares) // 2
        share = shares[half] if len(shares) % 2 else (shares[half - 1] + shares[half]) / 2
        precision, widened = point.network[-4:], 1.0
        alike = [each for each in rest if (each.network[-4:], each.fma_lanes) == (precision, point.fma_lanes)]
        if not alike:
            alike = [each for each in rest if each.network[-4:] == precision]
            assert {each.fma_lanes for each in alike} == {4}
            widened = 2**0.5
        if any("1" in each.latency_ms for each in alike):
            alike = [each for each in alike if "1" in each.latency_ms]
        logs = []
        for each in alike:
            fewest = min(each.latency_ms, key=int)
            seconds = each.latency_ms[fewest] / 1e3 / (1 - share + share / int(fewest))
            logs.append(math.log(each.instructions / seconds / each.clock_mhz / 1e6))
        rate = math.exp(sum(logs) / len(logs)) * widened
        for n, published_ms in sorted(point.latency_ms.items(), key=lambda each: int(each[0])):
            seconds = point.instructions / rate / (point.clock_mhz * 1e6) * (1 - share + share / int(n))
            expected.append((int(n), published_ms, pytest.approx(1e3 * seconds)))
    rows = [(row.threads, row.published_ms, row.predicted_ms) for row in left_out(points().cpu)]
    assert rows == expected


def test_every_published_figure_is_within_the_band_of_its_own_width() -> None:
    for point in points().cpu:
        for threads, latency_ms in point.figures:
            found = predict(
                point.instructions,
                fma_lanes=point.fma_lanes,
                clock_mhz=point.clock_mhz,
                threads=threads,
                reads_bytes=0,
                bandwidth_gb_s=0,
                integer=point.integer,
            )
            assert found.low_ms * (1 - 1e-9) <= latency_ms <= found.high_ms * (1 + 1e-9)
            assert point.called in found.calibration


# The points


def kept() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / "calibration.json").read_text(encoding="utf-8"))
    return found


def test_every_point_has_its_source() -> None:
    assert {point.fma_lanes for point in points().cpu} == {4, 8}
    for point in points().cpu:
        assert point.instructions > 10**6
        assert all(latency_ms > 0 for _, latency_ms in point.figures)
        assert len(point.source) > 20
        assert split(point.network)[0] in NETWORKS
    for each in points().accelerators:
        assert each.device in builtin()
        assert min(each.latency_ms, each.multiply_adds_millions) > 0
        assert len(each.source) > 20
    assert {point.device for point in points().accelerators} == {"galaxy-s23", "galaxy-s24-ultra", "iphone-12-pro-max"}


def test_no_figure_is_beyond_the_peak_of_its_cores() -> None:
    """Else the lanes, the clock or the number of threads would be wrong; one core of a Pi 5 could not do it."""
    single = []
    for point, work in zip(points().cpu, kept()["counted"], strict=True):
        assert work["instructions"] == point.instructions
        lanes = point.fma_lanes if point.network.endswith("fp32") else 32 if "A76" in point.core else 8
        executed = max(work["float_multiply_adds"], work["integer_multiply_adds"])
        assert work["multiply_adds"] <= executed < 1.1 * work["multiply_adds"]
        for threads, latency_ms in point.figures:
            rate = work["multiply_adds"] / (latency_ms * point.clock_mhz * 1e3)
            assert rate < lanes * threads
            single.append((point.device, rate / lanes))
    assert max(rate for device, rate in single if device == "Raspberry Pi 5") > 2


def test_the_kept_table_is_what_the_points_say() -> None:
    found = json.loads(json.dumps(tables(points())))
    assert found == {name: kept()[name] for name in found}


def test_counts_are_written_in_the_order_of_the_points() -> None:
    text = POINTS.read_text(encoding="utf-8")
    assert with_counts(text, points().cpu) == text
    changed = [replace(point, instructions=number) for number, point in enumerate(points().cpu)]
    lines = [line for line in with_counts(text, changed).splitlines() if line.startswith("    instructions:")]
    assert lines == [f"    instructions: {number}" for number in range(len(changed))]


@pytest.mark.parametrize(
    ("name", "millions"),
    [  # as the papers say, but for MobileNetV3 Small's 56, which is torchvision's count of the paper's table
        ("MobileNetV1", 569),
        ("MobileNetV2", 300),
        ("MobileNetV3 Large", 217),
        ("MobileNetV3 Small", 56.5),
        ("ResNet-18", 1814),
        ("ResNet-50", 4089),
    ],
)
def test_the_networks_are_those_that_were_published(name: str, millions: float) -> None:
    assert multiply_adds(build(name)) / 1e6 == pytest.approx(millions, rel=0.005)


def test_an_unknown_network_is_refused() -> None:
    for named in ("MobileNetV2", "MobileNetV2 int4", "AlexNet fp32"):
        with pytest.raises(InputError, match="expected one of MobileNetV1"):
            split(named)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="not installed: qemu-aarch64")
def test_counting_again_gives_what_is_kept(tmp_path: Path) -> None:
    point = next(each for each in points().cpu if each.network == "MobileNetV3 Small fp32")
    with skipped_offline():
        again = count(bundle(point.network, tmp_path / "bundle"), point)
    assert again.counts.instructions == pytest.approx(point.instructions, rel=0.005)  # a few in a thousand vary
    assert cluster(point).stands_in
    with pytest.raises(InputError, match="expected a library"):
        count(bundle(point.network, tmp_path / "other"), replace(point, library="ncnn"))
