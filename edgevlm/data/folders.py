"""Image folders: a sub-folder for each class, named as the class, with its pictures anywhere below it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from edgevlm.data.dataset import Example
from edgevlm.data.files import PictureFiles
from edgevlm.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# Pictures as well, which Pillow may need a plug-in to read: counted as unreadable rather than passed over in silence.
_PERHAPS = (".heic", ".heif", ".avif", ".jp2", ".jxl")
# Names of folders that hold class folders, or the pictures of a captions file, and are no classes themselves.
_NO_CLASSES = {"train", "val", "valid", "validation", "test", "images", "pictures"}


def open_folder(name: str, root: Path) -> PictureFiles:
    """Reads an image folder. Hidden files and folders, other files, and pictures beside the class folders are ignored.

    Raises:
        DataError: there are no class folders, or one without pictures, or the sub-folders are not classes.
    """
    classes = class_folders(root)
    if not classes:
        loose = sum(_is_picture(path.name) for path in root.iterdir())
        found = f"{loose} pictures of no class" if loose else "no sub-folders"
        raise DataError(
            f"{name}: expected a sub-folder for each class, found {found}",
            hint="put the pictures of a class into a folder named after it, such as photos/golden retriever/1.jpg",
        )
    if {folder.name.lower() for folder in classes} <= _NO_CLASSES:
        raise DataError(
            f"{name}: expected a sub-folder for each class, found {_listed([folder.name for folder in classes])}",
            hint=f"give one of them, such as {root / classes[0].name}, or the JSON file that has the captions",
        )
    pictures = {folder.name: sorted(_pictures(root, folder)) for folder in classes}
    empty = [label for label, found in pictures.items() if not found]
    if empty:
        raise DataError(
            f"{name}: no pictures in {len(empty)} of {len(classes)} class folders: {_listed(empty)}",
            hint=f"remove them, or fill them; pictures are files with {', '.join(SUFFIXES)}",
        )
    labels = tuple(pictures)
    examples = [Example(key, number) for number, found in enumerate(pictures.values()) for key in found]
    return PictureFiles(name, "folder", root, examples, labels)


def class_folders(root: Path) -> list[Path]:
    """The sub-folders that are not hidden, sorted by name."""
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _pictures(root: Path, folder: Path) -> Iterator[str]:
    """Paths below `root`, with forward slashes. A class folder may be a link; links to folders below are not followed,
    as they may lead back."""
    for parent, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(parent).relative_to(root)
        yield from ((below / name).as_posix() for name in files if _is_picture(name))


def _refuse(error: OSError) -> None:
    raise error  # `os.walk` would leave out a folder that it may not read


def _is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES + _PERHAPS) and not name.startswith(".")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
