"""One process at a time: a lock that the operating system takes back when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from edgevlm.errors import OutputError
from edgevlm.process import interrupts


@contextmanager
def locked(path: Path, busy: str, hint: str = "wait, or choose another --out") -> Iterator[None]:
    """Holds the lock on an empty file, which is there only as long as somebody holds it, while the block runs.

    Args:
        path: The file.
        busy: What another process that holds it is doing.
        hint: What to do then.

    Raises:
        OutputError: another process holds it, or the file system has no locks.
    """
    with ExitStack() as held:
        while True:
            lock = held.enter_context(path.open("a"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OutputError(busy, hint=hint) from error
            except OSError as error:
                raise OutputError(
                    f"{path}: cannot be locked: {error.strerror}",
                    hint="choose a folder on a file system that has locks, such as a local disk",
                ) from error
            # The holder before may have removed it after it was opened here: then it locks nobody out.
            if path.exists() and os.path.samestat(path.stat(), os.fstat(lock.fileno())):
                break
        held.enter_context(interrupts.removing(path))
        yield
