"""A whole emulated board, with the memory that the device has: what does not fit there is killed there.

It boots in QEMU's full-system emulation and is reached by ssh like a real one. Its times mean nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from edgevlm.devices.address import Address
from edgevlm.devices.profile import Profile
from edgevlm.devices.ssh import Ssh
from edgevlm.emulation import board_image, cpio, tools
from edgevlm.emulation.board_image import Image
from edgevlm.errors import DeviceError
from edgevlm.process import interrupts
from edgevlm.process.progress import Progress, silent

QEMU = "qemu-system-aarch64"
_HOST = "127.0.0.1"
_SPARE_MB = 512  # for QEMU itself and the rest of this computer
_MOST_CORES = 8  # of QEMU's board
_BOOT_SECONDS = 180.0
_EVERY_SECONDS = 0.05
_CUT_OFF = re.compile(r"Kernel panic.*|.*(?:error|cannot|can't|failed).*", re.IGNORECASE)


@contextmanager
def board(profile: Profile, progress: Progress = silent) -> Iterator[Ssh]:
    """Boots a board with the device's memory and processor, for the block.

    Yields:
        The machine. A job that needs more memory than it has is killed there: OutOfMemory.

    Raises:
        DeviceError: QEMU or something else that is needed is missing, or it does not boot.
    """
    qemu = tools.find(QEMU)
    version = _version(qemu)
    cpu = profile.fastest.qemu_cpu if profile.fastest else ""
    if not cpu or not profile.memory_mb:
        raise DeviceError(
            f"{profile.title}: expected a cluster with qemu_cpu, and memory_mb, so that it can be emulated",
            hint="edgevlm devices lists what each device can be asked",
        )
    image = board_image.prepare(progress)
    with interrupts.temporary_folder() as folder:
        port = _free_port()
        config, keys = _keys(folder, port)
        (folder / "first").write_bytes(keys + image.first.read_bytes())
        command = _command(qemu, image, folder, port)
        cores = min(profile.fastest.cores if profile.fastest else 1, os.cpu_count() or 1, _MOST_CORES)
        command += ["-cpu", cpu, "-smp", str(cores), "-m", f"{profile.memory_mb}M"]
        takes = f"which takes 10 to 60 s, and is given up after {_BOOT_SECONDS:.0f}"
        progress(f"booting a board with {profile.memory_mb} MiB and {cpu}, {takes}", None)
        with _running(command, folder) as process:
            _wait(process, folder)
            address = Address("ssh", "board", "root")
            with Ssh(address, config=config, emulator=f"QEMU {version} ({QEMU})", progress=progress) as machine:
                yield machine


def memory_mb(profile: Profile, progress: Progress = silent) -> int:
    """The memory that a board can be given, in MiB: the device's, but no more than is free on this computer."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    meminfo = Path("/proc/meminfo")
    if meminfo.exists() and (found := re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)):
        free = int(found[1]) // 1024
    most = max(_SPARE_MB, free - _SPARE_MB)
    if profile.memory_mb > most:
        progress(f"{profile.title} has {profile.memory_mb} MiB; free here, and so given to the board: {most} MiB", None)
    return min(profile.memory_mb, most)


def _version(qemu: Path) -> str:
    said = tools.run([qemu, "--version"], f"ask {qemu} for its version")
    found = re.search(r"version (\d+\.\d+)", said)
    return found[1] if found else "of an unknown version"


def _keys(folder: Path, port: int) -> tuple[Path, bytes]:
    """New keys for this boot: ssh's configuration here, and an archive for the board."""
    for name in ("host", "client"):
        command: list[str | Path] = [
            tools.find("ssh-keygen"),
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-C",
            name,
            "-f",
            folder / name,
        ]
        tools.run(command, "make a key for the board")
    (folder / "known_hosts").write_text(f"[{_HOST}]:{port} {(folder / 'host.pub').read_text()}")
    config = folder / "ssh_config"
    config.write_text(
        f"Host board\n HostName {_HOST}\n Port {port}\n IdentityFile {folder}/client\n IdentitiesOnly yes\n"
        f" IdentityAgent none\n UserKnownHostsFile {folder}/known_hosts\n GlobalKnownHostsFile /dev/null\n"
    )
    there = {"host": "host", "authorized_keys": "client.pub"}
    return config, cpio.archive(
        {f"{board_image.KEYS}/{to}": (folder / name).read_bytes() for to, name in there.items()}
    )


def _command(qemu: Path, image: Image, folder: Path, port: int) -> list[str]:
    # The kernel ends QEMU where this process dies without being able to.
    setpriv = shutil.which("setpriv")
    words = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
    words += [str(qemu), "-machine", "virt", "-accel", "tcg,thread=multi", "-nodefaults", "-no-user-config"]
    words += ["-display", "none", "-serial", f"file:{folder / 'console'}", "-no-reboot"]
    words += ["-kernel", str(image.kernel), "-initrd", str(folder / "first")]
    words += ["-append", "console=ttyAMA0 panic=-1 loglevel=4"]
    # Nothing is written to the image: what the board writes goes to a file that vanishes with QEMU.
    words += ["-drive", f"if=none,id=disk,format=raw,snapshot=on,cache=unsafe,file={image.disk}"]
    words += ["-device", "virtio-blk-pci,drive=disk"]
    words += ["-netdev", f"user,id=net,restrict=on,hostfwd=tcp:{_HOST}:{port}-{board_image.ADDRESS}:22"]
    return [*words, "-device", "virtio-net-pci,netdev=net,romfile="]


@contextmanager
def _running(command: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with ExitStack() as held:
        with (folder / "qemu").open("wb") as said, interrupts.put_off():
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env={**os.environ, "TMPDIR": str(folder)},
                start_new_session=True,
            )
            held.callback(process.wait)
            held.callback(process.kill)
            held.enter_context(interrupts.at_stop(process.kill))
        yield process


def _wait(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Waits until the board listens."""
    console, said = folder / "console", folder / "qemu"
    end = time.monotonic() + _BOOT_SECONDS
    while time.monotonic() < end and process.poll() is None:
        if console.exists() and board_image.READY in console.read_text(encoding="utf-8", errors="replace"):
            return
        time.sleep(_EVERY_SECONDS)
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in (said, console) if path.exists()]
    lines = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if _CUT_OFF.fullmatch(line)] or lines or ["nothing was said"]
    raise DeviceError(
        f"the emulated board does not boot: {telling[0][:300]}",
        hint="has it the memory to? a kernel and Python need about 128 MiB",
    )


def _free_port() -> int:
    with socket.create_server((_HOST, 0)) as server:
        port: int = server.getsockname()[1]
    return port
