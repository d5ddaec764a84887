"""`.pte` files on a board without torch: the jobs `time` and `memory` by the runner that is sent along.

    {"job": "time", "bundle": PATH, "component": NAME, "seconds": S, "native": PROGRAM}

The runner (`edgevlm/emulation/runner.cpp`) has one thread.
"""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgevlm.bundle.bundle import Bundle
from edgevlm.onboard.engines import sample_inputs
from edgevlm.onboard.failures import ended_without_a_word
from edgevlm.onboard.figures import Memory, Times, spread
from edgevlm.onboard.pages import drop, resident_share
from edgevlm.onboard.watching import MEMORY, poll
from edgevlm.process import interrupts
from edgevlm.targets.boundary import find_component

LEAST_RUNS, MOST_RUNS = 5, 1_000_000


def clock(job: Mapping[str, Any], bundle: Bundle) -> Times:
    """Times a component: a first process loads it with its pages dropped, a second runs it for the time asked for."""
    file = bundle.path / bundle.components[job["component"]].file
    drop([file])
    share = resident_share([file])
    cold = _run(job, bundle, LEAST_RUNS)[0]
    runs = int(1e3 * float(job["seconds"]) / max(min(cold["runs_ms"]), 1e-3))
    warm = _run(job, bundle, min(max(runs, LEAST_RUNS), MOST_RUNS))[0]
    return Times(cold["load_ms"], share, cold["first_ms"], spread(warm["runs_ms"]))


def watch(job: Mapping[str, Any]) -> Memory:
    """The peaks of the runner's process, which has nothing in memory before it opens the artefact but itself."""
    _, peaks = _run(job, Bundle.open(job["bundle"]), job["runs"])
    return Memory(peaks["RssAnon:"], peaks["RssFile:"], peaks["VmHWM:"], 0)


def _run(job: Mapping[str, Any], bundle: Bundle, runs: int) -> tuple[dict[str, Any], dict[str, int]]:
    """What the runner says, and the peaks of its memory in bytes.

    Raises:
        OutOfMemory: it was killed for want of memory.
        DeviceError: it failed.
    """
    component = find_component(dict(bundle.components), job["component"])
    with interrupts.temporary_folder() as folder:
        paths = []
        for index, array in enumerate(sample_inputs(bundle, job["component"]).values()):
            paths.append(folder / f"input-{index}")
            array.tofile(paths[-1])
        command: Sequence[str | Path] = [job["native"], bundle.path / component.file, component.spec.name, str(runs)]
        process = subprocess.Popen(
            [*command, folder, *paths], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        peaks = dict.fromkeys(MEMORY, 0)
        done = threading.Event()
        watcher = threading.Thread(target=poll, args=(Path(f"/proc/{process.pid}/status"), peaks, done))
        watcher.start()
        try:
            stdout, stderr = process.communicate()
        finally:
            process.kill()
            done.set()
            watcher.join()
    if process.returncode:
        raise ended_without_a_word(process.returncode, stderr)
    said: dict[str, Any] = json.loads(stdout.splitlines()[-1])
    return said, peaks
