"""A folder written beside its place and renamed whole."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgevlm.bundle.manifest import MANIFEST
from edgevlm.errors import OutputError
from edgevlm.process import interrupts


@dataclass
class Stage:
    """A folder under construction.

    Attributes:
        folder: Where to write.
        destination: What the folder is renamed to when the `staged` block ends; may be changed until then.
    """

    folder: Path
    destination: Path


@contextmanager
def staged(destination: Path, *, force: bool) -> Iterator[Stage]:
    """A temporary sibling of `destination` to write into, renamed to it when the block ends without an error.

    Whatever ends the block early, Ctrl-C included, leaves what was there before and nothing else.

    Raises:
        OutputError: the destination exists and `force` is not set, cannot be written, or the disk is full.
    """
    refuse_existing(destination, force=force)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with interrupts.temporary_folder(destination.parent, f".{destination.name}.") as folder:
            folder.chmod(0o755)
            stage = Stage(folder, destination)
            yield stage
            with interrupts.put_off():
                _swap(folder, stage.destination)
    except OSError as error:
        raise output_error(error, destination) from error


def refuse_existing(destination: Path, *, force: bool) -> None:
    """Raises OutputError if `destination` exists and may not be replaced: never anything that is not a bundle."""
    if destination.exists() and not force:
        raise OutputError(f"{destination} exists already", hint="--force replaces it, --out writes elsewhere")
    if destination.exists() and not (destination / MANIFEST).is_file():
        raise OutputError(f"{destination} exists and is not a bundle", hint="move it away, or use --out or --name")


def _swap(folder: Path, destination: Path) -> None:
    if not destination.exists():
        folder.rename(destination)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{destination.name}.old.", dir=destination.parent))
    try:
        destination.rename(old / destination.name)
        try:
            folder.rename(destination)
        except BaseException:
            (old / destination.name).rename(destination)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def output_error(error: OSError, destination: Path) -> OutputError:
    """What an OSError while writing `destination` means to a user: a full disk, or a folder that is not theirs."""
    # shutil.copytree gathers its errors in one that has no number.
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(error):
        free = shutil.disk_usage(destination.parent).free if destination.parent.exists() else 0
        return OutputError(
            f"no disk space left while writing {destination} ({free / 1e6:.0f} MB free)",
            hint="free some space, or write elsewhere with --out",
        )
    return OutputError(
        f"cannot write {destination}: {error.strerror or error}", hint="choose a folder you may write to with --out"
    )
