"""The job `time`: cold load, first inference, then warm ones, and what comes before and after the engine.

{"job": "time", "bundle": PATH, "component": NAME, "threads": N, "seconds": S, "stages": true}

Without `stages` only the engine is timed, and not what comes before and after it, which is the same in every process.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from edgevlm import schema
from edgevlm.bundle.bundle import Bundle
from edgevlm.onboard import native
from edgevlm.onboard.engines import Engine, make, stages
from edgevlm.onboard.figures import Spread, Times, spread
from edgevlm.onboard.pages import drop, resident_share
from edgevlm.process.progress import Progress

LEAST_RUNS = 5
_WARM_UP_SECONDS = 0.1
_YARDSTICK_SECONDS = 0.05
_STAGE_SECONDS = 0.2


def clock(job: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
    """Times one component in this process, which has not run it before; a `Times` in plain values."""
    around: Mapping[str, Callable[[], object]]
    before_ms = yardstick_ms()
    if "native" in job:
        bundle = Bundle.open(job["bundle"])
        times, around = native.clock(job, bundle), stages(bundle, job["component"])
    else:
        engine = make(job)
        times, around = _clock(engine, float(job["seconds"])), engine.stages()
    times = replace(times, yardstick_ms=(before_ms + yardstick_ms()) / 2)
    if job.get("stages"):
        beside: dict[str, Any] = {f"{name}_ms": repeat(run, _STAGE_SECONDS) for name, run in around.items()}
        times = replace(times, **beside)
    plain: Mapping[str, Any] = schema.write(times)
    return plain


def _clock(engine: Engine, seconds: float) -> Times:
    drop(engine.files)
    share = resident_share(engine.files)
    cold_load_ms = _once(engine.load)
    engine.prepare()
    first_ms = _once(engine.run)
    return Times(cold_load_ms, share, first_ms, repeat(engine.run, seconds), positions=engine.positions)


def yardstick_ms() -> float:
    """Mean time of a small computation that is the same everywhere: what the machine gives to a process just now.

    The mean and not the median, since other work that takes turns with ours makes some runs much longer, and the rest
    no longer than ever.
    """
    values = np.linspace(0, 1, 1 << 16, dtype=np.float32)
    result = np.empty_like(values)
    return float(np.mean(_for_seconds(lambda: np.exp(values, out=result), _YARDSTICK_SECONDS, LEAST_RUNS)))


def repeat(run: Callable[[], object], seconds: float) -> Spread:
    """Times something again and again.

    Args:
        run: What is timed.
        seconds: About how long, warm-up aside; at least `LEAST_RUNS` runs.
    """
    _for_seconds(run, min(_WARM_UP_SECONDS, seconds), 1)
    return spread(_for_seconds(run, seconds, LEAST_RUNS))


def _for_seconds(run: Callable[[], object], seconds: float, least: int) -> list[float]:
    """Every time in milliseconds. The collector, which would land in some runs and not in others, is off meanwhile."""
    times_ns: list[int] = []
    clock_ns = time.perf_counter_ns
    gc.collect()
    gc.disable()
    try:
        end = clock_ns() + int(seconds * 1e9)
        while len(times_ns) < least or clock_ns() < end:
            began = clock_ns()
            run()
            times_ns.append(clock_ns() - began)
    finally:
        gc.enable()
    return [each / 1e6 for each in times_ns]


def _once(run: Callable[[], object]) -> float:
    began = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - began) / 1e6
