"""What every dataset offers: examples by index, their words apart from their pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from edgevlm.process.progress import Progress


@dataclass(frozen=True)
class Example:
    """One picture's words.

    Attributes:
        key: Names the picture, the same in every run: a path below the dataset's folder, a sample of a shard.
        label: Index into the dataset's `labels`; None where it has none.
        captions: Texts that describe the picture; empty where there are none.
    """

    key: str
    label: int | None = None
    captions: tuple[str, ...] = ()


class Dataset(Protocol):
    """Pictures with words, addressed by index so that a run can be resumed at any step. Picklable.

    Attributes:
        name: What a user called it.
        labels: The class names, sorted; empty where the pictures have captions only.
        fingerprint: Hash of what it lists: keys, words, and each file's size and time of change.
    """

    name: str
    labels: tuple[str, ...]
    fingerprint: str

    def __len__(self) -> int: ...

    def example(self, index: int) -> Example:
        """The words of picture `index`, without reading the picture."""

    def picture(self, index: int) -> Image.Image:
        """The picture, upright and in RGB (see `edgevlm.inputs.pictures.decode`).

        Raises:
            ImageError: it cannot be read.
        """


def read_pictures(data: Dataset, progress: Progress, stage: str = "reading pictures") -> Iterator[Image.Image]:
    """Every picture of a dataset, read when its turn comes.

    Args:
        data: Where they are.
        progress: Called before each with `stage` and the share that is read.
        stage: What is being done.

    Raises:
        ImageError: a picture cannot be read.
    """
    for index in range(len(data)):
        progress(stage, index / len(data))
        yield data.picture(index)
