"""Figures of a machine that runs the artefact: latency, memory, and what heat does to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from edgevlm import schema
from edgevlm.bench.artefacts import Subject
from edgevlm.bench.results import Emulated, Failed, Measured, Process, Result
from edgevlm.devices.machine import TRIES, Machine, try_again
from edgevlm.errors import ConnectionLost, DeviceError, EdgeVLMError, OutOfMemory
from edgevlm.onboard.figures import Memory, Sustained, System, Times, pooled
from edgevlm.process.progress import Progress

_START_SECONDS = 120.0  # for a slow board to import torch
_EMULATION = 10  # times as slow as the board, and more beside other work
_RUNS = 3  # while memory is watched; an emulator is slow, and the first run has the peak already


@dataclass(frozen=True)
class Effort:
    """How long is measured.

    Attributes:
        seconds: Of warm inference, a component and number of threads, all processes together.
        threads: Numbers of CPU threads; None tries 1, 2, 4 and so on to the number of cores.
        sustained_seconds: Of inference without a pause, a component; 0 leaves that out.
        processes: How many share the seconds. What a process happens to get, of memory and of a busy machine, is the
            same for all of its runs: only others show how far such luck goes. Three are the fewest that a comparison
            with another run can do with; see `edgevlm.bench.ratios`.
    """

    seconds: float = 1.0
    threads: tuple[int, ...] | None = None
    sustained_seconds: float = 0.0
    processes: int = 3


def measure(
    machine: Machine, device: str, subjects: Sequence[Subject], effort: Effort, progress: Progress
) -> Iterator[Result]:
    """Runs each component of each artefact; one that fails does not stop the others.

    Each figure's processes take turns with those of all others, so that what the machine does meanwhile befalls all
    alike; a figure is given after each of its processes, of those so far. An emulated machine is asked for memory
    alone: its times are not the device's.

    Raises:
        ConnectionLost: the machine went away and did not come back.
    """
    system = schema.read(System, _ask(machine, {"job": "system"}, progress), where="system", error=DeviceError)
    system = replace(system, emulator=machine.emulator or system.emulator)
    components: list[_Component] = []
    for index, subject in enumerate(subjects):
        tell = _telling(progress, subject, index / len(subjects) / (1 + effort.processes))
        try:
            job = subject.job(machine, tell)
            if system.emulator is not None:
                yield _emulated(machine, device, subject, job, system, tell)
            else:
                components.append(_component(machine, device, subject, job, system, effort, tell))
        except ConnectionLost:
            raise
        except EdgeVLMError as error:
            yield _failed(device, subject, error)
    yield from _take_turns(components, effort, progress)


def thread_counts(cores: int) -> tuple[int, ...]:
    """1, 2, 4 and so on, and all cores."""
    counts = [1]
    while counts[-1] * 2 < cores:
        counts.append(counts[-1] * 2)
    return (*counts, cores) if cores > 1 else (1,)


@dataclass(eq=False)
class _Component:
    """One component of one artefact on a machine, and what its processes found so far."""

    machine: Machine
    device: str
    subject: Subject
    job: Mapping[str, Any]
    system: System
    memory: Memory | None
    counts: tuple[int, ...]
    processes: int
    found: dict[int, list[Times]] = field(default_factory=dict)

    def time(self, threads: int, seconds: float, progress: Progress) -> Measured:
        """One more process; the component's first one also times what comes before and after the engine."""
        progress(f"timing with {threads} {'thread' if threads == 1 else 'threads'}", None)
        job = {"job": "time", **self.job, "threads": threads, "seconds": seconds, "stages": not self.found}
        timed = _ask(self.machine, job, progress)
        self.found.setdefault(threads, []).append(schema.read(Times, timed, where="times", error=DeviceError))
        return self._result(threads)

    def sustain(self, seconds: float, progress: Progress) -> Measured:
        """Inference without a pause, on the most threads."""
        threads = self.counts[-1]
        job = {**self.job, "job": "sustained", "threads": threads, "seconds": seconds}
        found = schema.read(Sustained, _ask(self.machine, job, progress), where="sustained", error=DeviceError)
        return replace(self._result(threads), sustained=found)

    def _result(self, threads: int) -> Measured:
        found, stages = self.found[threads], self.found[self.counts[0]][0]
        times = replace(
            pooled(found),
            decode_ms=stages.decode_ms,
            preprocess_ms=stages.preprocess_ms,
            tokenise_ms=stages.tokenise_ms,
            postprocess_ms=stages.postprocess_ms,
        )
        return Measured(
            device=self.device,
            artefact=self.subject.artefact,
            component=self.subject.component,
            threads=threads if self.subject.on_cpu else 0,
            times=times,
            memory=self.memory if threads == self.counts[0] else None,
            system=self.system,
            reproduce=f"{self.subject.command(self.device)} --threads {threads}",
            processes=tuple(Process(each.engine_ms.median, each.engine_ms.runs, each.yardstick_ms) for each in found),
        )


