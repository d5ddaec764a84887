"""The programs of this computer that emulation needs, and what to install where one is missing."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgevlm.errors import DeviceError

QEMU, CROSS = "qemu-aarch64", "aarch64-linux-gnu-"
_PACKAGES = {
    QEMU: "qemu-user",
    "qemu-system-aarch64": "qemu-system-arm",
    "mke2fs": "e2fsprogs",
    "ssh-keygen": "openssh-client",
    "setarch": "util-linux",
    "gcc": "gcc libc6-dev",
    f"{CROSS}gcc": "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
    f"{CROSS}g++": "g++-aarch64-linux-gnu",
    f"{CROSS}nm": "binutils-aarch64-linux-gnu",
}
_DEBIANS = ("apt-get", "dpkg")
_LEAST_QEMU, _QEMU_WITH_NEW_API = (7, 2), (9, 0)


@dataclass(frozen=True)
class Qemu:
    """The emulator.

    Attributes:
        path: Of `qemu-aarch64`.
        version: Such as `7.2.22`.
    """

    path: Path
    version: str


def find(program: str) -> Path:
    """Where a program is.

    Raises:
        DeviceError: it is not installed; the hint says what to install.
    """
    if found := shutil.which(program):
        return Path(found)
    if program in _DEBIANS:
        hint = "arm64 libraries are taken from Debian's packages: use Debian 12 or newer, or a container of it"
    else:
        hint = f"sudo apt-get install {_PACKAGES[program]}"
    raise DeviceError(f"emulating a device needs {program}, which is not installed here", hint=hint)


def run(command: Sequence[str | Path], what: str, *, hint: str | None = None) -> str:
    """What a program says on stdout.

    Args:
        command: The program, as `find` gave it, and its arguments.
        what: What it is for, to go after "cannot".
        hint: What to do where it fails.

    Raises:
        DeviceError: it failed; the message ends with its own.
    """
    done = subprocess.run(
        [str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise DeviceError(f"cannot {what}: {complaint(done.stderr, done.returncode)}", hint=hint)
    return done.stdout


def complaint(stderr: str, code: int) -> str:
    """What went wrong, in a line: the one that says so, else the last one."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    said = [line for line in lines if re.search(r"\b(error|E):", line)]
    return (said or lines[-1:] or [f"exit code {code}"])[0][:500]


def qemu() -> Qemu:
    """The emulator, once it is known to take the plugin that counts.

    Raises:
        DeviceError: it is not installed, of another version, or built without plugins.
    """
    path = find(QEMU)
    said = run([path, "--version"], f"ask {path} for its version")
    found = re.search(r"version (\d+)\.(\d+)\S*", said)
    if found is None:
        raise DeviceError(f"{path}: expected a version of QEMU, got {said[:200]!r}")
    version = (int(found[1]), int(found[2]))
    if not _LEAST_QEMU <= version < _QEMU_WITH_NEW_API:
        raise DeviceError(
            f"expected QEMU 7.2 to 8.2, whose plugin interface is of version 1, got {found[0].split()[1]} ({path})",
            hint="Debian 12's package qemu-user has 7.2; put its qemu-aarch64 first on the PATH",
        )
    if "-plugin" not in run([path, "--help"], f"ask {path} what it takes"):
        raise DeviceError(
            f"{path} was built without plugins, and counting needs one",
            hint="statically linked builds have none: sudo apt-get install qemu-user",
        )
    return Qemu(path, found[0].split()[1])


def without_randomness() -> tuple[Path | str, ...]:
    """What to put before a command so that its addresses are the same each time; nothing where that is forbidden.

    Addresses decide where hash tables put things, and so move a count by a few instructions.
    """
    setarch = find("setarch")
    tried = subprocess.run([str(setarch), "-R", "true"], capture_output=True, check=False)
    return (setarch, "-R") if tried.returncode == 0 else ()
