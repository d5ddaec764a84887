"""Runs of a study, several at a time, each in a process and on a core of its own."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from edgevlm.benchmarks.ood.study import Plan, Run, make_run
from edgevlm.process.progress import Progress

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

# Torch's threads of several processes get in each other's way: one each is twice as fast as two.
_THREADS = 1
_said: list[SimpleQueue[tuple[str, str, float]]] = []  # what a process tells the first one


def make_runs(out: Path, plan: Plan, runs: Sequence[Run], processes: int, progress: Progress) -> None:
    """Makes them all.

    Args:
        out, plan, runs: See `edgevlm.benchmarks.ood.study`.
        processes: How many at a time; one is made in this process.
        progress: Told what runs, what is done and how long the rest will take.
    """
    clock = _Clock(len(runs), progress)
    if processes == 1:
        torch.set_num_threads(_THREADS)
        for run in runs:
            make_run(out, plan, run, lambda stage, share, run=run: clock.hear(run.name, stage, share or 0.0))  # type: ignore[misc]
            clock.finish(run.name)
        return
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    with ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(queue,)) as pool:
        waiting: dict[Any, Run] = {pool.submit(_work, out, plan, run): run for run in runs}
        try:
            while waiting:
                done, _ = wait(waiting, timeout=1, return_when=FIRST_COMPLETED)
                while not queue.empty():
                    clock.hear(*queue.get())
                for future in done:
                    future.result()
                    clock.finish(waiting.pop(future).name)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _begin(queue: SimpleQueue[tuple[str, str, float]]) -> None:
    """What every process does first."""
    torch.set_num_threads(_THREADS)
    _said.append(queue)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A pool's processes would wait for ever for the next task of a parent that was killed.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(out: Path, plan: Plan, run: Run) -> None:
    last = 0.0

    def tell(stage: str, share: float | None) -> None:
        nonlocal last
        if time.monotonic() - last > 1:
            last = time.monotonic()
            _said[0].put((run.name, stage, share or 0.0))

    make_run(out, plan, run, tell)


@dataclass
class _Clock:
    """Adds up what is done."""

    total: int
    progress: Progress
    done: int = 0
    shares: dict[str, float] = field(default_factory=dict)

    def hear(self, name: str, stage: str, share: float) -> None:
        """A run has got as far as that."""
        if stage.startswith("epoch"):
            self.shares[name] = share
        work = self.done + sum(self.shares.values())
        self.progress(f"{self.done} of {self.total} trainings; {name}: {stage}", work / self.total)

    def finish(self, name: str) -> None:
        """A run is done."""
        self.shares.pop(name, None)
        self.done += 1
        self.progress(f"{self.done} of {self.total} trainings", self.done / self.total)
