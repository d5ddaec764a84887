"""Figures of a machine that runs the artefact: latency, memory, and what heat does to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgevlm import schema
from edgevlm.bench.artefacts import Subject
from edgevlm.bench.results import Emulated, Failed, Measured, Result
from edgevlm.devices.machine import TRIES, Machine, try_again
from edgevlm.errors import ConnectionLost, DeviceError, EdgeVLMError, OutOfMemory
from edgevlm.onboard.figures import Memory, Sustained, System, Times
from edgevlm.process.progress import Progress

_START_SECONDS = 120.0  # for a slow board to import torch
_EMULATION = 10  # times as slow as the board, and more beside other work
_RUNS = 3  # while memory is watched; an emulator is slow, and the first run has the peak already


@dataclass(frozen=True)
class Effort:
    """How long is measured.

    Attributes:
        seconds: Of warm inference, a component and number of threads.
        threads: Numbers of CPU threads; None tries 1, 2, 4 and so on to the number of cores.
        sustained_seconds: Of inference without a pause, a component; 0 leaves that out.
    """

    seconds: float = 1.0
    threads: tuple[int, ...] | None = None
    sustained_seconds: float = 0.0


def measure(
    machine: Machine, device: str, subjects: Sequence[Subject], effort: Effort, progress: Progress
) -> Iterator[Result]:
    """Runs each component of each artefact; one that fails does not stop the others.

    An emulated machine is asked for memory alone: its times are not the device's.

    Raises:
        ConnectionLost: the machine went away and did not come back.
    """
    system = schema.read(System, _ask(machine, {"job": "system"}, progress), where="system", error=DeviceError)
    system = replace(system, emulator=machine.emulator or system.emulator)
    total = len(subjects)
    for index, subject in enumerate(subjects):
        said = f"{subject.artefact.name}, {subject.component}"
        progress(said, index / total)

        def tell(stage: str, share: float | None, said: str = said, begun: int = index) -> None:
            progress(f"{said}: {stage}", begun / total)

        try:
            job = subject.job(machine, tell)
            if system.emulator is not None:
                yield _emulated(machine, device, subject, job, system, tell)
            else:
                yield from _measured(machine, device, subject, job, system, effort, tell)
        except ConnectionLost:
            raise
        except EdgeVLMError as error:
            yield Failed(device, subject.artefact, error.message, error.hint, subject.component)


def thread_counts(cores: int) -> tuple[int, ...]:
    """1, 2, 4 and so on, and all cores."""
    counts = [1]
    while counts[-1] * 2 < cores:
        counts.append(counts[-1] * 2)
    return (*counts, cores) if cores > 1 else (1,)


def _measured(
    machine: Machine,
    device: str,
    subject: Subject,
    job: Mapping[str, Any],
    system: System,
    effort: Effort,
    progress: Progress,
) -> Iterator[Result]:
    counts = effort.threads or thread_counts(system.cores)
    if "native" in job or not subject.on_cpu:
        counts = (1,)  # the runner has one thread; an accelerator has none of the CPU's
    memory = None
    if subject.on_cpu and system.system.startswith(("Linux", "Android")):
        memory = _memory(machine, {**job, "threads": counts[0]}, _RUNS, progress)
    for threads in counts:
        progress(f"timing with {threads} {'thread' if threads == 1 else 'threads'}", None)
        timed = _ask(machine, {"job": "time", **job, "threads": threads, "seconds": effort.seconds}, progress)
        sustained = None
        if effort.sustained_seconds and threads == counts[-1] and subject.on_cpu and "native" not in job:
            sustained = _sustained(machine, {**job, "threads": threads}, effort.sustained_seconds, progress)
        yield Measured(
            device=device,
            artefact=subject.artefact,
            component=subject.component,
            threads=threads if subject.on_cpu else 0,
            times=schema.read(Times, timed, where="times", error=DeviceError),
            memory=memory if threads == counts[0] else None,
            system=system,
            reproduce=f"{subject.command(device)} --threads {threads}",
            sustained=sustained,
        )


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


def _sustained(machine: Machine, job: Mapping[str, Any], seconds: float, progress: Progress) -> Sustained:
    wanted = {**job, "job": "sustained", "seconds": seconds}
    return schema.read(Sustained, _ask(machine, wanted, progress), where="sustained", error=DeviceError)


def _ask(machine: Machine, job: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
    """The result of one job. Where the connection is lost, the job is asked again."""
    seconds = _START_SECONDS + 20 * float(job.get("seconds", 1.0))

    def ask() -> Mapping[str, Any]:
        for line in machine.ask(job, timeout_seconds=seconds * (_EMULATION if machine.emulator else 1)):
            if "progress" in line:
                progress(line["progress"]["stage"], line["progress"]["share"])
            if "result" in line:
                found: Mapping[str, Any] = line["result"]
                return found
        raise DeviceError("the device ended the job without a result")

    return try_again(ask, lambda number: progress(f"the connection was lost, trying again ({number} of {TRIES})", None))
