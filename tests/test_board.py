"""A board that is emulated as a whole: Debian's kernel, the device's memory, and a job that does not fit in it."""

from __future__ import annotations

import gzip
import lzma
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
from debian import repository
from fetching import skipped_offline
from sshd import SERVER, named
from torch import Tensor, nn
from torch.nn import functional

from edgevlm.bench.artefacts import subjects
from edgevlm.bench.measure import Effort, measure
from edgevlm.bench.results import Emulated
from edgevlm.bundle.bundle import Bundle, seal
from edgevlm.bundle.manifest import BundledComponent
from edgevlm.bundle.recipe import BUILTIN
from edgevlm.bundle.spec import ComponentSpec, TensorSpec
from edgevlm.devices import site
from edgevlm.devices.local import Local
from edgevlm.devices.machine import Machine
from edgevlm.devices.profile import Profile, builtin
from edgevlm.emulation import board_image, cpio, root
from edgevlm.emulation.board import QEMU, board, memory_mb
from edgevlm.errors import DeviceError, OutOfMemory
from edgevlm.graphs.program import Program
from edgevlm.process import scratch, store
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


# Without Debian's own packages: an image of small ones, and this computer's sshd in the place of QEMU


def driver(content: bytes, *needs: bytes) -> bytes:
    """A kernel module, as far as what it needs is read from it."""
    return b"\x7fELF" + content + b"".join(b"\0" + each for each in needs) + b"\0"


