"""The job `sustained`: inference without a pause, for the heat that it makes.

{"job": "sustained", "bundle": PATH, "component": NAME, "threads": N, "seconds": S}
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
from collections.abc import Mapping
from typing import Any

from edgevlm import schema
from edgevlm.onboard.engines import make
from edgevlm.onboard.figures import Sustained, Window
from edgevlm.onboard.system import clock_mhz, temperature_c
from edgevlm.process.progress import Progress

WINDOW_SECONDS = 1.0
_THROTTLING = ("vcgencmd", "get_throttled")  # Raspberry Pi's; 0x0 means never since it was switched on


def sustain(job: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
    """A `Sustained` in plain values."""
    engine = make(job)
    engine.load()
    engine.prepare()
    engine.run()
    seconds = float(job["seconds"])
    windows = []
    began = time.monotonic()
    while (now := time.monotonic() - began) < seconds:
        progress(f"running without a pause, {now:.0f} of {seconds:.0f} s", now / seconds)
        times_ms: list[float] = []
        end = time.perf_counter() + min(WINDOW_SECONDS, seconds)
        while not times_ms or time.perf_counter() < end:
            start = time.perf_counter()
            engine.run()
            times_ms.append(1e3 * (time.perf_counter() - start))
        at = time.monotonic() - began
        windows.append(Window(at, statistics.median(times_ms), temperature_c(), clock_mhz()))
    plain: Mapping[str, Any] = schema.write(Sustained(tuple(windows), _throttled()))
    return plain


def _throttled() -> str | None:
    if shutil.which(_THROTTLING[0]) is None:
        return None
    done = subprocess.run(_THROTTLING, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
