"""Calibration data: pictures and texts like those that the model will meet, to measure ranges on."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from edgevlm import schema
from edgevlm.bundle.manifest import CalibrationRecord
from edgevlm.bundle.recipe import LEAST_SAMPLES, Calibration
from edgevlm.data.dataset import Dataset, read_pictures
from edgevlm.data.sources import open_data
from edgevlm.data.subsets import limit
from edgevlm.errors import DataError
from edgevlm.inputs.labels import numbered_lines
from edgevlm.inputs.rows import PIXELS, TOKEN_IDS, Rows, make_rows, takes
from edgevlm.process.progress import Progress

if TYPE_CHECKING:
    import torch

    from edgevlm.graphs.program import Programs
    from edgevlm.models.model import Model


@dataclass(frozen=True)
class CalibrationSource:
    """Where calibration data is.

    Attributes:
        data: What `edgevlm.data.sources.open_data` takes, or a folder of loose pictures.
        texts: A file with a text a line; None takes the data's captions, or `TEMPLATES` of its labels.
        images: Folder of the pictures that a captions file names.
    """

    data: str
    texts: Path | None = None
    images: Path | None = None


TEMPLATES = (
    *("{}", "a photo of a {}", "a {}", "the {}", "a picture of two {}s", "a close-up of a {}", "a drawing of a {}"),
    *("a small {}", "a photo of a large {} in front of a house", "a dark photo of the {}", "the {} on the left"),
    *("an image that shows a {}", "there is a {} in this picture, and little else"),
)
"""What labels become texts with, where the data has no others: a dozen words would be few to measure ranges on."""

CalibrationInputs: TypeAlias = "Mapping[str, list[torch.Tensor]]"
"""Of each component, its input a sample."""


class CalibrationData:
    """The chosen pictures and texts of a source.

    Attributes:
        pictures: Those that were chosen, unread.
        texts: Those that were chosen; empty where the source has none.

    Args:
        source: Where they are.
        wanted: How many, and which.

    Raises:
        DataError: there are fewer than wanted, all of one class, or the source is not readable.
    """

    def __init__(self, source: CalibrationSource, wanted: Calibration) -> None:
        whole = open_data(source.data, images=source.images, unlabelled=True)
        _refuse_few(source.data, "pictures", len(whole), wanted.samples)
        self.source = source
        self._seed = wanted.seed
        self.pictures = limit(whole, wanted.samples, wanted.seed)
        _refuse_one_class(self.pictures)
        self.texts = _choose_texts(self.pictures, source, wanted)

    @property
    def fingerprint(self) -> str:
        """Hash of what was chosen."""
        return hashlib.sha256(json.dumps([self.pictures.fingerprint, self.texts]).encode()).hexdigest()

    @property
    def record(self) -> CalibrationRecord:
        """What the manifest says of it."""
        texts = self.source.texts
        return CalibrationRecord(
            data=self.source.data,
            texts=str(texts) if texts else None,
            samples=len(self.pictures),
            seed=self._seed,
            fingerprint=self.fingerprint,
        )

    def check(self, programs: Programs) -> None:
        """Raises DataError where a program takes texts and there are none, before anything is read."""
        for name, program in programs.items():
            if takes(program.spec, TOKEN_IDS) and not self.texts:
                raise DataError(
                    f"{self.source.data}: has neither captions nor labels to calibrate {name} with",
                    hint="give --calibration-texts FILE, a text a line, or leave the text tower out with --image-only",
                )

    def rows(self, programs: Programs, model: Model, progress: Progress) -> Rows:
        """What the programs are calibrated with, prepared as the model prepares its input.

        Args:
            programs: Whose inputs are wanted.
            model: Whose preprocessing it is.
            progress: Told of each picture.

        Raises:
            ImageError: a picture cannot be read.
        """
        specs = [program.spec for program in programs.values()]
        read = any(takes(spec, PIXELS) for spec in specs)
        pictures = read_pictures(self.pictures, progress, "reading calibration pictures") if read else ()
        texts = self.texts if any(takes(spec, TOKEN_IDS) for spec in specs) else ()
        return make_rows(pictures, texts, model.image, model.tokenizer)


def calibration_inputs(programs: Programs, rows: Rows) -> CalibrationInputs:
    """Of each program that there are rows for, its one input a sample."""
    import torch

    found = {}
    for name, program in programs.items():
        (taken,) = program.spec.inputs
        if taken.name in rows:
            found[name] = list(torch.split(torch.from_numpy(rows[taken.name]), 1))
    return found


def _refuse_few(name: str, what: str, count: int, wanted: int) -> None:
    if count < wanted:
        enough = count >= LEAST_SAMPLES
        fewer = f"ask for fewer in a recipe file, calibration: {{samples: {count}}}, or " if enough else ""
        raise DataError(f"{name}: expected {wanted} {what} to calibrate with, got {count}", hint=f"{fewer}add {what}")


def _refuse_one_class(pictures: Dataset) -> None:
    if len(pictures.labels) == 0:
        return
    found = {pictures.example(index).label for index in range(len(pictures))}
    if len(found) == 1:
        (label,) = found
        name = "no class" if label is None else repr(pictures.labels[label])
        raise DataError(
            f"{pictures.name}: expected pictures of several classes to calibrate with, all are of {name}",
            hint="ranges that were measured on one class do not hold for others",
        )


def _choose_texts(pictures: Dataset, source: CalibrationSource, wanted: Calibration) -> tuple[str, ...]:
    if source.texts is None:
        examples = [pictures.example(index) for index in range(len(pictures))]
        said = dict.fromkeys(caption for example in examples for caption in example.captions)
        of_labels = [template.format(label) for template in TEMPLATES for label in pictures.labels]
        return tuple(said or of_labels)[: wanted.samples]
    texts = read_texts(source.texts)
    _refuse_few(str(source.texts), "texts", len(texts), wanted.samples)
    return tuple(random.Random(f"texts/{wanted.seed}").sample(texts, wanted.samples))


def read_texts(path: Path) -> tuple[str, ...]:
    """The different texts of a file with one a line, in order.

    Raises:
        DataError: it cannot be read.
    """
    text = schema.read_text(path, "text", error=DataError)
    return tuple(dict.fromkeys(line for _, line in numbered_lines(text)))
