"""Work in forked processes, one of which is replaced when it dies or says nothing for too long."""

from __future__ import annotations

import dataclasses
import json
import os
import select
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from edgevlm.benchmarks.attacks.outcomes import Outcome

_AT_ONCE = 200
"""After so many a worker makes room for a fresh one."""


def run(
    kind: str, what: str, numbers: Sequence[int], work: Callable[[int], Outcome], *, seconds: float
) -> Iterator[Outcome]:
    """The outcome of each numbered attack, in order. A death, or one that has to be stopped, is an outcome too.

    Args:
        kind, what: Of outcomes that no worker lives to tell.
        numbers: Which attacks.
        work: What a worker does with a number.
        seconds: Of wall time that one may take.
    """
    waiting = deque(numbers)
    while waiting:
        worker, pipe = _start(list(waiting)[:_AT_ONCE], work)
        hung = False
        for outcome in _told(pipe, seconds):
            if outcome is None:
                hung = True
                os.kill(worker, signal.SIGKILL)
                break
            waiting.popleft()
            yield outcome
        os.close(pipe)
        code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
        if hung:
            yield Outcome(kind, what, waiting.popleft(), "hung", f"silent for {seconds:g} s")
        elif code and waiting:
            yield Outcome(kind, what, waiting.popleft(), "died", f"exit code {code}")


def _start(numbers: Sequence[int], work: Callable[[int], Outcome]) -> tuple[int, int]:
    """A worker's process id, and the end of a pipe from which its outcomes come, a line of JSON each."""
    ours, theirs = os.pipe()
    worker = os.fork()
    if worker:
        os.close(theirs)
        return worker, ours
    code = 1
    try:
        os.close(ours)
        with os.fdopen(theirs, "w") as report:
            for number in numbers:
                print(json.dumps(dataclasses.asdict(work(number))), file=report, flush=True)
        code = 0
    finally:
        os._exit(code)


def _told(pipe: int, seconds: float) -> Iterator[Outcome | None]:
    """A worker's outcomes until it ends; None where it says nothing for so long."""
    pending = b""
    while True:
        if not select.select([pipe], [], [], seconds)[0]:
            yield None
            return
        chunk = os.read(pipe, 1 << 16)
        if not chunk:
            return
        *lines, pending = (pending + chunk).split(b"\n")
        yield from (Outcome(**json.loads(line)) for line in lines)
