"""One device in a process of its own: `python -m edgevlm.bench.worker`, with `edgevlm.onboard`'s protocol.

It takes an `Assignment` in plain values, and says any number of results: the lines of `results.jsonl`. When whoever
asked is gone it stops, and what it set up elsewhere is removed.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from edgevlm import schema
from edgevlm.bench.artefacts import BundledSubject, open_all, subjects
from edgevlm.bench.measure import Effort, measure
from edgevlm.bench.results import Failed, Result, to_json
from edgevlm.bundle.bundle import Bundle
from edgevlm.devices.device import Device
from edgevlm.devices.machine import Machine
from edgevlm.errors import DeviceError, EdgeVLMError
from edgevlm.onboard.protocol import Say, answer, telling
from edgevlm.process import interrupts
from edgevlm.process.progress import Progress

_ARM = "aarch64"
_WITH_TALKERS = ("local", "ssh", "qemu-user", "adb")
_EXECUTORCH_TALKERS_NEED = {
    "qemu-user": "torch and executorch, which no emulated device has",
    "adb": "its runner: executor_runner gives each function the most rows that it takes, and so never runs a token",
}


@dataclass(frozen=True)
class Assignment:
    """What one process does.

    Attributes:
        device: Which device.
        bundles: Paths.
        components: Those of these names; all where empty.
        effort: How long is measured.
        peers: Whether other toolchains' files of the same models are measured as well.
        options: See `edgevlm.bench.bench.Request`.
    """

    device: Device
    bundles: tuple[str, ...]
    components: tuple[str, ...]
    effort: Effort
    peers: bool
    options: tuple[str, ...] = ()


def examine(assignment: Assignment, progress: Progress) -> Iterator[Result]:
    """All that can be found out about the bundles on the device, as it comes.

    Raises:
        EdgeVLMError: nothing more comes; the device is not reached, or no longer.
    """
    device = assignment.device
    bundles = open_all([Path(each) for each in assignment.bundles])
    asked = []
    for subject in subjects(bundles, assignment.components, assignment.options):
        refusal = _refusal(device, subject)
        if refusal:
            yield refusal
        else:
            asked.append(subject)
    if not asked:
        return
    if device.profile.reach == "qemu-user":
        from edgevlm.bench.emulate import emulate

        yield from emulate(device, asked, assignment.effort, progress)
    elif device.profile.reach == "none":
        from edgevlm.bench.estimates.estimate import scaled

        yield from scaled(device, asked)
    elif device.profile.reach == "adb":
        from edgevlm.bench.phones.phone import measure_phone

        yield from measure_phone(device, asked, assignment.effort, progress)
    else:
        with _machine(device, asked, progress) as machine:
            _check_processor(device, machine)
            yield from measure(machine, device.name, asked, assignment.effort, progress)
            if assignment.peers:
                yield from _measure_peers(machine, assignment, bundles, progress)


def _check_processor(device: Device, machine: Machine) -> None:
    """Raises DeviceError where a machine is reached that the device cannot be."""
    emulated = any(cluster.qemu_cpu for cluster in device.profile.cpu)  # QEMU's CPUs here are all of this kind
    if emulated and machine.architecture != _ARM:
        raise DeviceError(
            f"{device.profile.title} has a processor of {_ARM}, and the machine that was reached one of "
            f"{machine.architecture}",
            hint="give the address alone, without the device's name, for another machine",
        )


def _measure_peers(
    machine: Machine, assignment: Assignment, bundles: Sequence[Bundle], progress: Progress
) -> Iterator[Result]:
    """Other toolchains' files of each model that the bundles were made of."""
    from edgevlm.bench.peers.peers import make_peers, offers

    device = assignment.device.name
    offered = offers(machine)
    if not any(offered.values()):
        message = "neither ONNX Runtime nor OpenVINO nor trtexec is installed there, so it has no peers to run"
        yield Failed(device, None, message, "pip install 'edgevlm[peers]'")
        return
    for bundle in {each.manifest.source.revision: each for each in bundles}.values():
        if bundle.manifest.dialogue is not None:
            message = f"{bundle.path.name} talks, and peers are made of dual encoders so far"
            yield Failed(device, None, message, "leave --peers out")
            continue
        try:  # of all its towers, so that a peer's size is of what the bundle's is
            made = list(make_peers(device, bundle, offered, progress))
        except EdgeVLMError as error:
            yield Failed(device, None, f"other toolchains' files of {bundle.path.name}: {error.message}", error.hint)
            continue
        yield from (each for each in made if isinstance(each, Failed))
        wanted = assignment.components or tuple(bundle.components)
        runnable = [
            replace(each, options=assignment.options)
            for each in made
            if not isinstance(each, Failed) and each.component in wanted
        ]
        yield from measure(machine, device, runnable, assignment.effort, progress)


def _refusal(device: Device, subject: BundledSubject) -> Failed | None:
    targets = device.profile.targets
    if subject.artefact.target in targets:
        if subject.talks and device.profile.reach not in _WITH_TALKERS:
            return Failed(
                device.name,
                subject.artefact,
                f"{device.profile.title} measures no models that talk: expected what can be reached or emulated",
                "--device host, raspberry-pi-5, ssh://USER@HOST, or adb://",
            )
        need = _EXECUTORCH_TALKERS_NEED.get(device.profile.reach)
        if subject.talks and subject.artefact.target == "executorch" and need:
            hint = "edgevlm convert --target tflite makes one that runs there"
            return Failed(device.name, subject.artefact, f"an ExecuTorch bundle that talks needs {need}", hint)
        return None
    return Failed(
        device.name,
        subject.artefact,
        f"{device.profile.title} runs {', '.join(targets)}: this bundle is for {subject.artefact.target}",
        f"edgevlm convert --target {targets[0]}",
        subject.component,
    )


def _machine(device: Device, asked: Sequence[BundledSubject], progress: Progress) -> Machine:
    from edgevlm.devices.address import parse
    from edgevlm.devices.local import Local
    from edgevlm.devices.ssh import Ssh

    profile = device.profile
    if profile.reach == "local":
        return Local()
    return Ssh(
        parse(profile.address),
        python=profile.python,
        targets=sorted({each.artefact.target for each in asked}),
        talks=any(each.talks for each in asked),
        progress=progress,
    )


def main() -> None:
    """One assignment."""

    def work(asked: Mapping[str, Any], say: Say) -> None:
        assignment = schema.read(Assignment, asked, where="assignment", error=DeviceError)
        try:
            for result in examine(assignment, telling(say)):
                say({"result": to_json(result)})
        except EdgeVLMError as error:
            say({"result": to_json(Failed(assignment.device.name, None, error.message, error.hint))})

    @interrupts.deferrable
    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)  # unlike the command line's own way, what `with` blocks opened is closed

    signal.signal(signal.SIGTERM, stop)
    for each in interrupts.FROM_A_TERMINAL:
        signal.signal(each, signal.SIG_IGN)  # it goes to all; the command ends us by closing stdin
    with interrupts.own_temporary_files():
        answer(work, orphaned=lambda: os.kill(os.getpid(), signal.SIGTERM))


if __name__ == "__main__":
    main()
    sys.stderr.flush()
    os._exit(0)