def _component(
    machine: Machine,
    device: str,
    subject: Subject,
    job: Mapping[str, Any],
    system: System,
    effort: Effort,
    progress: Progress,
) -> _Component:
    """What is to be timed, its memory watched."""
    counts = effort.threads or thread_counts(system.cores)
    if "native" in job or not subject.on_cpu:
        counts = (1,)  # the runner has one thread; an accelerator has none of the CPU's
    memory = None
    if subject.on_cpu and system.system.startswith(("Linux", "Android")):
        memory = _memory(machine, {**job, "threads": counts[0]}, _RUNS, progress)
    processes = 1 if job.get("job") == "tensorrt" else effort.processes  # each would build the engine, for minutes
    return _Component(machine, device, subject, job, system, memory, counts, processes)


def _take_turns(components: Sequence[_Component], effort: Effort, progress: Progress) -> Iterator[Measured | Failed]:
    """The first process of each, the second of each, and so on; then sustained runs, whose heat slows what follows."""
    steps: list[tuple[_Component, Callable[[Progress], Measured]]] = [
        (each, partial(each.time, threads, effort.seconds / each.processes))
        for number in range(effort.processes)
        for each in components
        for threads in each.counts
        if number < each.processes
    ]
    if effort.sustained_seconds:
        able = (each for each in components if each.subject.on_cpu and "native" not in each.job)
        steps += [(each, partial(each.sustain, effort.sustained_seconds)) for each in able]
    failed: list[_Component] = []
    for index, (component, step) in enumerate(steps):
        if component in failed:
            continue
        share = (1 + effort.processes * index / len(steps)) / (1 + effort.processes)
        try:
            yield step(_telling(progress, component.subject, share))
        except ConnectionLost:
            raise
        except EdgeVLMError as error:
            failed.append(component)
            yield _failed(component.device, component.subject, error)


def _telling(progress: Progress, subject: Subject, share: float) -> Progress:
    """Whom to tell the stages of work on one component."""
    said = f"{subject.artefact.name}, {subject.component}"
    progress(said, share)
    return lambda stage, _: progress(f"{said}: {stage}", share)


def _failed(device: str, subject: Subject, error: EdgeVLMError) -> Failed:
    return Failed(device, subject.artefact, error.message, error.hint, subject.component)


def _emulated(
    machine: Machine, device: str, subject: Subject, job: Mapping[str, Any], system: System, progress: Progress
) -> Emulated:
    memory, fits = None, True
    try:
        memory = _memory(machine, {**job, "threads": 1}, 1, progress)
    except OutOfMemory:
        fits = False
    return Emulated(
        device=device,
        artefact=subject.artefact,
        component=subject.component,
        cpu_model=system.processor,
        stands_for=None,
        counts=None,
        load_counts=None,
        memory=memory,
        fits=fits,
        memory_limit_bytes=system.memory_bytes,
        system=system,
        reproduce=subject.command(device),
    )


def _memory(machine: Machine, job: Mapping[str, Any], runs: int, progress: Progress) -> Memory:
    progress("watching its memory", None)
    found = _ask(machine, {**job, "job": "memory", "runs": runs}, progress)
    return schema.read(Memory, found, where="memory", error=DeviceError)


def _ask(machine: Machine, job: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
    """The result of one job. Where the connection is lost, the job is asked again."""
    seconds = (_START_SECONDS + 20 * float(job.get("seconds", 1.0))) * float(job.get("patience", 1.0))

    def ask() -> Mapping[str, Any]:
        found: Mapping[str, Any] | None = None
        # To its end: of a job that is left before, a machine sees to it that nothing goes on, with a process more.
        for line in machine.ask(job, timeout_seconds=seconds * (_EMULATION if machine.emulator else 1)):
            if "progress" in line:
                progress(line["progress"]["stage"], line["progress"]["share"])
            found = line.get("result", found)
        if found is None:
            raise DeviceError("the device ended the job without a result")
        return found

    return try_again(ask, lambda number: progress(f"the connection was lost, trying again ({number} of {TRIES})", None))
