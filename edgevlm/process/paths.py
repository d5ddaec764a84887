"""Paths that users wrote."""

from __future__ import annotations

import os
from pathlib import Path


def user_path(written: str | Path) -> Path:
    """The path, with `~` and `~name` resolved where such a home is known and left as they are where none is.

    >>> user_path("models/my-clip")
    PosixPath('models/my-clip')
    """
    return Path(os.path.expanduser(written))
