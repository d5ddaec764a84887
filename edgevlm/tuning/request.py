"""What is to be tuned, and how."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias

from edgevlm.bundle.recipe import Calibration
from edgevlm.compression.calibration import CalibrationData, CalibrationSource
from edgevlm.data.dataset import Dataset
from edgevlm.data.sources import open_data
from edgevlm.errors import DataError

Objective: TypeAlias = Literal["size", "latency"]


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

    @property
    def calibration_source(self) -> CalibrationSource:
        """Where the pictures to measure ranges on are from."""
        return self.calibration or CalibrationSource(self.data, images=self.images)

    @property
    def calibration_rules(self) -> Calibration:
        """Which of them: others than the task's, where it is the same data; seed 0 chooses those."""
        return Calibration(seed=0 if self.calibration else 1)

    @cached_property
    def opened(self) -> tuple[Dataset, CalibrationData]:
        """The task's data, and what to calibrate with: counted, no picture read yet.

        Raises:
            DataError: one is missing, not what it says it is, or too small.
        """
        data = open_data(self.data, images=self.images)
        rules = self.calibration_rules
        try:
            return data, CalibrationData(self.calibration_source, rules)
        except DataError as error:
            hint = "give pictures to calibrate with as --calibration DATA" if self.calibration is None else None
            raise DataError(error.message, hint=hint or f"add pictures; a search takes {rules.samples}") from error
