"""Parts of a dataset."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from PIL import Image

from edgevlm.data.dataset import Dataset, Example
from edgevlm.errors import DataError


class Subset:
    """Some pictures of a dataset; its labels are the whole's.

    Args:
        name: What it is called in messages.
        whole: The dataset.
        indices: Which of its pictures.
    """

    def __init__(self, name: str, whole: Dataset, indices: Sequence[int]) -> None:
        self.name = name
        self.labels = whole.labels
        self.fingerprint = hashlib.sha256(f"{whole.fingerprint} {list(indices)}".encode()).hexdigest()
        self._whole = whole
        self._indices = tuple(indices)

    def __len__(self) -> int:
        return len(self._indices)

    def example(self, index: int) -> Example:
        """The words of a picture."""
        return self._whole.example(self._indices[index])

    def picture(self, index: int) -> Image.Image:
        """The picture; errors as the whole's."""
        return self._whole.picture(self._indices[index])


def few_shot(dataset: Dataset, shots: int, seed: int) -> Dataset:
    """`shots` pictures of each class, drawn without replacement; a class's draw depends on no other class.

    Args:
        dataset: One with labels; its pictures without a label are left out.
        shots: Pictures a class, at least 1.
        seed: Of the draw.

    Raises:
        DataError: there are no labels, or a class has fewer pictures.
    """
    if not dataset.labels:
        raise DataError(
            f"{dataset.name}: has no labels, so no pictures of each class can be drawn",
            hint="few-shot data are an image folder, labelled shards or objects:SPLIT:COUNT",
        )
    members: list[list[int]] = [[] for _ in dataset.labels]
    for index in range(len(dataset)):
        label = dataset.example(index).label
        if label is not None:
            members[label].append(index)
    scarce = {name: len(found) for name, found in zip(dataset.labels, members, strict=True) if len(found) < shots}
    if scarce:
        listed = ", ".join(f"{name} ({count})" for name, count in list(scarce.items())[:5])
        raise DataError(
            f"{dataset.name}: expected {shots} pictures of each class, {len(scarce)} of {len(members)} classes have "
            f"fewer: {listed}{', ...' if len(scarce) > 5 else ''}",
            hint="draw fewer shots, or add pictures",
        )
    chosen = [
        index
        for name, found in zip(dataset.labels, members, strict=True)
        for index in random.Random(f"few-shot/{seed}/{name}").sample(found, shots)
    ]
    return Subset(f"{dataset.name}, {shots} of each class", dataset, sorted(chosen))


def limit(dataset: Dataset, count: int, seed: int = 0) -> Dataset:
    """`count` pictures drawn without replacement, in the dataset's order; all of them where there are no more."""
    if len(dataset) <= count:
        return dataset
    chosen = random.Random(f"limit/{seed}").sample(range(len(dataset)), count)
    return Subset(f"{dataset.name}, {count:,} of them", dataset, sorted(chosen))
