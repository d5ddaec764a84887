"""Output that is there whole or not at all: written beside its place, then renamed.

Whatever ends the writing early, Ctrl-C included, leaves what was there before and nothing else.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgevlm.errors import OutputError
from edgevlm.process import interrupts


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file, text as UTF-8, whole or not at all.

    Raises:
        OutputError: it cannot be written, or the disk is full.
    """
    with replacing(path) as new:
        new.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write, which takes its place when the block ends without an error.

    Whoever looks sees the old file or the new one, after a power cut as well.

    Raises:
        OutputError: it cannot be written, or the disk is full.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}")
    with output_errors(path), interrupts.removing(new):
        yield new
        with new.open("r+b") as file:
            os.fsync(file.fileno())
        new.replace(path)


@dataclass
class Stage:
    """A folder under construction.

    Attributes:
        folder: Where to write.
        destination: What the folder is renamed to when the block ends; may be changed until then.
    """

    folder: Path
    destination: Path


@contextmanager
def staged_folder(destination: Path, *, replace: bool) -> Iterator[Stage]:
    """A folder beside `destination` to write into, renamed to it when the block ends without an error.

    Args:
        destination: Folders above it are made.
        replace: Whether a folder that is there then is replaced; else that is an error.

    Raises:
        OutputError: it cannot be written, or the disk is full.
    """
    with output_errors(destination), folder_beside(destination) as folder:
        stage = Stage(folder, destination)
        yield stage
        if replace and stage.destination.exists():
            _swap(folder, stage.destination)
        else:
            folder.rename(stage.destination)


@contextmanager
def folder_beside(destination: Path) -> Iterator[Path]:
    """A new folder beside `destination`, to be renamed to it; if it is not, it is removed when the block ends.

    Raises:
        OSError: it cannot be made.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    with interrupts.temporary_folder(destination.parent, f".{destination.name}.") as folder:
        folder.chmod(0o755)
        yield folder


@contextmanager
def output_errors(destination: Path) -> Iterator[None]:
    """Says what an OSError in the block means to a user: a full disk, or a folder that is not theirs.

    Args:
        destination: What the block writes.

    Raises:
        OutputError: in place of the OSError.
    """
    try:
        yield
    except OSError as error:
        # shutil.copytree gathers its errors in one that has no number.
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(error):
            free = shutil.disk_usage(destination.parent).free if destination.parent.exists() else 0
            raise OutputError(
                f"no disk space left while writing {destination} ({free / 1e6:.0f} MB free)",
                hint="free some space, or write elsewhere with --out",
            ) from error
        raise OutputError(
            f"cannot write {destination}: {error.strerror or error}", hint="choose a folder you may write to with --out"
        ) from error


def _swap(folder: Path, destination: Path) -> None:
    """Puts the folder in the other's place; signals wait, for between two renames there is none there."""
    beside = f".{destination.name}.old."
    with interrupts.put_off(), interrupts.temporary_folder(destination.parent, beside) as old:
        destination.rename(old / destination.name)
        try:
            folder.rename(destination)
        except BaseException:
            (old / destination.name).rename(destination)
            raise
