"""Image folders: a sub-folder for each class, named as the class, with its pictures anywhere below it."""

from __future__ import annotations

import re
from pathlib import Path

from edgevlm.data.dataset import Example
from edgevlm.data.files import PictureFiles
from edgevlm.errors import DataError
from edgevlm.inputs.folders import PassedOver, find_pictures, listed, say_passed_over, subfolders
from edgevlm.process.notes import note

LOOSE = "of no class, beside the class folders"
# Names of folders that hold class folders, or the pictures of a captions file, and are mostly no classes themselves.
_SPLIT = re.compile(r"(train|training|val|valid|validation|test|testing|dev|eval)([-_ ]?\d+)?", re.IGNORECASE)
_HOLDER = re.compile(rf"{_SPLIT.pattern}|images|pictures|photos", re.IGNORECASE)


def open_folder(name: str, root: Path, *, unlabelled: bool = False) -> PictureFiles:
    """Reads an image folder. What is passed over in it is counted, and named in a note.

    Args:
        name: What a user called it.
        root: The folder.
        unlabelled: Whether pictures directly in the folder will do where it has no class folders.

    Raises:
        DataError: there are no class folders, or one without pictures, or the sub-folders are not classes.
    """
    classes = subfolders(root)
    found = find_pictures(root)
    of_class: dict[str, list[str]] = {label: [] for label in classes}
    loose: list[str] = []
    for key in found.pictures:
        label, slash, _ = key.partition("/")
        (of_class[label] if slash else loose).append(key)
    if not classes and not (loose and unlabelled):
        told = f"{len(loose):,} pictures of no class" if loose else "no sub-folders"
        raise DataError(
            f"{name}: expected a sub-folder for each class, found {told}",
            hint="put the pictures of a class into a folder named after it, such as photos/golden retriever/1.jpg",
        )
    if not classes:
        say_passed_over(name, found.passed_over)
        return PictureFiles(name, "pictures", root, [Example(key) for key in loose])
    _refuse_holders(name, root, of_class)
    empty = [label for label, keys in of_class.items() if not keys]
    if empty:
        raise DataError(
            f"{name}: no pictures in {len(empty)} of {len(classes)} class folders: {listed(empty)}",
            hint="remove them, or fill them; files are pictures by their names' endings, such as .jpg, .png or .webp",
        )
    beside = [PassedOver(LOOSE, len(loose), tuple(loose[:3]))] if loose else []
    say_passed_over(name, [*beside, *found.passed_over])
    for label in filter(_SPLIT.fullmatch, classes):
        note(f"{name}: the folder {label} is taken for a class of that name, beside {len(classes) - 1} others")
    examples = [Example(key, number) for number, keys in enumerate(of_class.values()) for key in keys]
    return PictureFiles(name, "folder", root, examples, tuple(of_class))


def _refuse_holders(name: str, root: Path, of_class: dict[str, list[str]]) -> None:
    """Refuses folders that hold classes where classes are expected.

    `train` is a class of some datasets as well: beside other classes, and with its pictures right in it.
    """
    splits = [label for label in of_class if _SPLIT.fullmatch(label)]
    nested = [label for label in splits if of_class[label] and all(key.count("/") > 1 for key in of_class[label])]
    if not nested and len(splits) < 2 and not all(map(_HOLDER.fullmatch, of_class)):
        return
    raise DataError(
        f"{name}: expected a sub-folder for each class, found {listed(of_class)}",
        hint=f"give one of them, such as {root / (nested or splits or list(of_class))[0]}, or the JSON file that has "
        "the captions",
    )
