"""EdgeVLM's cache: folders that are made once and kept under a hash of what went into them.

It is `$EDGEVLM_CACHE_DIR`, else `$XDG_CACHE_HOME/edgevlm`, else `~/.cache/edgevlm`. Converted bundles lie in it (see
`edgevlm.conversion.cache`), below `devices` what is fetched and built for these, and below `teachers` teachers'
embeddings. It may be removed at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from edgevlm.errors import OutputError
from edgevlm.process.writing import staged_folder

_ELSEWHERE = "free some space, or name another folder for the cache as EDGEVLM_CACHE_DIR"


def folder() -> Path:
    """Where the entries lie.

    Raises:
        OutputError: the user has no home folder, as in a container that runs as a user of no name.
    """
    if named := os.environ.get("EDGEVLM_CACHE_DIR"):
        return Path(named)
    caches = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(caches or Path.home() / ".cache") / "edgevlm"
    except RuntimeError as error:
        raise OutputError(
            "expected a home folder for the cache, and this user has none",
            hint="set EDGEVLM_CACHE_DIR to a folder that can be written",
        ) from error


def keep(name: str, inputs: Sequence[str], make: Callable[[Path], object]) -> Path:
    """The folder that `make` fills, kept from the first time on.

    Args:
        name: What its name begins with, such as `devices/board`.
        inputs: All that its content follows from.
        make: Writes into the empty folder that it is given; what it puts beside that, in the folder above, is not kept.
    """
    return fill(f"{name}-{hashlib.sha256(json.dumps(list(inputs)).encode()).hexdigest()[:16]}", make)


def fill(entry: str, make: Callable[[Path], object]) -> Path:
    """The same for an entry whose name says already what it follows from.

    Raises:
        OutputError: the cache cannot be written, or the disk is full.
    """
    kept = folder() / entry
    if kept.is_dir():
        return kept
    try:
        with staged_folder(kept, replace=False, hint=_ELSEWHERE) as stage:
            make(stage.folder)
    except OutputError:
        if not kept.is_dir():  # or another process was quicker
            raise
    return kept
