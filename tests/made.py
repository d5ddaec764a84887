"""Folders that are made by whichever test asks first, in this run or in an earlier one of the same sources."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from edgevlm.conversion import cache

_KEPT = 2
"""Of how many states of the sources: one works on a change, and goes back once in a while."""
_SOURCES = (
    "tests/library.py",
    "tests/checkpoints.py",
    "tests/talkers.py",
    "benchmarks/bundles.py",
    "edgevlm/models/builtin/*/*",
)
"""What shapes the bundles beside the code of the toolchain."""

spent = 0.0
"""CPU seconds that this process has made things with which tests share: no test is to blame for them."""


def home(folder: Path, devices: Path) -> Path:
    """The one of a folder's folders in which lies what the present sources and tools make; the oldest others go.

    Args:
        folder: The folder; it is made where there is none.
        devices: Where what devices are emulated with lies, whatever the sources.
    """
    root = Path(__file__).parents[1]
    paths = sorted(path for name in _SOURCES for path in root.glob(name) if path.is_file())
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    found = folder / cache.key({"tests": hashes})
    for each in (found, devices):
        each.mkdir(parents=True, exist_ok=True)
    os.utime(found)
    with contextlib.suppress(FileExistsError):
        (found / "devices").symlink_to(devices)
    for old in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)[_KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    return found


def once(name: str, make: Callable[[Path], object]) -> Path:
    """The folder of that name, which `make` fills if nobody has yet; other processes wait for it meanwhile."""
    kept = Path(os.environ["EDGEVLM_CACHE_DIR"], "library", name)
    if kept.exists():
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with apart(), (kept.parent / f"{kept.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
                folder = Path(scratch, "made")
                folder.mkdir()
                make(folder)
                folder.rename(kept)
    return kept


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """What the block takes counts as shared, blocks within it included."""
    global spent
    began, before = cpu_seconds(), spent
    try:
        yield
    finally:
        spent = before + cpu_seconds() - began


def cpu_seconds() -> float:
    """What this process and the children that it has waited for have computed so far, in user mode.

    What the kernel takes for the same pages and files differs fivefold from one hour and machine to the next.
    """
    times = os.times()
    return times.user + times.children_user
