"""Latency of a device that is not there, from what was counted, or from what others measured on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from edgevlm.bench.artefacts import BundledSubject
from edgevlm.bench.estimates.latency_model import Prediction, predict, scale
from edgevlm.bench.estimates.published import points
from edgevlm.bench.results import Estimated, Failed, Result
from edgevlm.devices.device import Device
from edgevlm.errors import DeviceError, EdgeVLMError
from edgevlm.onboard.figures import Counts


def estimate(
    device: Device, subject: BundledSubject, counts: Counts, threads: tuple[int, ...] | None
) -> Iterator[Result]:
    """A component's latency on the device's fastest cores, from what one thread executes.

    Args:
        device: With a CPU.
        subject: A component of a bundle.
        counts: Of one inference.
        threads: Numbers of threads; None for one, and for all cores of that kind.
    """
    profile, cluster = device.profile, device.profile.fastest
    if cluster is None:
        return
    for number in threads or dict.fromkeys((1, cluster.cores)):
        if number > cluster.cores:
            message = f"no latency is estimated for {number} threads on {cluster.cores} {cluster.core}"
            yield Failed(device.name, subject.artefact, message, None, subject.component)
            continue
        try:
            prediction = predict(
                counts.instructions,
                fma_lanes=cluster.fma_lanes,
                clock_mhz=cluster.clock_mhz,
                threads=number,
                reads_bytes=subject.reads_bytes,
                bandwidth_gb_s=profile.bandwidth_gb_s,
                integer=counts.integer_multiply_adds > counts.float_multiply_adds,
            )
        except EdgeVLMError as error:
            yield Failed(device.name, subject.artefact, error.message, error.hint, subject.component)
            continue
        yield _estimated(device, subject, number, prediction)


def scaled(device: Device, subjects: Sequence[BundledSubject]) -> Iterator[Result]:
    """The latency of each component on the device's NPU, from a network that somebody measured there.

    An NPU reaches between a thirtieth and a third of its peak, so that without such a point there is no estimate.
    """
    known = [each for each in points().accelerators if each.device == device.name]
    for subject in subjects:
        work = subject.bundle.manifest.multiply_adds.get(subject.component)
        try:
            if work is None:
                raise DeviceError(
                    f"{subject.artefact.name} does not say how many multiply-adds it takes: it is of an older format",
                    hint="convert it again",
                )
            prediction = scale(work / 1e6, known)
            yield replace(_estimated(device, subject, 0, prediction), unit=known[0].unit)
        except EdgeVLMError as error:
            yield Failed(device.name, subject.artefact, error.message, error.hint, subject.component)


def _estimated(device: Device, subject: BundledSubject, threads: int, prediction: Prediction) -> Estimated:
    return Estimated(
        device=device.name,
        artefact=subject.artefact,
        component=subject.component,
        threads=threads,
        low_ms=prediction.low_ms,
        middle_ms=prediction.middle_ms,
        high_ms=prediction.high_ms,
        bound_by=prediction.bound_by,
        calibration=prediction.calibration,
        error=prediction.error,
        reproduce=subject.command(device.name) + (f" --threads {threads}" if threads else ""),
    )
