"""A forked process that works, and tells of it by lines of JSON through a pipe: one that dies or hangs is survived."""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Callable, Iterator
from typing import Any

Tell = Callable[[dict[str, Any]], None]


def fork(work: Callable[[Tell], None]) -> tuple[int, int]:
    """Starts `work` in a fork of this process.

    Args:
        work: Called there with what sends an object to this process. The fork ends with code 0 where it returns, with 1
            where it raises.

    Returns:
        The fork's process id, and the end of the pipe that `told` reads from.
    """
    sys.stdout.flush()
    ours, theirs = os.pipe()
    if pid := os.fork():
        os.close(theirs)
        return pid, ours
    status = 1
    try:
        os.close(ours)
        with os.fdopen(theirs, "w") as stream:
            work(lambda each: print(json.dumps(each), file=stream, flush=True))
        status = 0
    finally:
        os._exit(status)


def told(pipe: int, seconds: float) -> Iterator[dict[str, Any] | None]:
    """What a fork tells until it ends; None, and no more, where it says nothing for so long."""
    pending = b""
    while True:
        ready, _, _ = select.select([pipe], [], [], seconds)
        if not ready:
            yield None
            return
        chunk = os.read(pipe, 1 << 16)
        if not chunk:
            return
        *lines, pending = (pending + chunk).split(b"\n")
        yield from map(json.loads, lines)
