"""The parts that emulation is made of: each made once, and kept under the hash of what went into it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgevlm import interrupts
from edgevlm.devices import site


@dataclass(frozen=True)
class Part:
    """A folder in the cache.

    Attributes:
        name: What people call it.
        path: Where it is.
        version: Of what is in it.
    """

    name: str
    path: Path
    version: str

    @property
    def size_bytes(self) -> int:
        """That its files take on the disk, links left out: a disk image is mostly holes."""
        return sum(
            each.stat().st_blocks * 512 for each in self.path.rglob("*") if each.is_file() and not each.is_symlink()
        )


def keep(name: str, inputs: Sequence[str], make: Callable[[Path], None]) -> Path:
    """The folder that `make` fills, kept from the first time on.

    Args:
        name: What its name begins with.
        inputs: All that its content follows from.
        make: Writes into the empty folder that it is given.
    """
    digest = hashlib.sha256(json.dumps(list(inputs)).encode()).hexdigest()[:16]
    kept = site.folder() / f"{name}-{digest}"
    if kept.is_dir():
        return kept
    site.folder().mkdir(parents=True, exist_ok=True)
    with interrupts.temporary_folder(site.folder(), f".{name}-") as stage:
        made = stage / "made"
        made.mkdir()
        make(made)
        with interrupts.put_off():
            if not kept.is_dir():  # another process may have been faster
                made.rename(kept)
    return kept
