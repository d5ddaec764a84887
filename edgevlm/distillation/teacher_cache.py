"""Teacher embeddings, computed once: sharded, resumable, checksummed files that training reads memory-mapped.

    KEY/00000.npy    float16 [1024, V, D]: unit vectors of 1,024 pictures or texts, V views each
    KEY/00000.json   the array's sha256, and the entries that could not be read, with the reason

A shard is written whole and renamed, so that a run that is stopped, or a second one beside it, goes on at the next.
KEY is a hash of all that the embeddings depend on. Storing them with the data, a view at a time, is multi-modal
reinforced training's idea (Vasu et al., arXiv 2311.17049).
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgevlm import schema
from edgevlm.bundle.bundle import hash_file
from edgevlm.bundle.spec import F32
from edgevlm.data.dataset import Dataset
from edgevlm.distillation.augmentation import view
from edgevlm.distillation.recipe import Augmentation
from edgevlm.distillation.teacher import Teacher
from edgevlm.errors import DataError, ImageError
from edgevlm.process import scratch
from edgevlm.process.progress import Progress
from edgevlm.process.writing import output_errors, replacing, write_atomically

SHARD = 1024
_AT_ONCE = 64
Compute = Callable[[range], tuple[F32, dict[int, str]]]


@dataclass(frozen=True)
class _Note:
    """What is kept beside a shard.

    Attributes:
        sha256: Of its file.
        unreadable: Why an entry has no embedding, by its number.
    """

    sha256: str
    unreadable: Mapping[str, str]


@dataclass(frozen=True)
class Store:
    """The shards of one key.

    Attributes:
        folder: Where they lie.
        count: Entries in all.
    """

    folder: Path
    count: int

    def fill(self, compute: Compute, tell: Callable[[int], None], *, part: int = 0, parts: int = 1) -> None:
        """Computes the shards that are missing or damaged.

        Args:
            compute: Called with the numbers of a shard's entries.
            tell: Told how many entries are done.
            part, parts: Of several processes, each fills every `parts`-th shard.

        Raises:
            OutputError: the disk is full, or the folder cannot be written.
        """
        with output_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        scratch.sweep(self.folder)  # of a run that was killed, even where nothing is left to write
        for number in range(part, self._shards(), parts):
            rows = range(number * SHARD, min((number + 1) * SHARD, self.count))
            if self._read(number) is None:
                embeddings, unreadable = compute(rows)
                self._write(number, embeddings.astype(np.float16), unreadable)
            tell(rows.stop)

    def open(self) -> Embeddings:
        """What was filled.

        Raises:
            FileNotFoundError: a shard is missing or damaged: `fill` was not called, or something else wrote there.
        """
        shards: list[NDArray[np.float16]] = []
        unreadable: dict[int, str] = {}
        for number in range(self._shards()):
            read = self._read(number)
            if read is None:
                raise FileNotFoundError(f"{self._path(number)} is missing or damaged")
            shards.append(read[0])
            unreadable |= read[1]
        return Embeddings(tuple(shards), unreadable)

    def _shards(self) -> int:
        return -(-self.count // SHARD)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.npy"

    def _read(self, number: int) -> tuple[NDArray[np.float16], dict[int, str]] | None:
        path = self._path(number)
        where = path.with_suffix(".json")
        try:
            note = schema.read(_Note, schema.read_json(where, error=DataError), where=str(where), error=DataError)
            if hash_file(path) != note.sha256:
                return None
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            return array, {int(index): reason for index, reason in note.unreadable.items()}
        except (DataError, OSError, ValueError):
            return None

    def _write(self, number: int, embeddings: NDArray[np.float16], unreadable: dict[int, str]) -> None:
        path = self._path(number)
        with replacing(path) as new:
            with new.open("wb") as file:
                np.save(file, embeddings, allow_pickle=False)
            note = _Note(hash_file(new), {str(index): reason for index, reason in unreadable.items()})
        write_atomically(path.with_suffix(".json"), json.dumps(schema.write(note), ensure_ascii=False))


@dataclass(frozen=True)
class Embeddings:
    """An open store.

    Attributes:
        shards: float16 [1024, V, D] each, the last one shorter; memory-mapped.
        unreadable: Numbers of the entries that have no embedding, with the reason.
    """

    shards: tuple[NDArray[np.float16], ...]
    unreadable: dict[int, str]

    def take(self, rows: Sequence[int], views: Sequence[int] | None = None) -> F32:
        """float32 [N, D] for N entries, of view 0 or the views given."""
        picked = [
            self.shards[row // SHARD][row % SHARD, chosen]
            for row, chosen in zip(rows, views or [0] * len(rows), strict=True)
        ]
        return np.stack(picked).astype(np.float32)


def picture_store(root: Path, teacher: Teacher | None, data: Dataset, how: Augmentation, seed: int) -> Store:
    """Where the embeddings of a dataset's pictures lie; without a teacher, only which pictures can be read."""
    drawn: dict[str, Any] = {}
    if teacher and how.stored:
        drawn = {"augmentation": [how.crop_scale, how.mirror, how.jitter, how.stored], "seed": seed}
    key = {"teacher": teacher.fingerprint if teacher else None, "data": data.fingerprint, **drawn}
    return Store(root / _hash(key), len(data))


