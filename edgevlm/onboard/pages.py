"""The page cache: what of a file is in memory already, and how to read it from the disk again."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path


def drop(files: Iterable[Path]) -> None:
    """Asks the system to forget the files' pages; it keeps those that another process has mapped."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())  # pages that are yet to be written stay
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident_share(files: Iterable[Path]) -> float | None:
    """Share of the files' pages that are in memory, 0..1; None where the system does not tell."""
    try:
        mincore = ctypes.CDLL(None, use_errno=True).mincore
    except (OSError, AttributeError):
        return None
    resident = total = 0
    for path in files:
        size = path.stat().st_size
        if not size:
            continue
        # A private mapping is writable, which ctypes asks for to give its address; nothing is written.
        with path.open("rb") as file, mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE) as mapped:
            pages = -(-size // mmap.PAGESIZE)
            vector = (ctypes.c_ubyte * pages)()
            held = ctypes.c_char.from_buffer(mapped)
            failed = mincore(ctypes.c_void_p(ctypes.addressof(held)), ctypes.c_size_t(size), vector)
            del held
            if failed:
                return None
            resident += sum(page & 1 for page in vector)
            total += pages
    return resident / total if total else None
