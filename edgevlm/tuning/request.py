"""What is to be tuned, and how."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias

from edgevlm.bundle.recipe import Calibration
from edgevlm.compression.calibration import CalibrationData, CalibrationSource
from edgevlm.data.dataset import Dataset
from edgevlm.data.questions import PictureQuestion, Questions, is_questions, open_questions
from edgevlm.data.sources import open_data
from edgevlm.errors import DataError, InputError
from edgevlm.models import catalogue
from edgevlm.process.paths import user_path

Objective: TypeAlias = Literal["size", "latency"]


@dataclass(frozen=True)
class TuneRequest:
    """What to search for.

    Attributes:
        model: What `edgevlm convert` takes.
        target: One target.
        data: Pictures with labels or captions, or of a model that talks, questions about pictures: the task.
        out: Folder of what is found.
        max_drop: Points of accuracy that may be lost.
        calibration: Pictures to measure ranges on; `data`'s own others if None.
        pictures: How many of `data` are asked about; 500 where None, 100 of a model that talks, which takes longer.
        objective: What is to be small.
        images: Folder of the pictures that a captions file, or one of questions, names.
        context_length, picture_size: Of a model that talks; see `edgevlm.conversion.pipeline.Request`.
    """

    model: str | Path
    target: str
    data: str
    out: Path
    max_drop: float = 0.5
    calibration: CalibrationSource | None = None
    pictures: int | None = None
    objective: Objective = "size"
    images: Path | None = None
    context_length: int | None = None
    picture_size: tuple[int, int] | None = None

    @cached_property
    def talks(self) -> bool:
        """Whether the model is one that talks."""
        return catalogue.talks(self.model)

    @property
    def count(self) -> int:
        """How many pictures, or questions, at most."""
        return self.pictures or (100 if self.talks else 500)

    @property
    def calibration_source(self) -> CalibrationSource:
        """Where the pictures to measure ranges on are from."""
        return self.calibration or CalibrationSource(self.data, images=self.images)

    @property
    def calibration_rules(self) -> Calibration:
        """Which of them: others than the task's, where it is the same data; seed 0 chooses those."""
        return Calibration(seed=0 if self.calibration else 1)

    @cached_property
    def opened(self) -> tuple[Dataset | Questions, CalibrationData | None]:
        """The task's data, and what to calibrate with: counted, no picture read yet.

        Raises:
            DataError: one is missing, not what it says it is, or too small.
            InputError: calibration of a model that talks, or a context of one that does not.
        """
        if self.talks:
            if self.calibration is not None:
                raise InputError(
                    f"{self.model} talks, and its ranges are never measured: expected no data to calibrate with",
                    hint="leave --calibration out",
                )
            return _questions(self.data, self.images), None
        if self.context_length is not None or self.picture_size is not None:
            raise InputError(
                f"{self.model} does not talk: expected neither a context nor a size of pictures",
                hint="leave --context and --picture-size out",
            )
        data = open_data(self.data, images=self.images)
        rules = self.calibration_rules
        try:
            return data, CalibrationData(self.calibration_source, rules)
        except DataError as error:
            hint = "give pictures to calibrate with as --calibration DATA" if self.calibration is None else None
            raise DataError(error.message, hint=hint or f"add pictures; a search takes {rules.samples}") from error


def _questions(data: str, images: Path | None) -> Questions:
    """Those of a benchmark's file; of any other pictures, to describe each."""
    if is_questions(user_path(data)):
        return open_questions(user_path(data), images=images)
    found = open_data(data, images=images, unlabelled=True)
    keys = [found.example(index).key for index in range(len(found))]
    asked = [PictureQuestion(key, key, "", ()) for key in keys]
    return Questions(found.name, "captions", asked, found.picture, [found.fingerprint])
