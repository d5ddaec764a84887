"""Work in forked processes, one of which is replaced when it dies or says nothing for too long."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from edgevlm.benchmarks.attacks.outcomes import Outcome
from edgevlm.benchmarks.forked import Tell, fork, told

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

    def attack(tell: Tell) -> None:
        for number in list(waiting)[:_AT_ONCE]:
            tell(dataclasses.asdict(work(number)))

    while waiting:
        worker, pipe = fork(attack)
        hung = False
        for fields in told(pipe, seconds):
            if fields is None:
                hung = True
                os.kill(worker, signal.SIGKILL)
                break
            waiting.popleft()
            yield Outcome(**fields)
        os.close(pipe)
        code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
        if hung:
            yield Outcome(kind, what, waiting.popleft(), "hung", f"silent for {seconds:g} s")
        elif code and waiting:
            yield Outcome(kind, what, waiting.popleft(), "died", f"exit code {code}")
