"""A root file system of arm64 Debian packages: no root rights are needed, and nothing of this computer is changed.

apt downloads the packages of this computer's own release into lists and a cache of their own, for another
architecture; they are unpacked, not installed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from edgevlm.emulation import tools
from edgevlm.emulation.parts import Part
from edgevlm.errors import DeviceError
from edgevlm.process.progress import Progress, silent
from edgevlm.process.store import keep

PACKAGES = ("python3", "libstdc++6", "libgomp1")
_APT, _OS_RELEASE = Path("/etc/apt"), Path("/etc/os-release")
_EVERY_SECONDS = 0.2
_HINT = "this needs a network, once, and apt sources that have arm64 packages, as Debian's have"


def prepare(progress: Progress = silent, packages: Sequence[str] = PACKAGES) -> Part:
    """Fetches and unpacks the root file system, once for each release.

    Args:
        progress: Told how far it is.
        packages: What is in it; what they depend on comes along.

    Raises:
        DeviceError: this is no Debian, its sources have no arm64 packages, or there is no network.
    """
    tools.find("apt-get")
    tools.find("dpkg")
    codename = _codename()
    sources = _sources(codename)
    texts = [path.read_text(encoding="utf-8") for path in sources]
    made = keep("devices/root", (codename, *packages, *texts), partial(_fill, sources, packages, progress))
    return Part("arm64 system", made, codename)


def python(root: Part) -> str:
    """Version of the Python in a root file system, such as `3.11`.

    Raises:
        DeviceError: it has none.
    """
    for path in sorted((root.path / "usr" / "bin").glob("python3.*")):
        if found := re.fullmatch(r"python(3\.\d+)", path.name):
            return found[1]
    raise DeviceError(f"{root.path}: expected usr/bin/python3.x, found none", hint=f"remove {root.path} and try again")


def _codename() -> str:
    try:
        found = re.search(r"^VERSION_CODENAME=\"?(\w+)", _OS_RELEASE.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    if found is None:
        raise DeviceError(
            f"{_OS_RELEASE}: expected VERSION_CODENAME, such as bookworm, found none",
            hint="arm64 libraries are taken from Debian's packages: use Debian 12 or newer, or a container of it",
        )
    return found[1]


def _sources(codename: str) -> list[Path]:
    """The files that name the distribution's own suites."""
    found = [_APT / "sources.list", *sorted((_APT / "sources.list.d").glob("*"))]
    files = [path for path in found if path.suffix in (".list", ".sources") and path.is_file()]
    own = [path for path in files if re.search(rf"\s{codename}\b", path.read_text(encoding="utf-8"))]
    if not own:
        raise DeviceError(f"no apt source of {codename} below {_APT}", hint=_HINT)
    return own


def _fill(sources: Sequence[Path], packages: Sequence[str], progress: Progress, folder: Path) -> None:
    apt = folder.parent / "apt"
    for each in ("lists/partial", "cache/archives/partial", "sources"):
        (apt / each).mkdir(parents=True)
    (apt / "status").touch()
    for path in sources:
        shutil.copyfile(path, apt / "sources" / path.name)
    progress("reading arm64 package lists", None)
    command = _apt_get(apt)
    tools.run([*command, "update"], "read the lists of arm64 packages", hint=_HINT)
    install = [*command, "--no-install-recommends", "--yes", "install"]
    said = tools.run([*install, "--print-uris", *packages], f"find arm64 packages of {', '.join(packages)}", hint=_HINT)
    total = sum(int(size) for size in re.findall(r"^'[^']+' \S+ (\d+)", said, re.MULTILINE))
    _download([*install, "--download-only", *packages], apt / "cache" / "archives", total, progress)
    debs = sorted((apt / "cache" / "archives").glob("*.deb"))
    for index, deb in enumerate(debs):
        progress("unpacking arm64 packages", index / len(debs))
        tools.run([tools.find("dpkg"), "-x", deb, folder], f"unpack {deb.name}", hint="is there space on the disk?")


def _apt_get(apt: Path) -> list[str | Path]:
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root",  # another user could not read a private cache
        "Acquire::Languages": "none",
        "Dir::State::Lists": apt / "lists",
        "Dir::State::status": apt / "status",  # empty: nothing is installed; apt's lock lies beside it
        "Dir::Cache": apt / "cache",
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": apt / "sources",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    return [tools.find("apt-get"), "-qq", *words]


def _download(command: Sequence[str | Path], archives: Path, total_bytes: int, progress: Progress) -> None:
    stage = f"fetching {total_bytes / 1e6:.0f} MB of arm64 packages"
    with subprocess.Popen(
        [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as apt:
        ended = None
        while ended is None:
            try:
                _, stderr = apt.communicate(timeout=_EVERY_SECONDS)
                ended = apt.returncode
            except subprocess.TimeoutExpired:
                fetched = sum(path.stat().st_size for path in archives.rglob("*.deb") if path.is_file())
                progress(stage, min(1.0, fetched / max(1, total_bytes)))
    if ended:
        raise DeviceError(f"cannot fetch arm64 packages: {tools.complaint(stderr.decode(), ended)}", hint=_HINT)
