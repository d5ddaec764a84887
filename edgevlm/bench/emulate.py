"""Figures of a device that is not there: counts on its core, memory on a board like it, an estimate of its latency."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from edgevlm.bench.artefacts import BundledSubject
from edgevlm.bench.estimates.estimate import estimate
from edgevlm.bench.measure import Effort, measure
from edgevlm.bench.results import Emulated, Failed, Result
from edgevlm.devices.device import Device
from edgevlm.devices.profile import Cluster
from edgevlm.emulation import board, counting, tools
from edgevlm.emulation.counting import Emulation
from edgevlm.errors import DeviceError, EdgeVLMError
from edgevlm.onboard import system
from edgevlm.process.progress import Progress


def emulate(device: Device, subjects: Sequence[BundledSubject], effort: Effort, progress: Progress) -> Iterator[Result]:
    """Counts and estimates each component, then asks a whole emulated board what memory they need.

    Raises:
        EdgeVLMError: the device cannot be emulated.
    """
    cluster = device.profile.fastest
    if cluster is None:
        raise DeviceError(
            f"{device.profile.title}: expected a cpu in its profile, got none, so that it cannot be emulated",
            hint="edgevlm devices --show raspberry-pi-5 prints a profile that has one",
        )
    for index, subject in enumerate(subjects):
        said = f"{subject.artefact.name}, {subject.component}"

        def tell(stage: str, share: float | None, said: str = said, begun: float = index) -> None:
            progress(f"{said}: {stage}", (begun + (share or 0.0)) / (len(subjects) + 1))

        try:
            found = counting.count(subject.bundle, subject.component, cluster, progress=tell)
            yield _counted(device, subject, cluster, found)
            yield from estimate(device, subject, found.steady, effort.threads)
        except EdgeVLMError as error:
            yield Failed(device.name, subject.artefact, error.message, error.hint, subject.component)
    try:
        size_mb = board.memory_mb(device.profile, progress)
        with board.board(replace(device.profile, memory_mb=size_mb), progress) as machine:
            for result in measure(machine, device.name, subjects, effort, progress):
                yield judge(result, device, size_mb)
    except EdgeVLMError as error:
        yield Failed(device.name, None, f"memory on an emulated board: {error.message}", error.hint)


def judge(result: Result, device: Device, size_mb: int) -> Result:
    """A board's result; what did not fit into one with less memory than the device may fit into the device.

    Args:
        size_mb: The board's memory in MiB.
    """
    wanted_mb = device.profile.memory_mb
    if not isinstance(result, Emulated) or result.fits is not False or size_mb >= wanted_mb:
        return result
    message = f"it does not fit into {size_mb} MiB, all that is free here; the device has {wanted_mb} MiB"
    return Failed(device.name, result.artefact, message, "emulate it on a larger computer", result.component)


def _counted(device: Device, subject: BundledSubject, cluster: Cluster, found: Emulation) -> Emulated:
    return Emulated(
        device=device.name,
        artefact=subject.artefact,
        component=subject.component,
        cpu_model=cluster.qemu_cpu,
        stands_for=cluster.core if cluster.stands_in else None,
        counts=found.steady,
        load_counts=found.load,
        memory=None,
        fits=None,
        memory_limit_bytes=None,
        system=replace(system.read(), emulator=f"QEMU {tools.qemu().version} (qemu-aarch64)"),
        reproduce=subject.command(device.name),
        warnings=counting.dispatch_warnings(subject.bundle, found.steady, cluster),
        positions=found.positions,
        reads_bytes=subject.reads_bytes,
    )
