"""Two files or folders change places in one step, so that whoever looks always finds one of them.

Linux has `renameat2(RENAME_EXCHANGE)`, macOS `renamex_np(RENAME_SWAP)`; Python has neither.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_RENAME_SWAP = 2


class Unsupported(OSError):
    """This system, or the file system that both lie on, cannot do it in one step."""


def exchange(one: Path, other: Path) -> None:
    """Each takes the other's place.

    Raises:
        Unsupported: nothing was done.
        FileNotFoundError: one of them is not there.
        OSError: nothing was done either.
    """
    system = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    try:
        if sys.platform == "darwin":
            failed = system.renamex_np(*names, ctypes.c_uint(_RENAME_SWAP))
        else:
            failed = system.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], ctypes.c_uint(_RENAME_EXCHANGE))
    except AttributeError as error:  # a C library without it
        raise Unsupported(errno.ENOSYS, os.strerror(errno.ENOSYS)) from error
    if failed:
        number = ctypes.get_errno()
        kind = Unsupported if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP) else OSError
        raise kind(number, os.strerror(number), str(one), None, str(other))
