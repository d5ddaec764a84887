"""A dataset of pictures that are files below one folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from edgevlm.data.dataset import Example
from edgevlm.data.fingerprints import fingerprint, stamp
from edgevlm.data.pictures import read_picture


class PictureFiles:
    """Pictures below a folder; each example's key is its picture's path there.

    Args:
        name: What a user called it.
        kind: The form of data, for the fingerprint.
        root: The folder.
        examples: Keys and words.
        labels: The class names, sorted.

    Raises:
        DataError: a key or caption is no valid Unicode.
    """

    def __init__(
        self, name: str, kind: str, root: Path, examples: Sequence[Example], labels: tuple[str, ...] = ()
    ) -> None:
        self.name = name
        self.root = root
        self.labels = labels
        self._examples = tuple(examples)
        rows = ((each.key, each.label, each.captions, stamp(root / each.key)) for each in examples)
        self.fingerprint = fingerprint(name, kind, [*rows, labels])

    def __len__(self) -> int:
        return len(self._examples)

    def example(self, index: int) -> Example:
        """The words of a picture."""
        return self._examples[index]

    def picture(self, index: int) -> Image.Image:
        """The picture, upright and in RGB.

        Raises:
            ImageError: it cannot be read.
        """
        return read_picture(self.root / self._examples[index].key)
