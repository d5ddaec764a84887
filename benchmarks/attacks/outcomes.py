"""What becomes of an attack."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path

FINE = ("refused", "read", "same answers", "whole")
"""An error of EdgeVLM's; a document or a bundle that is what it was to whoever reads it; after a kill, old or new."""
FINDINGS = ("wrong", "traceback", "died", "hung", "lost")
"""Other answers though `verify` passes; another exception; a dead process; no end; neither old nor new, or litter."""


@dataclass(frozen=True)
class Outcome:
    """What became of one attack.

    Attributes:
        kind: Of the attack.
        what: Was attacked.
        number: Which one, of one seed.
        result: One of `FINE` or of `FINDINGS`.
        message: What was said, or seen.
    """

    kind: str
    what: str
    number: int
    result: str
    message: str = ""

    @property
    def is_finding(self) -> bool:
        return self.result in FINDINGS


def tell(error: BaseException) -> str:
    """An exception that should not have been, and where it comes from, on one line."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    place = "; ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
    return f"{type(error).__name__}: {str(error)[:200]} ({place})"
