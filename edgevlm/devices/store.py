"""What is fetched and built for devices, each folder made once and kept under the hash of what went into it.

They lie in EdgeVLM's cache, below `devices`, and may be removed at any time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from edgevlm import cache, interrupts


def folder() -> Path:
    """Where they lie."""
    return cache.folder() / "devices"


def keep(name: str, inputs: Sequence[str], make: Callable[[Path], None]) -> Path:
    """The folder that `make` fills, kept from the first time on.

    Args:
        name: What its name begins with.
        inputs: All that its content follows from.
        make: Writes into the empty folder that it is given.
    """
    digest = hashlib.sha256(json.dumps(list(inputs)).encode()).hexdigest()[:16]
    kept = folder() / f"{name}-{digest}"
    if kept.is_dir():
        return kept
    folder().mkdir(parents=True, exist_ok=True)
    with interrupts.temporary_folder(folder(), f".{name}-") as stage:
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
