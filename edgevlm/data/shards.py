"""WebDataset shards: tar files of samples, read in place and in any order.

Of a sample's fields (see `edgevlm.data.tar_index`) these are read, others are ignored:

    jpg, png, webp, ...    the picture; one of `edgevlm.inputs.pictures.SUFFIXES`
    txt                    captions, a line each
    cls                    the label: a name, or a number, which becomes a name
    json                   an object with "caption" (a text), "captions" (a list of texts) or "label" (as in cls)
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from edgevlm import schema
from edgevlm.data.dataset import Example
from edgevlm.data.fingerprints import fingerprint, stamp
from edgevlm.data.pictures import read_picture
from edgevlm.data.tar_index import Extent, TarSample, index_shard
from edgevlm.errors import DataError, ImageError
from edgevlm.inputs.folders import Tally, say_passed_over
from edgevlm.inputs.pictures import SUFFIXES

PICTURES = tuple(suffix.removeprefix(".") for suffix in SUFFIXES)


@dataclass(frozen=True)
class _Sample:
    """A sample whose words are read and whose picture is not."""

    key: str
    picture: Extent
    label: str | None
    captions: tuple[str, ...]


class Shards:
    """The samples of some shards.

    A key names the shard and the sample in it, as different shards may use the same keys. No file stays open between
    pictures: opening one takes a fraction of decoding a picture, and there is nothing to share between threads and
    processes, and no limit on the number of shards.

    Args:
        name: What a user called it.
        paths: The tar files.
        others: What lies beside them; what is passed over in them is added, and all of it named in a note.

    Raises:
        DataError: a shard is not what `index_shard` reads; a sample has no picture or several, or words that cannot be
            read; or there are no samples.
    """

    def __init__(self, name: str, paths: Sequence[Path], others: Tally | None = None) -> None:
        self.name = name
        self._paths = tuple(paths)
        root = os.path.commonpath([path.absolute().parent for path in paths])
        names = [path.absolute().relative_to(root).as_posix() for path in paths]
        others = others or Tally()
        found = [_read_samples(path, others) for path in paths]
        samples = [sample for some in found for sample in some]
        if not samples:
            raise DataError(f"{name}: expected samples, got none in {len(paths)} shards")
        say_passed_over(name, others.passed_over())
        self.labels = tuple(sorted({sample.label for sample in samples if sample.label is not None}))
        numbers = {label: number for number, label in enumerate(self.labels)}
        self._examples = tuple(
            Example(f"{shard}/{sample.key}", None if sample.label is None else numbers[sample.label], sample.captions)
            for shard, some in zip(names, found, strict=True)
            for sample in some
        )
        # int64 [samples, 3]: shard, offset and size of each picture.
        self._places = np.array(
            [(shard, s.picture.offset, s.picture.size) for shard, some in enumerate(found) for s in some], np.int64
        )
        words = ((each.key, each.label, each.captions) for each in self._examples)
        stamps = ((shard, stamp(path)) for shard, path in zip(names, paths, strict=True))
        self.fingerprint = fingerprint(name, "shards", [*words, *stamps, self.labels])

    def __len__(self) -> int:
        return len(self._examples)

    def example(self, index: int) -> Example:
        """The words of a sample."""
        return self._examples[index]

    def picture(self, index: int) -> Image.Image:
        """The picture, upright and in RGB.

        Raises:
            ImageError: it cannot be read.
        """
        key = self._examples[index].key
        shard, offset, size = self._places[index].tolist()
        try:
            with self._paths[shard].open("rb") as file:
                data = _read(file, Extent(offset, size))
            return read_picture(data)
        except OSError as error:
            raise ImageError(f"{key}: cannot be read: {error}") from error
        except ImageError as error:
            raise ImageError(f"{key}: {error.message}", hint=error.hint) from error


def _read_samples(path: Path, others: Tally) -> list[_Sample]:
    samples = index_shard(str(path), path, others)
    with path.open("rb") as file:
        return [_read_sample(f"{path}: the sample {sample.key}", file, sample) for sample in samples]


def _read_sample(where: str, file: BinaryIO, sample: TarSample) -> _Sample:
    pictures = [field for field in PICTURES if field in sample.fields]
    if len(pictures) != 1:
        got = ", ".join(f".{field}" for field in sample.fields)
        raise DataError(
            f"{where} has {'several pictures' if pictures else 'no picture'}: expected one that ends with .jpg, "
            f".png or the like, got {got}"
        )
    texts = {
        name: _text(where, file, name, sample.fields[name]) for name in ("txt", "cls", "json") if name in sample.fields
    }
    told = _object(where, texts["json"]) if "json" in texts else {}
    labels = {_label(where, value) for value in (texts.get("cls"), told.get("label")) if value is not None}
    if len(labels) > 1:
        raise DataError(f"{where}: expected one label, got {' and '.join(sorted(labels))} from .cls and .json")
    captions = [*re.split(r"[\r\n]+", texts.get("txt", "")), *_told_captions(where, told)]
    return _Sample(
        key=sample.key,
        picture=sample.fields[pictures[0]],
        label=labels.pop() if labels else None,
        captions=tuple(dict.fromkeys(text.strip() for text in captions if text.strip())),
    )


def _text(where: str, file: BinaryIO, field: str, extent: Extent) -> str:
    try:
        return _read(file, extent).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: expected .{field} in UTF-8: {error}") from error


def _object(where: str, text: str) -> dict[str, object]:
    value = schema.parse_json(text, where=f"{where}: .json", error=DataError)
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object in .json, got a {type(value).__name__}")
    return value


def _label(where: str, value: object) -> str:
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise DataError(f"{where}: expected a name or a number as the label, got {value!r}")


def _told_captions(where: str, told: dict[str, object]) -> list[str]:
    """The captions of a JSON field; null says nothing."""
    one, several = told.get("caption"), told.get("captions")
    captions = [*([] if one is None else [one]), *(several if isinstance(several, list) else [])]
    texts = [text for text in captions if isinstance(text, str)]
    if len(texts) < len(captions) or not isinstance(several, list | None):
        raise DataError(f'{where}: expected "caption" to be a text and "captions" a list of texts')
    return texts


def _read(file: BinaryIO, extent: Extent) -> bytes:
    file.seek(extent.offset)
    return file.read(extent.size)
