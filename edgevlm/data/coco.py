"""COCO-style captions: a JSON file that names pictures and tells each one's captions.

    {"images": [{"id": 9, "file_name": "000000000009.jpg"}, ...],
     "annotations": [{"image_id": 9, "caption": "A table with fruit."}, ...]}

The format's page is https://cocodataset.org/#format-data; other keys are ignored.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from edgevlm import schema
from edgevlm.data.dataset import Example
from edgevlm.data.files import PictureFiles
from edgevlm.errors import DataError

_SHAPE = '{"images": [{"id": ..., "file_name": ...}], "annotations": [{"image_id": ..., "caption": ...}]}'


def open_captions(name: str, file: Path, images: Path | None = None) -> PictureFiles:
    """Reads a captions file.

    Args:
        name: What a user called it.
        file: The JSON file.
        images: Folder that the file's names of pictures start from; the JSON's own by default.

    Raises:
        DataError: not JSON of that shape; pictures without captions, captions of unknown pictures, or the same id or
            picture twice; or none of the pictures is in the folder.
    """
    data = _read(name, file)
    files = _files(name, _entries(name, data, "images"))
    captions = _captions(name, _entries(name, data, "annotations"), files)
    root = file.parent if images is None else images
    if not any((root / path).is_file() for path in files.values()):
        raise DataError(
            f"{name}: none of its {len(files):,} pictures is in {root}, such as {next(iter(files.values()))}",
            hint="--images FOLDER says where they are",
        )
    examples = [Example(path, captions=tuple(dict.fromkeys(captions[number]))) for number, path in files.items()]
    return PictureFiles(name, "coco", root, sorted(examples, key=lambda example: example.key))


def _read(name: str, file: Path) -> dict[str, Any]:
    data = schema.read_json(file, error=DataError)
    if not isinstance(data, dict):
        raise DataError(f"{name}: expected {_SHAPE}, got a {type(data).__name__}")
    return data


def _entries(name: str, data: dict[str, Any], key: str) -> list[dict[str, Any]]:
    entries = data.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries) or not entries:
        raise DataError(f"{name}: expected a list of objects under {key!r}", hint=f"the file's shape is {_SHAPE}")
    return entries


def _files(name: str, entries: list[dict[str, Any]]) -> dict[int | str, str]:
    """Id -> name of the picture."""
    files: dict[int | str, str] = {}
    for place, entry in enumerate(entries):
        number, path = entry.get("id"), entry.get("file_name")
        if not isinstance(number, int | str) or not isinstance(path, str) or not path:
            raise DataError(f'{name}: images[{place}]: expected an "id" and a "file_name", got {_shortened(entry)}')
        if number in files:
            raise DataError(f"{name}: images[{place}]: repeats the id {number!r} of {files[number]}")
        files[number] = path
    twice = [path for path, count in Counter(files.values()).items() if count > 1]
    if twice:
        raise DataError(f"{name}: {len(twice):,} pictures have more than one id, such as {twice[0]}")
    return files


def _captions(name: str, entries: list[dict[str, Any]], files: dict[int | str, str]) -> dict[int | str, list[str]]:
    """Id -> captions, at least one for each of `files`."""
    captions: dict[int | str, list[str]] = {number: [] for number in files}
    unknown = []
    for place, entry in enumerate(entries):
        number, text = entry.get("image_id"), entry.get("caption")
        if not isinstance(number, int | str) or not isinstance(text, str):
            raise DataError(
                f'{name}: annotations[{place}]: expected an "image_id" and a "caption", got {_shortened(entry)}',
                hint="of COCO's own files, those named captions_*.json have captions",
            )
        if number not in captions:
            unknown.append(number)
        elif text.strip():
            captions[number].append(text.strip())
    if unknown:
        raise DataError(
            f"{name}: {len(unknown):,} of {len(entries):,} annotations are of images that the file does not list, "
            f"such as image_id {unknown[0]!r}",
            hint="an id is a number in both lists, or a text in both",
        )
    silent = [files[number] for number, texts in captions.items() if not texts]
    if silent:
        raise DataError(
            f"{name}: {len(silent):,} of {len(files):,} images have no caption, such as {silent[0]}",
            hint="remove them from the file's images, or add their annotations",
        )
    return captions


def _shortened(entry: dict[str, Any]) -> str:
    text = json.dumps(entry, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
