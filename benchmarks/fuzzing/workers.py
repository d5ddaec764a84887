"""Trials in forked processes of limited memory, which are replaced when they die or take too long."""

from __future__ import annotations

import dataclasses
import faulthandler
import os
import resource
import signal
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgevlm.benchmarks.forked import Tell, fork, told
from edgevlm.benchmarks.fuzzing import sandbox
from edgevlm.benchmarks.fuzzing.corpus import Specimen
from edgevlm.benchmarks.fuzzing.trials import Outcome, Trials
from edgevlm.benchmarks.measuring import resident_mb
from edgevlm.runtimes.mlprogram import memory, steps

_TRIALS = 2000
"""After so many a worker makes room for a fresh one."""


@dataclass(frozen=True)
class Limits:
    """What one trial may take.

    Attributes:
        seconds: Of wall time.
        memory_bytes: Of address space, beyond what a worker has when it begins.
        evaluator_bytes: What the evaluator is told that it may hold: less, so that it is the one to notice.
        evaluator_steps: How long it is told that loops may go on: a two-hundredth of its own limit, to lose no time.
    """

    seconds: float = 20.0
    memory_bytes: int = 2 << 30
    evaluator_bytes: int = 64 << 20
    evaluator_steps: int = 5_000


def run(specimens: Sequence[Specimen], seed: int, numbers: Iterable[int], limits: Limits) -> Iterator[Outcome]:
    """The outcome of each numbered mutant, in order. A death, or a trial that has to be stopped, is an outcome too."""
    waiting = deque(numbers)
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=in_memory) as folder:
        trials = Trials(specimens, seed, Path(folder))
        trace = Path(folder, "trace")
        while waiting:
            trace.write_text("")
            pid, pipe = fork(partial(_work, trials, list(waiting)[:_TRIALS], limits, trace))
            too_slow = False
            for fields in told(pipe, limits.seconds):
                if fields is None:
                    too_slow = True
                    break
                outcome = Outcome(**{**fields, "mutators": tuple(fields["mutators"])})
                assert outcome.number == waiting.popleft()
                yield outcome
            how = _end(pid, pipe, too_slow)
            if how is not None and waiting:
                yield trials.unfinished(waiting.popleft(), how, trace.read_text(errors="replace")[:2000])


def _work(trials: Trials, numbers: Sequence[int], limits: Limits, trace: Path, tell: Tell) -> None:
    with trace.open("w") as stream:
        faulthandler.enable(stream)
        sandbox.install()
        trials.warm_up()
        _limit(limits)
        for number in numbers:
            tell(dataclasses.asdict(trials.run(number)))
        faulthandler.disable()


def _limit(limits: Limits) -> None:
    memory.MOST_BYTES, steps.MOST_STEPS = limits.evaluator_bytes, limits.evaluator_steps
    memory.SMALL = limits.evaluator_bytes >> 6
    most = int(1e6 * resident_mb("VmSize")) + limits.memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _end(pid: int, pipe: int, too_slow: bool) -> str | None:
    """How a worker ended; None if it did what it was to do."""
    os.close(pipe)
    if not too_slow:
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with {code}" if code else None
    os.kill(pid, signal.SIGABRT)  # the fault handler writes where it was
    time.sleep(0.5)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "took too long"
