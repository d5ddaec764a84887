"""Where the samples of a WebDataset shard lie: its headers are read once, its contents stay where they are.

The format (https://github.com/webdataset/webdataset): a plain tar whose files are grouped into samples. A file's name
up to the first dot after its folder is the sample's key, the rest names the field; a sample's files follow one another.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from edgevlm.errors import DataError
from edgevlm.inputs.folders import Tally, passed_over_by_name

_BLOCK = tarfile.BLOCKSIZE
_GZIP = b"\x1f\x8b"
_AGAIN = "download or write the shard again"


@dataclass(frozen=True)
class Extent:
    """Where a file's bytes lie in the shard."""

    offset: int
    size: int


@dataclass(frozen=True)
class TarSample:
    """A sample's key, and where its fields are; their names are lower-case and without a leading dot."""

    key: str
    fields: dict[str, Extent]


def split_name(name: str) -> tuple[str, str] | None:
    """A file's sample key and field; None for a hidden file, or one without a dot, which belong to no sample."""
    folder, slash, base = name.rpartition("/")
    stem, _, field = base.partition(".")
    return (folder + slash + stem, field.lower()) if stem and field else None


def index_shard(name: str, path: Path, others: Tally) -> list[TarSample]:
    """The samples of a shard, in order.

    Args:
        name: The shard's, for errors.
        path: A tar file.
        others: What belongs to no sample is added, folders excepted.

    Raises:
        DataError: the file is compressed, no tar, damaged or cut short at any place; a sample's files do not follow
            one another, or it has a field twice.
        OSError: it cannot be read.
    """
    samples: list[TarSample] = []
    keys: set[str] = set()
    with path.open("rb") as file:
        for key, members in groupby(_members(name, file, others), key=lambda member: member[0]):
            if key in keys:
                raise DataError(
                    f"{name}: the sample {key} comes twice: expected each key once, its files following one another",
                    hint="write the shard in the order of its files' names, such as with tar --sort=name",
                )
            keys.add(key)
            fields: dict[str, Extent] = {}
            for _, field, extent in members:
                if field in fields:
                    raise DataError(f"{name}: the sample {key} has .{field} twice", hint=_AGAIN)
                fields[field] = extent
            samples.append(TarSample(key, fields))
    return samples


def _members(name: str, file: BinaryIO, others: Tally) -> Iterator[tuple[str, str, Extent]]:
    """Key, field and place of each file that belongs to a sample."""
    length = file.seek(0, 2)
    file.seek(0)
    if file.read(len(_GZIP)) == _GZIP:
        raise DataError(
            f"{name}: compressed with gzip: expected a plain tar, whose samples can be read in any order",
            hint="unpack it with gunzip; pictures hardly shrink anyway",
        )
    file.seek(0)
    last = "its start"
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while (entry := archive.next()) is not None:
                end = entry.offset_data + entry.size
                if not entry.offset_data <= end <= length:
                    raise _cut_short(name, f"inside {entry.name}, which would end at byte {end:,} of {length:,}")
                last = entry.name
                place = split_name(entry.name)
                if place is not None and entry.isreg():
                    yield *place, Extent(entry.offset_data, entry.size)
                elif not entry.isdir():
                    base = entry.name.rpartition("/")[2]
                    others.add(passed_over_by_name(base) or "of no sample", entry.name)
            file.seek(archive.offset)
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise DataError(f"{name}: no tar file, or damaged after {last}: {error}", hint=_AGAIN) from error
    # tarfile takes anything after the first file that is no header for the end: a tar ends with a block of zeros.
    block = file.read(_BLOCK)
    if len(block) < _BLOCK:
        raise _cut_short(name, f"after {last}: a tar's end mark is missing")
    if block.strip(b"\0"):
        raise DataError(f"{name}: damaged after {last}: expected a tar header or the end mark", hint=_AGAIN)


def _cut_short(name: str, where: str) -> DataError:
    return DataError(f"{name}: cut short {where}", hint=_AGAIN)
