"""The job `memory`: the peaks of a process that opens an artefact and runs one component three times.

    {"job": "memory", "bundle": PATH, "component": NAME, "threads": N}

It runs in a child, the job `run`, whose `/proc/PID/status` is read every two milliseconds: the kernel keeps the peak of
all that is resident, and of its anonymous part only what it is now.
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
from edgevlm.interfaces import Progress
from edgevlm.onboard.engines import make
from edgevlm.onboard.failures import ended_without_a_word, from_json
from edgevlm.onboard.figures import Memory

RUNS = 3
_EVERY_SECONDS = 0.002
_READY = "opening the artefact"
_MEMORY = {"RssAnon:", "RssFile:", "VmHWM:", "VmRSS:"}


def watch(job: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
    """Runs the child and watches it; a `Memory` in plain values.

    Raises:
        DeviceError: the child failed, or the system does not say what memory a process has.
    """
    if not Path("/proc/self/status").exists():
        raise DeviceError("the memory of a process is read from /proc, which only Linux has")
    child = subprocess.Popen(
        [sys.executable, "-m", "edgevlm.onboard"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
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
    before = said["result"]["before_bytes"]
    plain: Mapping[str, Any] = schema.write(Memory(peaks["RssAnon:"], peaks["RssFile:"], peaks["VmHWM:"], before))
    return plain


def run(job: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
    """The job `run`: opens the artefact, runs it, and says what was resident before."""
    engine = make(job)
    gc.collect()
    forget_peak()
    before = status(Path("/proc/self/status"))["VmRSS:"]
    progress(_READY, None)
    engine.load()
    for _ in range(RUNS):
        answer = engine.run()
    return {"before_bytes": before, "answer": [float(value) for value in answer.ravel()]}


def forget_peak() -> None:
    """Has the kernel count `VmHWM` from now on (Linux' Documentation/filesystems/proc.rst, clear_refs)."""
    with contextlib.suppress(OSError):  # a kernel built without it: the peak is then that of the whole process
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def status(path: Path) -> dict[str, int]:
    """The sizes in a `/proc/PID/status`, in bytes; empty once the process has ended."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    words = (line.split() for line in lines)
    return {each[0]: int(each[1]) * 1024 for each in words if each and each[0] in _MEMORY and len(each) > 1}


def _watch(child: subprocess.Popen[str], job: Mapping[str, Any]) -> tuple[dict[str, int], Mapping[str, Any] | None]:
    """The peaks in bytes until the child has said its result, and that; None where it ended without one."""
    if child.stdin is None or child.stdout is None:
        raise ValueError("expected a child with pipes")
    peaks = dict.fromkeys(_MEMORY, 0)
    done = threading.Event()
    watcher = threading.Thread(target=_poll, args=(Path(f"/proc/{child.pid}/status"), peaks, done))
    watcher.start()
    try:
        child.stdin.write(json.dumps(dict(job)) + "\n")
        child.stdin.flush()
        for line in child.stdout:
            said: Mapping[str, Any] = json.loads(line)
            if "progress" not in said:
                return peaks, said
            if said["progress"]["stage"] == _READY:
                peaks.update(dict.fromkeys(_MEMORY, 0))  # what making the sample took is not the artefact's
        return peaks, None
    finally:
        done.set()
        watcher.join()


def _poll(path: Path, peaks: dict[str, int], done: threading.Event) -> None:
    while not done.is_set():
        for name, size in status(path).items():
            peaks[name] = max(peaks[name], size)
        done.wait(_EVERY_SECONDS)
