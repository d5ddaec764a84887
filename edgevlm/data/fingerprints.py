"""What tells one state of a dataset from another, without reading a picture."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from edgevlm.errors import DataError


def fingerprint(name: str, kind: str, rows: Iterable[Sequence[object]]) -> str:
    """sha256, in hexadecimal, of what a dataset lists.

    Args:
        name: The dataset's, for errors; no part of the hash, so that a moved dataset keeps its own.
        kind: Its form.
        rows: Plain values that JSON can write: keys, each with its words, sizes and times.

    Raises:
        DataError: a text is no Unicode, such as a file's name in another encoding.
    """
    digest = hashlib.sha256(kind.encode())
    for row in rows:
        text = json.dumps(row, ensure_ascii=False)
        try:
            digest.update(b"\n" + text.encode())
        except UnicodeEncodeError as error:
            raise DataError(f"{name}: {row[0]!a}: its name or words are not in UTF-8") from error
    return digest.hexdigest()


def stamp(path: Path) -> tuple[int, int]:
    """A file's size in bytes and its time of change in nanoseconds; zeros where there is no such file."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return 0, 0
    return found.st_size, found.st_mtime_ns
