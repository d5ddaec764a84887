"""What the gate knows of times: its interval against all orders there are, how often it is wrong on invented runs."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass, replace

import bench_results
import numpy as np
import pytest

from edgevlm.bench.ratios import ONE_IN, UNKNOWN, interval, ratio
from edgevlm.bench.results import Measured, Process
from edgevlm.errors import InputError
from edgevlm.onboard.figures import Times, pooled, spread

LIMIT = 0.05


@dataclass(frozen=True)
class Machine:
    """What an invented machine does to times, in shares: nothing of it is in the artefact.

    Attributes:
        luck: How processes differ, standard deviation.
        bursts: Share of the processes that other work hits, which makes them half as slow again, or far slower.
        today: How runs differ, standard deviation: what else the machine does meanwhile.
    """

    luck: float
    bursts: float
    today: float

    def run(self, draws: np.random.Generator, median_ms: float, processes: int) -> Measured:
        """A run of an artefact whose inferences take so long where nothing else does anything."""
        today = math.exp(abs(draws.normal(0, self.today)))
        found = []
        for _ in range(processes):
            burst = 1 + 0.5 * draws.pareto(2) if draws.random() < self.bursts else 1.0
            here = median_ms * math.exp(draws.normal(0, self.luck)) * burst * today ** draws.uniform(0.3, 1)
            times_ms = here * (1 + 0.05 * np.abs(draws.standard_t(2, 50)))  # heavy tails
            yardstick = 0.2 * today * burst * math.exp(draws.normal(0, self.luck))
            found.append(Times(1.0, None, 2.0, spread(list(map(float, times_ms))), yardstick_ms=yardstick))
        return measured(*found)


def measured(*found: Times) -> Measured:
    base = bench_results.measured("host", bench_results.artefact("int8", "tflite"), "encode_image", 1, 1.0)
    processes = tuple(Process(each.engine_ms.median, each.engine_ms.runs, each.yardstick_ms) for each in found)
    return replace(base, times=pooled(found), processes=processes)


def steady(*medians_ms: float, yardstick_ms: float | None = 0.2) -> Measured:
    return measured(*(Times(1.0, None, 2.0, spread([each]), yardstick_ms=yardstick_ms) for each in medians_ms))


QUIET = Machine(luck=0.01, bursts=0.0, today=0.005)
BUSY = Machine(luck=0.05, bursts=0.15, today=0.05)
VERY_BUSY = Machine(luck=0.12, bursts=0.3, today=0.25)


@pytest.mark.parametrize(
    ("machine", "slowdown", "processes", "found", "missed"),
    [  # regressions that are found, at least and at most; and those called none, at most
        (QUIET, 1.0, 3, (0.0, 0.01), 1.0),
        (QUIET, 1.05, 3, (0.0, 0.05), 0.05),
        (QUIET, 1.2, 3, (0.99, 1.0), 0.0),
        (QUIET, 10.0, 3, (1.0, 1.0), 0.0),
        (BUSY, 1.0, 3, (0.0, 0.01), 1.0),
        (BUSY, 1.05, 3, (0.0, 0.05), 0.05),
        (BUSY, 1.2, 3, (0.3, 1.0), 0.01),
        (BUSY, 1.2, 10, (0.7, 1.0), 0.0),
        (BUSY, 10.0, 3, (0.99, 1.0), 0.0),
        (VERY_BUSY, 1.0, 3, (0.0, 0.02), 1.0),
        (VERY_BUSY, 1.05, 3, (0.0, 0.05), 0.05),
        (VERY_BUSY, 1.2, 3, (0.0, 0.2), 0.02),
        (VERY_BUSY, 10.0, 3, (0.98, 1.0), 0.0),
    ],
)
def test_slowdowns_under_load(
    machine: Machine, slowdown: float, processes: int, found: tuple[float, float], missed: float
) -> None:
    draws, trials = np.random.default_rng(7), 200
    pairs = ((machine.run(draws, 2.0, processes), machine.run(draws, 2.0 * slowdown, processes)) for _ in range(trials))
    verdicts = Counter(ratio(old, new).verdict(LIMIT) for old, new in pairs)
    assert found[0] <= verdicts["regression"] / trials <= found[1], verdicts
    passed = trials - verdicts["regression"] - verdicts["cannot tell"]
    assert passed / trials <= missed, verdicts


def test_a_quiet_machine_says_that_nothing_is_slower() -> None:
    draws = np.random.default_rng(8)
    pairs = [(QUIET.run(draws, 2.0, 3), QUIET.run(draws, 2.0, 3)) for _ in range(200)]
    assert sum(ratio(old, new).verdict(LIMIT) in ("same", "slower", "faster") for old, new in pairs) > 180


@pytest.mark.parametrize(("olds", "news"), [(3, 3), (3, 5), (4, 4), (5, 5), (2, 5)])
def test_an_end_is_wrong_in_one_of_twenty_at_most_and_not_much_rarer(olds: int, news: int) -> None:
    """All orders in which times of two equal runs can come, of which each is as likely as another."""
    times = [1.0 + 0.001 * each**2 for each in range(olds + news)]
    beyond = total = 0
    for chosen in itertools.combinations(range(len(times)), olds):
        old = [times[each] for each in chosen]
        new = [time for each, time in enumerate(times) if each not in chosen]
        beyond += interval(old, new)[0] > 1
        total += 1
    assert total / ONE_IN / 2.1 < beyond <= total / ONE_IN


def test_an_interval_worked_out_by_hand() -> None:
    assert interval([2.0, 2.0, 2.5], [4.0, 5.0, 5.0]) == (1.6, 2.0, 2.5)
    assert interval([2.0, 2.0], [4.0, 4.0]) == (2.0 / UNKNOWN, 2.0, 2.0 * UNKNOWN)
    four = interval([1.0, 1.0, 1.0, 5.0], [1.0, 1.0, 1.0, 1.0])
    assert four[:2] == (0.2, 1.0)
    assert four[2] == 1.0


def test_one_process_of_five_in_a_burst_hides_no_regression() -> None:
    found = ratio(steady(2.0, 2.01, 2.02, 2.03, 2.0), steady(2.4, 2.41, 2.42, 9.0, 2.4))
    assert found.verdict(LIMIT) == "regression"
    assert found.middle == pytest.approx(1.2, rel=0.01)
    assert ratio(steady(2.0, 2.01, 2.02, 2.03, 2.0), steady(2.0, 2.01, 2.02, 9.0, 2.03)).verdict(LIMIT) == "cannot tell"


def test_what_the_machine_did_is_not_the_artefacts() -> None:
    old = steady(2.0, 2.01, 2.02)
    assert ratio(old, steady(3.0, 3.01, 3.02)).verdict(LIMIT) == "regression"
    busier = ratio(old, steady(3.0, 3.01, 3.02, yardstick_ms=0.4))
    assert busier.verdict(LIMIT) == "cannot tell"
    assert busier.caveats == ("the machine itself was 2.0x slower",)
    assert ratio(old, steady(30.0, 30.1, 30.2, yardstick_ms=0.4)).verdict(LIMIT) == "regression"
    faster = ratio(
        old, steady(2.0, 2.01, 2.02, yardstick_ms=0.1)
    )  # it may be twice as slow, on a machine twice as fast
    assert faster.verdict(LIMIT) == "cannot tell"
    assert ratio(steady(2.0, 2.0, 2.0, yardstick_ms=None), steady(2.0, 2.0, 2.0)).verdict(LIMIT) == "same"
    other = replace(old, system=replace(old.system, processor="another"))
    assert ratio(old, other).verdict(LIMIT) == "cannot tell"
    assert ratio(old, other).caveats == ("measured on different machines",)


def test_results_of_one_process_show_only_what_is_plain() -> None:
    def older(median_ms: float) -> Measured:
        return replace(steady(median_ms, yardstick_ms=None), processes=())

    assert ratio(older(2.0), older(2.1)).verdict(LIMIT) == "cannot tell"
    assert ratio(older(2.0), older(2.0)).verdict(LIMIT) == "same"  # not measured again
    assert ratio(older(2.0), older(5.0)).verdict(LIMIT) == "cannot tell"
    assert ratio(older(2.0), older(20.0)).verdict(LIMIT) == "regression"
    assert ratio(older(20.0), older(2.0)).verdict(LIMIT) == "faster"
    assert "of too few processes (1 and 3)" in ratio(older(2.0), steady(2.0, 2.0, 2.0)).caveats[0]
    with pytest.raises(InputError, match="more than 0 ms"):
        ratio(older(0.0), older(2.0))


def test_processes_are_pooled_by_the_middle_one() -> None:
    stages = Times(9.0, 0.25, 7.0, spread([1.0, 2.0, 3.0]), preprocess_ms=spread([5.0]), yardstick_ms=0.3)
    others = [Times(cold, None, 2.0, spread([time] * 4), yardstick_ms=0.1) for cold, time in ((1.0, 4.0), (2.0, 90.0))]
    found = pooled([stages, *others])
    assert (found.cold_load_ms, found.first_ms, found.page_cache_share, found.yardstick_ms) == (2.0, 2.0, 0.25, 0.1)
    assert (found.engine_ms.median, found.engine_ms.min, found.engine_ms.max, found.engine_ms.runs) == (
        4.0,
        1.0,
        90.0,
        11,
    )
    assert found.preprocess_ms == stages.preprocess_ms
