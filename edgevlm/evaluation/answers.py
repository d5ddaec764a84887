"""Asks encoders about a dataset's pictures and texts: each once, whatever is measured on the answers afterwards."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgevlm.bundle.spec import F32
from edgevlm.data.dataset import Dataset
from edgevlm.errors import CheckFailed, DataError, ImageError
from edgevlm.process.progress import Progress

Question = Callable[[Sequence[Image.Image]], F32]

_READERS = 2
_PICTURES_AT_ONCE = 16  # large photos are several of these, in memory, ahead of the model
_TEXTS_AT_ONCE = 64


@dataclass(frozen=True)
class Answers:
    """What was answered about the pictures that could be read.

    Attributes:
        places: int64 [N], where they stand in the rows asked about.
        by: float32 [N, ...] for each question.
        skipped: Key of each unreadable picture, and why.
    """

    places: NDArray[np.int64]
    by: Mapping[str, F32]
    skipped: Mapping[str, str]


def ask_pictures(
    data: Dataset,
    rows: Sequence[int],
    questions: Mapping[str, Question],
    *,
    max_unreadable: float,
    progress: Progress,
    stage: str,
) -> Answers:
    """Reads each picture once and asks every question about it.

    Args:
        data: Where the pictures are.
        rows: Which of them.
        questions: By name, functions from N pictures to float32 [N, ...].
        max_unreadable: Share of `rows` that may be unreadable.
        progress: Told how far it is.
        stage: What it is told.

    Raises:
        DataError: more pictures are unreadable than that, or there are none.
        CheckFailed: an answer is NaN or infinite.
    """
    found: dict[str, list[F32]] = {name: [] for name in questions}
    places: list[int] = []
    skipped: dict[str, str] = {}
    reader = _read_ahead(data, rows)
    for start in range(0, len(rows), _PICTURES_AT_ONCE):
        pictures = {}
        for place, picture in enumerate(islice(reader, _PICTURES_AT_ONCE), start):
            if isinstance(picture, str):
                skipped[data.example(rows[place]).key] = picture
            else:
                pictures[place] = picture
        _refuse_unreadable(data, skipped, len(rows), max_unreadable)
        if pictures:
            for name, question in questions.items():
                found[name].append(_finite(question(list(pictures.values())), data, [rows[p] for p in pictures]))
            places.extend(pictures)
        done = min(start + _PICTURES_AT_ONCE, len(rows))
        progress(f"{stage}: {done:,} of {len(rows):,} pictures", done / len(rows))
    if not places:
        raise DataError(f"{data.name}: expected pictures to evaluate, got none that can be read")
    return Answers(np.array(places, np.int64), {name: np.concatenate(parts) for name, parts in found.items()}, skipped)


def ask_texts(encode: Callable[[Sequence[str]], F32], texts: Sequence[str], *, progress: Progress, stage: str) -> F32:
    """Embeddings of texts, float32 [N, D].

    Raises:
        CheckFailed: one is NaN or infinite.
    """
    parts = []
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        progress(f"{stage}: {start:,} of {len(texts):,} texts", start / len(texts))
        some = texts[start : start + _TEXTS_AT_ONCE]
        parts.append(encode(some))
        if not np.isfinite(parts[-1]).all():
            bad = some[int(np.argmin(np.isfinite(parts[-1]).all(1)))]
            raise CheckFailed(f"the embedding of {bad!r} is not finite", hint="edgevlm verify looks for the cause")
    return np.concatenate(parts)


def spread(count: int, limit: int | None) -> range | tuple[int, ...]:
    """All of `count` numbers, or `limit` of them, evenly spread: data is often sorted by class."""
    if limit is None or limit >= count:
        return range(count)
    return tuple(index * count // limit for index in range(limit))


def _read_ahead(data: Dataset, rows: Sequence[int]) -> Iterator[Image.Image | str]:
    """Pictures in order, or why they cannot be read; a batch is decoded while the one before is being asked about."""
    with ThreadPoolExecutor(_READERS) as pool:
        waiting: deque[Future[Image.Image | str]] = deque()
        for row in rows:
            waiting.append(pool.submit(_read, data, row))
            if len(waiting) > _PICTURES_AT_ONCE:
                yield waiting.popleft().result()
        for future in waiting:
            yield future.result()


def _read(data: Dataset, row: int) -> Image.Image | str:
    try:
        return data.picture(row)
    except ImageError as error:
        return error.message


def _refuse_unreadable(data: Dataset, skipped: Mapping[str, str], count: int, allowed: float) -> None:
    if len(skipped) > allowed * count:
        reason = next(iter(skipped.values()))
        raise DataError(
            f"{data.name}: more than {allowed:.1%} of the {count:,} pictures cannot be read; the first: {reason}",
            hint="--max-unreadable allows more",
        )


def _finite(answers: F32, data: Dataset, rows: Sequence[int]) -> F32:
    good = np.isfinite(answers).all(1)
    if not good.all():
        key = data.example(rows[int(np.argmin(good))]).key
        raise CheckFailed(
            f"{data.name}: the answer to {key} is not finite", hint="edgevlm verify looks for the cause in a bundle"
        )
    return answers
