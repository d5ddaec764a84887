"""Output that is there whole or not at all: written beside its place, flushed to the disk, then renamed.

Whatever ends the writing early leaves what was there before: Ctrl-C and nothing else, a kill or a power cut and a
hidden folder that the next to write there removes (`edgevlm.process.scratch`).
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edgevlm.errors import OutputError
from edgevlm.process import interrupts
from edgevlm.process.exchange import Unsupported, exchange
from edgevlm.process.scratch import OWNER, REPLACED

GITIGNORE = ".gitignore"


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file, text as UTF-8, whole or not at all.

    Raises:
        OutputError: it cannot be written, or the disk is full.
    """
    with replacing(path) as new:
        new.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file of the same name to write, which takes the place of `path` when the block ends without an error.

    Whoever looks sees the old file or the new one, after a power cut as well.

    Raises:
        OutputError: it cannot be written, or the disk is full.
    """
    with output_errors(path), interrupts.temporary_folder(path.parent) as scratch:
        new = scratch / path.name
        yield new
        _settle(new)
        new.replace(path)


@dataclass
class Stage:
    """A folder under construction.

    Attributes:
        folder: Where to write.
        destination: What the folder is renamed to when the block ends; may be changed to another name until then.
        replace: Whether what is there then is replaced; else that is an error.
    """

    folder: Path
    destination: Path
    replace: bool


@contextmanager
def staged_folder(
    destination: Path, *, replace: bool, ignored: bool = False, hint: str | None = None
) -> Iterator[Stage]:
    """A folder to write into, renamed to `destination` when the block ends without an error.

    Whoever looks sees the old folder or the new one, where the system can exchange two in one step.

    Args:
        destination: Folders above it are made, and removed again if nothing comes to be in them.
        replace: Whether a folder that is there then is replaced; else that is an error.
        ignored: Whether git is to pass over the folder above it; see `made`.
        hint: What to do where it cannot be written.

    Raises:
        OutputError: it cannot be written, or the disk is full.
    """
    with (
        output_errors(destination, hint),
        made(destination.parent, ignored=ignored),
        interrupts.temporary_folder(destination.parent) as scratch,
    ):
        stage = Stage(scratch / destination.name, destination, replace)
        stage.folder.mkdir()
        yield stage
        _settle(stage.folder)
        if stage.replace:
            _put_in_place(stage.folder, stage.destination)
        else:
            stage.folder.rename(stage.destination)


@contextmanager
def made(folder: Path, *, ignored: bool = False) -> Iterator[None]:
    """Makes a folder and those above it; what is new and still empty when the block ends is removed again.

    Args:
        folder: Which.
        ignored: Whether git is to pass over it if it is new, for what can be made again has no place in a repository.
            A folder that was there is its owner's, and stays as it is.

    Raises:
        OSError: it cannot be made.
    """
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / GITIGNORE
    try:
        if ignored and folder in new:
            note.write_text("# Made by edgevlm, which can make it again.\n*\n", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            if ignored and folder in new and list(folder.iterdir()) == [note]:
                note.unlink()
        for each in new:
            with suppress(OSError):
                each.rmdir()


def discard(path: Path) -> None:
    """Removes a folder, as far as that goes; whoever looks finds all of it or nothing."""
    if path.exists():
        with suppress(OSError), interrupts.temporary_folder(path.parent) as scratch:
            path.rename(scratch / path.name)


@contextmanager
def output_errors(destination: Path, hint: str | None = None) -> Iterator[None]:
    """Says what an OSError in the block means to a user: a full disk, or a folder that is not theirs.

    Args:
        destination: What the block writes.
        hint: What to do about it; that `--out` names another place where None.

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
                hint=hint or "free some space, or write elsewhere",
            ) from error
        raise OutputError(
            f"cannot write {destination}: {error.strerror or error}",
            hint=hint or "choose a folder that you may write to",
        ) from error


def _settle(path: Path) -> None:
    """Makes all of it readable for whoever may read new files, and has it written to the disk."""
    readable = (path.parent / OWNER).stat().st_mode & 0o444  # libraries write some files for their owner alone
    for each in reversed([path, *path.rglob("*")]):  # what is in a folder before the folder
        mode = each.lstat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            continue
        wanted = mode | readable | (readable >> 2 if stat.S_ISDIR(mode) else 0)
        if wanted != mode:
            with suppress(PermissionError):  # file systems of other systems know no permissions
                each.chmod(stat.S_IMODE(wanted))
        _flush(each, is_folder=stat.S_ISDIR(mode))


def _flush(path: Path, *, is_folder: bool) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not is_folder or error.errno != errno.EINVAL:  # not every file system can flush a folder
            raise
    finally:
        os.close(descriptor)


def _put_in_place(folder: Path, destination: Path) -> None:
    """Renames the folder to the destination; what was there ends beside where the folder was, to be removed."""
    try:
        exchange(folder, destination)
    except FileNotFoundError:
        folder.rename(destination)
    except Unsupported:
        _put_in_place_in_two_steps(folder, destination)


def _put_in_place_in_two_steps(folder: Path, destination: Path) -> None:
    """Signals wait, for between the two there is none there; after a kill, whoever sweeps puts the old one back."""
    old = folder.parent / REPLACED / destination.name
    old.parent.mkdir()
    with ExitStack() as undo, interrupts.put_off():
        destination.rename(old)
        undo.callback(old.rename, destination)
        folder.rename(destination)
        undo.pop_all()
