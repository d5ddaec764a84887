"""The job `memory`: the peaks of a process that opens an artefact and runs one component a few times.

    {"job": "memory", "bundle": PATH, "component": NAME, "threads": N, "runs": R}

It runs in a child, the job `run`, which is watched from outside; with `native` in the job, in that program.
"""

from __future__ import annotations

import contextlib
import gc
import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgevlm import schema
from edgevlm.errors import DeviceError
from edgevlm.onboard import native
from edgevlm.onboard.engines import make
from edgevlm.onboard.failures import ended_without_a_word, from_json
from edgevlm.onboard.figures import Memory
from edgevlm.onboard.watching import MEMORY, poll, status
from edgevlm.process.progress import Progress

_READY = "opening the artefact"


def watch(job: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
    """Runs the child and watches it; a `Memory` in plain values.

    Raises:
        DeviceError: the child failed, or the system does not say what memory a process has.
    """
    if not Path("/proc/self/status").exists():
        raise DeviceError("the memory of a process is read from /proc, which only Linux has")
    if "native" in job:
        by_runner: Mapping[str, Any] = schema.write(native.watch(job))
        return by_runner
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "edgevlm.onboard"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        peaks, said = _watch(child, {**job, "job": "run"})
    finally:
        child.kill()
        ended = child.wait()
    if said is None:
        raise ended_without_a_word(ended)
    if "error" in said:
        raise from_json(said["error"])
    # A quick model may be done before it is seen; what it holds at its end is part of the peak.
    last = said["result"]["status"]
    anonymous, mapped, resident = (max(peaks[key], last[key]) for key in ("RssAnon:", "RssFile:", "VmHWM:"))
    plain: Mapping[str, Any] = schema.write(Memory(anonymous, mapped, resident, said["result"]["before_bytes"]))
    return plain


def run(job: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
    """The job `run`: opens the artefact, runs it, and says what was resident before and after."""
    engine = make(job)
    gc.collect()
    forget_peak()
    before = status(Path("/proc/self/status"))["VmRSS:"]
    progress(_READY, None)
    engine.load()
    engine.prepare()
    for _ in range(job["runs"]):
        answer = engine.run()
    after = status(Path("/proc/self/status"))
    return {"before_bytes": before, "status": after, "answer": [float(value) for value in answer.ravel()]}


def forget_peak() -> None:
    """Has the kernel count `VmHWM` from now on (Linux' Documentation/filesystems/proc.rst, clear_refs)."""
    with contextlib.suppress(OSError):  # a kernel built without it: the peak is then that of the whole process
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _watch(child: subprocess.Popen[str], job: Mapping[str, Any]) -> tuple[dict[str, int], Mapping[str, Any] | None]:
    """The peaks in bytes until the child has said its result, and that; None where it ended without one."""
    if child.stdin is None or child.stdout is None:
        raise ValueError("expected a child with pipes")
    peaks = dict.fromkeys(MEMORY, 0)
    done = threading.Event()
    watcher = threading.Thread(target=poll, args=(Path(f"/proc/{child.pid}/status"), peaks, done))
    watcher.start()
    try:
        child.stdin.write(json.dumps(dict(job)) + "\n")
        child.stdin.flush()
        for line in child.stdout:
            said: Mapping[str, Any] = json.loads(line)
            if "progress" not in said:
                return peaks, said
            if said["progress"]["stage"] == _READY:
                peaks.update(dict.fromkeys(MEMORY, 0))  # what making the sample took is not the artefact's
        return peaks, None
    finally:
        done.set()
        watcher.join()
