"""The memory of another process, read from `/proc/PID/status` again and again.

The kernel keeps the peak of all that is resident, and of its anonymous part only what it is now.
"""

from __future__ import annotations

import threading
from pathlib import Path

MEMORY = ("RssAnon:", "RssFile:", "VmHWM:", "VmRSS:")
_EVERY_SECONDS = 0.002


def status(path: Path) -> dict[str, int]:
    """The sizes in a `/proc/PID/status`, in bytes; empty once the process has ended."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    words = (line.split() for line in lines)
    return {each[0]: int(each[1]) * 1024 for each in words if each and each[0] in MEMORY and len(each) > 1}


def poll(path: Path, peaks: dict[str, int], done: threading.Event) -> None:
    """Raises `peaks` to what is seen until `done` is set; for a thread of its own."""
    while not done.is_set():
        for name, size in status(path).items():
            peaks[name] = max(peaks[name], size)
        done.wait(_EVERY_SECONDS)
