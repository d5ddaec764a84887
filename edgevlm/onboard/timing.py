"""The job `time`: cold load, first inference, then warm ones, and what comes before and after the engine.

{"job": "time", "bundle": PATH, "component": NAME, "threads": N, "seconds": S, "stages": true}

Without `stages` only the engine is timed, and not what comes before and after it, which is the same in every process.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from edgevlm import schema
from edgevlm.bundle.bundle import Bundle
from edgevlm.inference.embeddings import label_scores
from edgevlm.inputs.pictures import decode, preprocess
from edgevlm.inputs.rows import PIXELS, TOKEN_IDS, takes
from edgevlm.inputs.texts import Tokenizer
from edgevlm.onboard import native
from edgevlm.onboard.engines import TEXT, BundleEngine, Engine, make, sample_jpeg
from edgevlm.onboard.figures import Spread, Times, spread
from edgevlm.onboard.pages import drop, resident_share
from edgevlm.process.progress import Progress
from edgevlm.targets.boundary import find_component

LEAST_RUNS = 5
LABELS = 100
"""Labels that a picture's embedding is compared with after the engine."""
_WARM_UP_SECONDS = 0.1
_YARDSTICK_SECONDS = 0.05


def clock(job: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
    """Times one component in this process, which has not run it before; a `Times` in plain values."""
    bundle = None
    before_ms = yardstick_ms()
    if "native" in job:
        bundle = Bundle.open(job["bundle"])
        times = native.clock(job, bundle)
    else:
        engine = make(job)
        times = _clock(engine, float(job["seconds"]))
        if isinstance(engine, BundleEngine):
            bundle = engine.bundle
    times = replace(times, yardstick_ms=(before_ms + yardstick_ms()) / 2)
    if bundle is not None and job.get("stages"):
        times = replace(times, **_stages(bundle, job["component"]))
    plain: Mapping[str, Any] = schema.write(times)
    return plain


def _clock(engine: Engine, seconds: float) -> Times:
    drop(engine.files)
    share = resident_share(engine.files)
    cold_load_ms = _once(engine.load)
    first_ms = _once(engine.run)
    return Times(cold_load_ms, share, first_ms, repeat(engine.run, seconds))


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


def _stages(bundle: Bundle, component: str) -> dict[str, Any]:
    """What comes before the engine, and what comes after it: a `Spread` for each name of `Times`."""
    manifest, tokenizer = bundle.manifest, Tokenizer.of_bundle(bundle)
    spec = find_component(dict(bundle.components), component).spec
    quick = partial(repeat, seconds=0.2)
    found: dict[str, Spread] = {}
    if takes(spec, TOKEN_IDS) and tokenizer is not None:
        found["tokenise_ms"] = quick(lambda: tokenizer.encode([TEXT]))
    if takes(spec, PIXELS):
        file = sample_jpeg()
        picture = decode(file)
        found["decode_ms"] = quick(lambda: decode(file))
        found["preprocess_ms"] = quick(lambda: preprocess(picture, manifest.image))
        if any(tensor.name == "embedding" for tensor in spec.outputs):
            labels = np.full((LABELS, manifest.embedding.dim), manifest.embedding.dim**-0.5, np.float32)
            found["postprocess_ms"] = quick(
                lambda: label_scores(labels[:1], labels, manifest.embedding.logit_scale, manifest.embedding.logit_bias)
            )
    return found