def fill_pictures(
    store: Store,
    teacher: Teacher | None,
    data: Dataset,
    how: Augmentation,
    seed: int,
    progress: Progress,
    *,
    part: int = 0,
    parts: int = 1,
) -> None:
    """Reads every picture once, and keeps the teacher's embedding of it or of each of its stored views."""
    views = how.stored if teacher and how.stored else 1

    def read(index: int) -> list[Image.Image] | str:
        try:
            picture = data.picture(index)
        except ImageError as error:
            return error.message
        if not how.stored:
            return [picture]
        return [view(picture, how, view_draws(seed, index, number)) for number in range(views)]

    def compute(rows: range) -> tuple[F32, dict[int, str]]:
        embeddings = np.zeros((len(rows), views, teacher.dim if teacher else 1), np.float32)
        unreadable: dict[int, str] = {}
        with ThreadPoolExecutor(2) as pool:
            for some in _batches(rows, max(1, _AT_ONCE // views)):
                found = dict(zip(some, pool.map(read, some), strict=True))
                unreadable |= {index: pictures for index, pictures in found.items() if isinstance(pictures, str)}
                good = {index: pictures for index, pictures in found.items() if not isinstance(pictures, str)}
                if teacher and good:
                    flat = teacher.embed_pictures([picture for pictures in good.values() for picture in pictures])
                    embeddings[[index - rows.start for index in good]] = flat.reshape(len(good), views, -1)
        return embeddings, unreadable

    asking = "asking the teacher about the pictures" if teacher else "reading the pictures"
    store.fill(compute, lambda done: progress(f"{asking}: {done:,} of {len(data):,}", done / len(data)),
               part=part, parts=parts)  # fmt: skip


def text_store(root: Path, teacher: Teacher, texts: Sequence[str]) -> Store:
    """Where the embeddings of these texts, in this order, lie."""
    return Store(root / _hash({"teacher": teacher.fingerprint, "texts": list(texts)}), len(texts))


def fill_texts(
    store: Store, teacher: Teacher, texts: Sequence[str], progress: Progress, *, part: int = 0, parts: int = 1
) -> None:
    """Keeps the teacher's embedding of every text."""

    def compute(rows: range) -> tuple[F32, dict[int, str]]:
        return teacher.embed_texts(texts[rows.start : rows.stop])[:, None], {}

    store.fill(
        compute,
        lambda done: progress(f"asking the teacher about the texts: {done:,} of {len(texts):,}", done / len(texts)),
        part=part,
        parts=parts,
    )


def view_draws(seed: int, index: int, number: int) -> random.Random:
    """The random numbers of one view of one picture."""
    return random.Random(f"view/{seed}/{index}/{number}")


def _batches(rows: range, size: int) -> Iterator[range]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _hash(key: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
