"""What a student learns from: pictures and their words, with what the teacher makes of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgevlm.bundle.spec import F32
from edgevlm.data.dataset import Dataset
from edgevlm.distillation import teacher_cache
from edgevlm.distillation.recipe import DistillRecipe
from edgevlm.distillation.teacher import Teacher, average_texts
from edgevlm.distillation.teacher_cache import Embeddings
from edgevlm.enrichment.descriptions import Descriptions, label_texts
from edgevlm.errors import DataError
from edgevlm.process.progress import Progress


@dataclass(frozen=True)
class Material:
    """The data of a run, its few-shot pictures after the others, with the teacher's answers.

    Attributes:
        parts: The data, and the few-shot data if there is any.
        labels: The class names of both; empty where the pictures have captions only.
        readable: int64 [N], numbers of the pictures of `parts[0]` that can be read.
        few_shot: int64 [M], those of `parts[1]`, counted on from the end of `parts[0]`.
        pictures: The teacher's embeddings of each part's pictures; empty where no loss asks for them.
        texts: Every text that a picture may be paired with, once.
        text_rows: For each picture, the places in `texts` of its own: its captions, else its label's texts.
        text_embeddings: The teacher's of each; None where no loss asks for them.
        label_texts: Of each class: its name in every template, with its descriptions where there are some.
        label_text: The teacher's of each class, averaged over these, float32 [L, D].
        label_of: int64 [pictures], each one's class; -1 where it has none.
        skipped: Key of each unreadable picture, and why.
    """

    parts: tuple[Dataset, ...]
    labels: tuple[str, ...]
    readable: NDArray[np.int64]
    few_shot: NDArray[np.int64]
    pictures: tuple[Embeddings, ...]
    texts: tuple[str, ...]
    text_rows: tuple[tuple[int, ...], ...]
    text_embeddings: Embeddings | None
    label_texts: tuple[tuple[str, ...], ...]
    label_text: F32 | None
    label_of: NDArray[np.int64]
    skipped: dict[str, str]

    def picture(self, index: int) -> Image.Image:
        """The picture of that number."""
        part, row = self._place(index)
        return self.parts[part].picture(row)

    def teacher_pictures(self, indices: Sequence[int], views: Sequence[int]) -> F32:
        """The teacher's embeddings of those views of those pictures, float32 [N, D]."""
        rows = [
            self.pictures[part].take([row], [view])
            for (part, row), view in zip(map(self._place, indices), views, strict=True)
        ]
        return np.concatenate(rows)

    def _place(self, index: int) -> tuple[int, int]:
        first = len(self.parts[0])
        return (0, index) if index < first else (1, index - first)


def gather_material(
    parts: tuple[Dataset, ...],
    teacher: Teacher,
    recipe: DistillRecipe,
    seed: int,
    *,
    descriptions: Descriptions | None,
    cache: Path,
    asks_pictures: bool,
    asks_texts: bool,
    progress: Progress,
    part: int = 0,
    of: int = 1,
) -> Material:
    """Asks the teacher about everything once, or reads what it said before.

    Args:
        parts: The data, and the few-shot data if there is any.
        teacher: Who is asked.
        recipe: Its templates, and its stored views.
        seed: Of the stored views.
        descriptions: Sentences about the labels.
        cache: Folder of the teacher's answers.
        asks_pictures, asks_texts: Whether any loss looks at the teacher's embeddings of pictures, and of the texts that
            they are paired with.
        progress: Told how far it is.
        part, of: Number of this process, and of all; each asks about its share.
    """
    labels = tuple(sorted({label for data in parts for label in data.labels}))
    named = label_texts(labels, recipe.templates, descriptions)
    teacher.check_labels(labels, named)
    texts: dict[str, int] = {}
    rows: list[tuple[int, ...]] = []
    numbers: list[int] = []
    for data in parts:
        to_joint = [labels.index(label) for label in data.labels]
        for index in range(len(data)):
            example = data.example(index)
            number = -1 if example.label is None else to_joint[example.label]
            own = example.captions or (named[number] if number >= 0 else ())
            if not own:
                raise DataError(f"{data.name}: {example.key} has neither a label nor a caption")
            rows.append(tuple(texts.setdefault(text, len(texts)) for text in own))
            numbers.append(number)
    asked = teacher if asks_pictures else None
    stores = [teacher_cache.picture_store(cache, asked, data, recipe.augmentation, seed) for data in parts]
    for store, data in zip(stores, parts, strict=True):
        teacher_cache.fill_pictures(store, asked, data, recipe.augmentation, seed, progress, part=part, parts=of)
    unique = tuple(texts)
    text_store = teacher_cache.text_store(cache, teacher, unique) if asks_texts else None
    if text_store:
        teacher_cache.fill_texts(text_store, teacher, unique, progress, part=part, parts=of)
    wait_for(of)
    opened = tuple(store.open() for store in stores)
    first = len(parts[0])
    usable = [np.setdiff1d(np.arange(len(data)), list(o.unreadable)) for data, o in zip(parts, opened, strict=True)]
    return Material(
        parts=parts,
        labels=labels,
        readable=usable[0],
        few_shot=usable[1] + first if len(usable) > 1 else np.zeros(0, np.int64),
        pictures=opened if asks_pictures else (),
        texts=unique,
        text_rows=tuple(rows),
        text_embeddings=text_store.open() if text_store else None,
        label_texts=named,
        label_text=average_texts(teacher, named) if labels else None,
        label_of=np.array(numbers, np.int64),
        skipped={
            data.example(index).key: reason
            for data, o in zip(parts, opened, strict=True)
            for index, reason in o.unreadable.items()
        },
    )


def wait_for(processes: int) -> None:
    """Until every process of the run has come here."""
    if processes > 1:
        import torch.distributed

        torch.distributed.barrier()
