"""The parts that emulation is made of, as a table of them shows them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Part:
    """A folder that is kept; see `edgevlm.process.store`.

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
        files = (each for each in self.path.rglob("*") if each.is_file() and not each.is_symlink())
        return sum(each.stat().st_blocks * 512 for each in files)
