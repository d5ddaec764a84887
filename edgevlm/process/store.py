"""What is fetched and built for devices, each folder made once and kept under the hash of what went into it.

They lie in EdgeVLM's cache, below `devices`, and may be removed at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from edgevlm.process import interrupts


def keep(name: str, inputs: Sequence[str], make: Callable[[Path], None]) -> Path:
    """The folder that `make` fills, kept from the first time on.

    Args:
        name: What its name begins with.
        inputs: All that its content follows from.
        make: Writes into the empty folder that it is given.
    """
    digest = hashlib.sha256(json.dumps(list(inputs)).encode()).hexdigest()[:16]
    parent = folder() / "devices"
    kept = parent / f"{name}-{digest}"
    if kept.is_dir():
        return kept
    parent.mkdir(parents=True, exist_ok=True)
    with interrupts.temporary_folder(parent, f".{name}-") as stage:
        made = stage / "made"
        made.mkdir()
        make(made)
        with interrupts.put_off():
            try:
                made.rename(kept)
            except OSError:
                if not kept.is_dir():  # or another process was quicker
                    raise
    return kept


def folder() -> Path:
    """Where the entries lie."""
    if named := os.environ.get("EDGEVLM_CACHE_DIR"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgevlm"
