"""Many devices at once, each in a process of its own: a slow or dead one delays nobody.

This computer is measured first and alone: the others' work would slow it. Of what is emulated here as many run at a
time as there are cores; what is reached elsewhere takes none.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from edgevlm import schema
from edgevlm.bench.results import Failed, Result, from_json
from edgevlm.bench.worker import Assignment
from edgevlm.errors import EdgeVLMError
from edgevlm.onboard.failures import ended_without_a_word
from edgevlm.onboard.failures import from_json as failure
from edgevlm.process.children import process_of
from edgevlm.process.progress import Progress

_TO_END_SECONDS = 20.0  # for a worker to remove what it set up elsewhere

_Line = tuple["_Worker", dict[str, Any] | None]


def examine(assignments: Sequence[Assignment], progress: Progress) -> Iterator[Result]:
    """Every device's results, as they come."""
    here = [each for each in assignments if each.device.profile.reach == "local"]
    emulated = [each for each in assignments if each.device.profile.reach == "qemu-user"]
    elsewhere = [each for each in assignments if each not in here and each not in emulated]
    for assignment in here:
        yield from _together([], [assignment], 1, progress)
    yield from _together(elsewhere, emulated, os.cpu_count() or 1, progress)


def _together(
    free: Sequence[Assignment], waiting: Sequence[Assignment], at_once: int, progress: Progress
) -> Iterator[Result]:
    """All of `free` at once, and of `waiting` so many at a time."""
    lines: queue.Queue[_Line] = queue.Queue()
    pending = list(waiting)
    done, total = 0, len(free) + len(pending)
    with ExitStack() as stack:
        running = {stack.enter_context(_Worker(each, lines)) for each in free}
        while running or pending:
            counted = sum(worker.assignment in waiting for worker in running)
            while pending and counted < at_once:
                running.add(stack.enter_context(_Worker(pending.pop(0), lines)))
                counted += 1
            worker, line = lines.get()
            name = worker.assignment.device.name
            if line is None:
                running.discard(worker)
                done += 1
                if worker.problem is not None:
                    yield Failed(name, None, worker.problem.message, worker.problem.hint)
            elif "progress" in line:
                progress(f"{name}: {line['progress']['stage']}", done / total)
            elif "result" in line:
                yield from_json(line["result"], where=name)


class _Worker:
    """A device's process; its lines go to a queue, None at its end. A context manager that ends it."""

    def __init__(self, assignment: Assignment, lines: queue.Queue[_Line]) -> None:
        self.assignment = assignment
        self.problem: EdgeVLMError | None = None
        self._lines = lines

    def __enter__(self) -> _Worker:
        command, environment = process_of("edgevlm.bench.worker")
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._stderr: list[str] = []
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._drain, self._read)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(_TO_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        for thread in self._threads:
            thread.join()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _read(self) -> None:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise ValueError("expected a process with pipes")
        with suppress(OSError):
            stdin.write(json.dumps(schema.write(self.assignment)) + "\n")
            stdin.flush()
        for line in stdout:
            said = json.loads(line)
            if "error" in said:
                self.problem = failure(said["error"])
            else:
                self._lines.put((self, said))
        code = self._process.wait()
        if code and self.problem is None:
            self.problem = ended_without_a_word(code, "".join(self._stderr))
        self._lines.put((self, None))

    def _drain(self) -> None:
        if self._process.stderr is not None:
            for line in self._process.stderr:
                self._stderr = [*self._stderr[-50:], line]
