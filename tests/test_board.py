"""A board that is emulated as a whole: Debian's kernel, the device's memory, and a job that does not fit in it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import library
import numpy as np
import pytest
import torch
from fetching import skipped_offline
from sshd import named
from torch import Tensor, nn
from torch.nn import functional

from edgevlm.bundle.bundle import Bundle, seal
from edgevlm.bundle.manifest import BundledComponent
from edgevlm.bundle.recipe import BUILTIN
from edgevlm.bundle.spec import ComponentSpec, TensorSpec
from edgevlm.devices.local import Local
from edgevlm.devices.machine import Machine
from edgevlm.devices.profile import Profile, builtin
from edgevlm.emulation import board_image, cpio
from edgevlm.emulation.board import QEMU, board, memory_mb
from edgevlm.errors import DeviceError, OutOfMemory
from edgevlm.graphs.program import Program
from edgevlm.process import scratch
from edgevlm.targets import registry

PI_5 = builtin()["raspberry-pi-5"]
LITTLE_MB = 160  # the student's job takes 70 MB, and that of `Greedy` 300 MB
missing = [program for program in (QEMU, "mke2fs", "ssh", "apt-get", "dpkg") if shutil.which(program) is None]
boots = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@pytest.fixture
def ready() -> None:
    with skipped_offline():
        board_image.prepare()


class Greedy(nn.Module):
    """pixels float32 [1, 3, H, W] -> float32 [1, 64], by way of 256 MB."""

    def __init__(self) -> None:
        super().__init__()
        self.widen = nn.Conv2d(3, 64, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        return functional.interpolate(self.widen(pixels), (1024, 1024)).relu().mean((2, 3))


def greedy(student: Bundle, folder: Path) -> Bundle:
    """A bundle whose image tower is `Greedy`."""
    name, (pixels,) = "encode_image", student.components["encode_image"].spec.inputs
    spec = ComponentSpec(name, (pixels,), (TensorSpec("embedding", "float32", (1, 64), "any"),))
    program = Program(spec, Greedy().eval().requires_grad_(False), (torch.zeros(pixels.shape),))
    folder.mkdir()
    (file,) = registry.converter("tflite").lower({name: program}, BUILTIN["fp32"], folder)
    components = {name: BundledComponent(spec, file.path)}
    return seal(folder, replace(student.manifest, components=components, parity=None, embedding_dim=64))


def running(bundle: str) -> Mapping[str, Any]:
    return {"job": "run", "bundle": bundle, "component": "encode_image", "threads": 1, "runs": 3}


def result(machine: Machine, job: Mapping[str, Any]) -> Mapping[str, Any]:
    *_, last = machine.ask(job, timeout_seconds=200)
    answer: Mapping[str, Any] = last["result"]
    return answer


@pytest.mark.slow
@boots
@pytest.mark.usefixtures("ready")
def test_a_board_runs_what_fits_and_kills_what_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    student = library.student("tflite", "int8", image_only=True)
    too_large = greedy(student, tmp_path / "greedy.edgevlm")
    told: list[str] = []
    with board(replace(PI_5, memory_mb=LITTLE_MB), lambda stage, _: told.append(stage)) as machine:
        assert machine.architecture == "aarch64"
        assert str(machine.emulator).startswith("QEMU ")
        with pytest.raises(OutOfMemory):
            result(machine, running(machine.put(too_large.path)))
        answer = np.array(result(machine, running(machine.put(student.path)))["answer"])
        system = result(machine, {"job": "system"})
        assert (system["architecture"], system["processor"]) == ("aarch64", "implementer 0x41, part 0xd0b")  # A76
        assert 0.8 * LITTLE_MB < system["memory_bytes"] / 2**20 < LITTLE_MB
    here = np.array(result(Local(), running(str(student.path)))["answer"])
    assert here @ answer / np.linalg.norm(here) / np.linalg.norm(answer) > 0.999
    assert len(result(Local(), running(str(too_large.path)))["answer"]) == 64  # this computer has the memory
    assert any(re.match(rf"booting a board with {LITTLE_MB} MiB .* takes 10 to 60 s", stage) for stage in told)
    assert not any("fetching" in stage or "site-" in stage for stage in told)  # the disk has the packages
    assert named(str(tmp_path)) == []  # no QEMU is left


@pytest.mark.slow
@boots
@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_command_leaves_no_board(number: int, tmp_path: Path) -> None:
    if number == signal.SIGKILL and shutil.which("setpriv") is None:
        pytest.skip("needs setpriv, of util-linux")
    code = f"""
import time
from dataclasses import replace
from edgevlm.process import interrupts
from edgevlm.devices.profile import builtin
from edgevlm.emulation import board
def wait(*_):
    print("running", flush=True)
    time.sleep(60)
board._wait = wait
with interrupts.clean_exit(), board.board(replace(builtin()["raspberry-pi-5"], memory_mb={LITTLE_MB})):
    pass
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == b"running\n"
        assert named(str(tmp_path)) != []
        command.send_signal(number)
        assert command.wait(20) == (-number if number == signal.SIGKILL else 128 + number)
    for _ in range(100):  # the system ends what was left behind after it has told of the command's end
        if not named(str(tmp_path)):
            break
        time.sleep(0.1)
    assert named(str(tmp_path)) == []
    assert (list(tmp_path.iterdir()) == []) == (number == signal.SIGTERM)
    scratch.sweep(tmp_path)  # as the next command does
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@boots
@pytest.mark.usefixtures("ready")
def test_a_board_that_does_not_boot_says_why() -> None:
    with pytest.raises(DeviceError, match="does not boot") as caught, board(replace(PI_5, memory_mb=24)):
        pass
    assert "128 MiB" in str(caught.value.hint)
    strange = replace(PI_5, cpu=(replace(PI_5.cpu[0], qemu_cpu="cortex-a0"),))
    with pytest.raises(DeviceError, match=r"does not boot: .*cortex-a0"), board(replace(strange, memory_mb=LITTLE_MB)):
        pass


def test_what_is_needed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match=f"{QEMU}, which is not installed") as caught, board(PI_5):
        pass
    assert "qemu-system-arm" in str(caught.value.hint)


@boots
def test_a_device_without_a_processor_to_emulate_is_refused() -> None:
    with pytest.raises(DeviceError, match="qemu_cpu"), board(Profile("iPhone", "none", "A17", ("coreml",))):
        pass


def test_memory_is_cut_to_what_is_free() -> None:
    told: list[str] = []
    assert memory_mb(replace(PI_5, memory_mb=128), lambda stage, _: told.append(stage)) == 128
    assert told == []
    assert 128 < memory_mb(replace(PI_5, memory_mb=10**8), lambda stage, _: told.append(stage)) < 10**8
    assert "100000000 MiB; free here" in told[0]


@pytest.mark.skipif(shutil.which("cpio") is None, reason="needs cpio")
def test_archives_are_cpios_own(tmp_path: Path) -> None:
    files = {"init": b"#!/bin/sh\n", "a/b/c": bytes(1025), "a/d": b""}
    packed = cpio.archive(files)
    assert len(packed) % 512 == 0
    subprocess.run(["cpio", "-i", "--quiet", "-m"], input=packed, cwd=tmp_path, check=True)
    unpacked = {str(path.relative_to(tmp_path)): path for path in tmp_path.rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in unpacked.items()} == files
    assert all(os.access(path, os.X_OK) for path in unpacked.values())
