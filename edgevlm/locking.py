"""One process at a time: a lock that the operating system takes back when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgevlm.errors import OutputError


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Holds the lock on an empty file, which is made if it is not there, while the block runs.

    Raises:
        OutputError: another process holds it; `busy` says what that one is doing.
    """
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(busy, hint="wait, or choose another --out") from error
        yield
