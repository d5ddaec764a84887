"""Folders to work in, which know whether their owner lives: what a killed one leaves, whoever comes next removes.

An owner holds a lock on a file in its folder, which the operating system takes back when it dies, however it dies. Only
what has a name of ours, belongs to this user and is locked by nobody is ever removed.

    .edgevlm-0123456789ab/
      .owner       locked; made with the permissions that the user gives to new files
      replaced/    what was moved out of its place to make room for something new, until that is there
      ...          the work
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

OWNER, REPLACED = ".owner", "replaced"
_PREFIX = ".edgevlm-"
_OURS = re.compile(re.escape(_PREFIX) + "[0-9a-f]{12}")


def make(parent: Path) -> tuple[Path, int]:
    """A new folder, closed to other users, and the descriptor that holds its lock: close it, then `remove` the folder.

    Raises:
        OSError: it cannot be made.
    """
    while True:
        folder = parent / f"{_PREFIX}{secrets.token_hex(6)}"
        folder.mkdir(mode=0o700)
        try:
            lock = os.open(folder / OWNER, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # somebody has swept here before the lock was there
            continue
        except OSError:
            remove(folder)
            raise
        # Where the file system knows no locks, nobody gets this one either: nothing is swept there.
        if _lock(lock) is not False and (folder / OWNER).exists():
            return folder, lock
        os.close(lock)


def sweep(parent: Path) -> None:
    """Removes the folders there whose owners are dead; what they had moved out of its place goes back to it."""
    try:
        found = [Path(each.path) for each in os.scandir(parent) if _OURS.fullmatch(each.name)]
    except OSError:  # nothing there, or not to be listed
        return
    for folder in found:
        with suppress(OSError):
            if folder.lstat().st_uid == os.geteuid() and not folder.is_symlink():
                _remove_ownerless(folder)


def remove(folder: Path) -> None:
    """Removes one, as far as that goes; its lock file last, so that whoever is killed at it leaves it recognisable."""
    with suppress(OSError):
        for each in folder.iterdir():
            if each.name != OWNER:
                shutil.rmtree(each, ignore_errors=True) if _is_folder(each) else each.unlink(missing_ok=True)
        (folder / OWNER).unlink(missing_ok=True)
        folder.rmdir()


def _remove_ownerless(folder: Path) -> None:
    try:
        lock = os.open(folder / OWNER, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        folder.rmdir()  # it is empty: its owner was just making it, or just removing it
        return
    try:
        if _lock(lock):
            _put_back(folder)
            remove(folder)
    finally:
        os.close(lock)


def _put_back(folder: Path) -> None:
    for old in (folder / REPLACED).glob("*"):
        place = folder.parent / old.name
        if not os.path.lexists(place):
            old.rename(place)


def _lock(descriptor: int) -> bool | None:
    """Whether the lock is ours now; None where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
