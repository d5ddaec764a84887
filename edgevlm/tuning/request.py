"""What is to be tuned, and how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgevlm.compression.calibration import CalibrationSource
from edgevlm.tuning.search import Objective


@dataclass(frozen=True)
class TuneRequest:
    """What to search for.

    Attributes:
        model: What `edgevlm convert` takes.
        target: One target.
        data: Pictures with labels or captions: the task.
        out: Folder of what is found.
        max_drop: Points of accuracy that may be lost.
        calibration: Pictures to measure ranges on; `data`'s own others if None.
        pictures: How many of `data` are asked about.
        objective: What is to be small.
        images: Folder of the pictures that a captions file names.
    """

    model: str | Path
    target: str
    data: str
    out: Path
    max_drop: float = 0.5
    calibration: CalibrationSource | None = None
    pictures: int = 500
    objective: Objective = "size"
    images: Path | None = None