@boots
@pytest.mark.skipif(shutil.which("cpio") is None or shutil.which("debugfs") is None, reason="needs cpio and debugfs")
def test_an_image_holds_what_the_board_boots_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "folder", lambda: tmp_path / "cache")
    version = f"python3.{sys.version_info.minor}"
    drivers = {
        "drivers/virtio/virtio_pci.ko.xz": lzma.compress(driver(b"pci", b"depends=virtio,virtio-pci-modern", b"x=1")),
        "drivers/virtio/virtio-pci-modern.ko.xz": lzma.compress(driver(b"modern", b"depends=virtio")),
        "drivers/virtio/virtio.ko.xz": lzma.compress(driver(b"virtio", b"depends=")),
        "drivers/block/virtio_blk.ko": driver(b"blk", b"depends=virtio,built_in"),
        "fs/ext4.ko": driver(b"ext4", b"depends=jbd2", b"softdep=pre: crc32c virtio"),
        "fs/jbd2.ko": driver(b"jbd2", b"depends="),
        "crypto/crc32c.ko": driver(b"crc", b"depends="),
        "sound/unasked.ko": driver(b"sound", b"depends="),
    }
    packages = {
        "python3": {f"usr/bin/{version}": b"python", "usr/lib/python3/module.py": b"FOUND = 1\n"},
        "linux-image-cloud-arm64": {
            "boot/vmlinuz-6.1": b"kernel",
            **{f"lib/modules/6.1/kernel/{name}": content for name, content in drivers.items()},
        },
        "busybox-static": {"bin/busybox": b"busybox"},
        "dropbear-bin": {"usr/sbin/dropbear": b"dropbear", "usr/share/doc/dropbear/copyright": b"long"},
        "libstdc++6": {},
        "libgomp1": {},
    }
    monkeypatch.setattr(root, "_APT", repository(tmp_path / "debian", root._codename(), packages))
    wheels = tmp_path / "wheels"
    (wheels / "numpy").mkdir(parents=True)
    (wheels / "numpy" / "__init__.py").write_text("FOUND = 2\n")
    monkeypatch.setattr(site, "site_packages", lambda requirements, **asked: wheels)  # pip's, of a network

    image = board_image.prepare()
    assert image.kernel.read_bytes() == b"kernel"
    (tmp_path / "first").mkdir()
    packed = gzip.decompress(image.first.read_bytes())
    subprocess.run(["cpio", "-i", "--quiet", "-d"], input=packed, cwd=tmp_path / "first", check=True)
    order = (tmp_path / "first" / "drivers" / "order").read_text().split()
    assert order == ["virtio", "virtio_pci_modern", "virtio_pci", "virtio_blk", "jbd2", "crc32c", "ext4"]
    for name, content in drivers.items():
        there = tmp_path / "first" / "drivers" / f"{Path(name).name.partition('.')[0].replace('-', '_')}.ko"
        assert there.exists() == ("unasked" not in name)
        if there.exists():
            assert there.read_bytes() == (lzma.decompress(content) if name.endswith(".xz") else content)
    assert "switch_root /disk /sbin/init" in (tmp_path / "first" / "init").read_text()
    assert (tmp_path / "first" / "bin" / "busybox").read_bytes() == b"busybox"

    def on_disk(*words: str) -> str:
        command = ["debugfs", "-R", " ".join(words), str(image.disk)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert image.disk.stat().st_size == 3 << 30
    assert board_image.part().size_bytes < 100e6  # it is mostly holes
    for name, said in (
        (f"/usr/bin/{version}", "python"),
        ("/usr/lib/python3/dist-packages/numpy/__init__.py", "FOUND = 2\n"),
        ("/etc/passwd", "root:x:0:0:root:/root:/etc/session\n"),
    ):
        assert on_disk("cat", name) == said
    assert 'Fast link dest: "/bin/busybox"' in on_disk("stat", "/sbin/init")
    assert "Mode:  0755" in on_disk("stat", "/etc/session")
    assert "User:     0" in on_disk("stat", "/etc/session")
    assert "module.cpython-" in on_disk("ls", "/usr/lib/python3/__pycache__")  # compiled here, not there
    assert "__pycache__" not in os.listdir(wheels / "numpy")
    for left_out in ("boot", "lib/modules", "usr/share/doc"):
        assert on_disk("stat", f"/{left_out}") == ""


@pytest.fixture
def no_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of three small files, and tests/qemu_system_stand_in.py in the place of QEMU."""
    image = board_image.Image(*(tmp_path / name for name in ("kernel", "first", "disk")))
    for path in (image.kernel, image.first, image.disk):
        path.write_bytes(gzip.compress(path.name.encode()))
    monkeypatch.setattr(board_image, "prepare", lambda progress: image)
    program = tmp_path / "bin" / QEMU
    program.parent.mkdir()
    stand_in = Path(__file__).with_name("qemu_system_stand_in.py")
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {stand_in} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


@boots
@pytest.mark.skipif(SERVER is None or os.geteuid() != 0, reason="needs OpenSSH's sshd, and root to log in as")
@pytest.mark.usefixtures("no_qemu")
def test_what_a_board_needs_of_memory_is_asked_by_ssh_with_keys_of_one_boot(tmp_path: Path) -> None:
    bundle = library.tower_bundle("tflite", "fp32")
    told: list[str] = []
    with board(replace(PI_5, memory_mb=512), lambda stage, _: told.append(stage)) as machine:
        assert (machine.architecture, machine.emulator) == (os.uname().machine, f"QEMU 7.2 ({QEMU})")
        asked = subjects([bundle], ["encode_image"])
        (found,) = measure(machine, "raspberry-pi-5", asked, Effort(), lambda stage, _: told.append(stage))
    assert isinstance(found, Emulated)
    assert found.fits is True
    assert found.memory is not None
    assert found.memory.anonymous_bytes > 0
    assert found.counts is None
    assert found.system is not None
    assert found.system.emulator == f"QEMU 7.2 ({QEMU})"
    assert found.memory_limit_bytes == found.system.memory_bytes
    assert told[0].startswith("booting a board with 512 MiB and cortex-a76, which takes 10 to 60 s")
    assert f"{found.artefact.name}, encode_image: watching its memory" in told
    assert list((tmp_path / "tmp").iterdir()) == []
    assert named(str(tmp_path)) == []


@boots
@pytest.mark.usefixtures("no_qemu")
def test_a_board_that_ends_while_it_boots_is_told_of_in_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    little, enough = replace(PI_5, memory_mb=24), replace(PI_5, memory_mb=512)
    with pytest.raises(DeviceError, match=r"does not boot: Kernel panic - .*: memory") as caught, board(little):
        pass
    assert "128 MiB" in str(caught.value.hint)
    (tmp_path / "disk").unlink()
    with pytest.raises(DeviceError, match=f"does not boot: {QEMU}: could not open '{tmp_path}/disk'"), board(enough):
        pass
    (tmp_path / "disk").touch()
    monkeypatch.setenv("PATH", os.environ["PATH"].partition(":")[2])  # QEMU itself, which knows its processors
    strange = replace(PI_5, cpu=(replace(PI_5.cpu[0], qemu_cpu="cortex-a0"),), memory_mb=64)
    with pytest.raises(DeviceError, match=r"does not boot: .*cortex-a0"), board(strange):
        pass
    assert list((tmp_path / "tmp").iterdir()) == []


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
