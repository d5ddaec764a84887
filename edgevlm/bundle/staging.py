"""A bundle's folder, written beside its place and put there whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgevlm.bundle.manifest import MANIFEST
from edgevlm.errors import OutputError
from edgevlm.process.interrupts import temporary_folder
from edgevlm.process.writing import Stage, output_errors, staged_folder


@contextmanager
def staged(destination: Path, *, force: bool, ignored: bool = False) -> Iterator[Stage]:
    """A folder to write into, which takes the place of `destination` when the block ends without an error.

    Args:
        destination: The bundle's.
        force: Whether a bundle that is there is replaced.
        ignored: Whether git is to pass over the folder that it is in, where that is new.

    Raises:
        OutputError: the destination exists and `force` is not set, cannot be written, or the disk is full.
    """
    refuse_destination(destination, force=force)
    with staged_folder(destination, replace=force, ignored=ignored) as stage:
        yield stage


def refuse_destination(destination: Path, *, force: bool) -> None:
    """Refuses, before the long work, a place where no bundle can be put.

    Raises:
        OutputError: it exists and may not be replaced, which nothing may that is not a bundle; or nothing can be
            written there.
    """
    if destination.exists() and not force:
        raise OutputError(f"{destination} exists already", hint="--force replaces it; or write elsewhere")
    if destination.exists() and not (destination / MANIFEST).is_file():
        raise OutputError(f"{destination} exists and is not a bundle", hint="move it away, or write elsewhere")
    nearest = next(each for each in destination.absolute().parents if each.exists())
    with output_errors(destination), temporary_folder(nearest):
        pass
