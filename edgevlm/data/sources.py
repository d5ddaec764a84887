"""Opens data in any form that EdgeVLM reads."""

from __future__ import annotations

import re
from pathlib import Path

from edgevlm.data.braces import expand, has_braces
from edgevlm.data.coco import open_captions
from edgevlm.data.dataset import Dataset
from edgevlm.data.folders import open_folder
from edgevlm.data.rendered import is_rendered, open_rendered
from edgevlm.data.shards import Shards
from edgevlm.errors import DataError
from edgevlm.inputs.folders import Tally, passed_over_by_name, subfolders

FORMS = """\
  scenes:train:2000            rendered scenes with captions: SPLIT:COUNT[:SEED][:held-out]
  objects:train:2000           rendered objects with labels and captions, in the same way
  photos/                      an image folder: photos/LABEL/*.jpg
  captions.json                COCO captions, with the pictures beside it or in --images FOLDER
  shards/, a.tar               WebDataset shards
  "shards-{000..009}.tar"      several of them; the quotes keep the shell from expanding it"""

# What WebDataset's own URLs look like; of a Path, "//" has become "/".
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|pipe:")
_ARCHIVES = (".tar", ".tar.gz", ".tgz")


def open_data(spec: str | Path, *, images: Path | None = None, unlabelled: bool = False) -> Dataset:
    """Opens a dataset; pictures are read later, one at a time. What is passed over in a folder is named in a note.

    Args:
        spec: See `FORMS`.
        images: Folder that the names in a COCO captions file start from, its own folder by default.
        unlabelled: Whether a folder of pictures without class folders will do.

    Raises:
        DataError: nothing that any form describes, or data that is not what its form says; the message names the
            place, and what to do.
    """
    name = str(spec)
    try:
        return _open(name, images, unlabelled)
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error}") from error


def _open(name: str, images: Path | None, unlabelled: bool) -> Dataset:
    path = Path(name)
    if images is not None and path.suffix.lower() != ".json":
        raise DataError(f"{name}: has its own pictures, so --images {images} does not apply", hint="leave --images out")
    if is_rendered(name):
        return open_rendered(name)
    if _URL.match(name):
        raise DataError(f"{name}: is a URL: expected data on this machine", hint="download it first")
    if path.is_dir():
        return _open_directory(name, path, unlabelled)
    if path.is_file() and path.suffix.lower() == ".json":
        return open_captions(name, path, images)
    if path.is_file() and name.lower().endswith(_ARCHIVES):
        return Shards(name, [path])
    if has_braces(name):
        return _open_pattern(name)
    found = "is no form of data" if path.exists() else "no such file or folder"
    raise DataError(f"{name}: {found}: expected one of\n{FORMS}")


def _open_directory(name: str, root: Path, unlabelled: bool) -> Dataset:
    archives, others = [], Tally()
    for path in sorted(root.iterdir()):
        kind = passed_over_by_name(path.name)
        if kind is None and path.name.lower().endswith(_ARCHIVES):
            archives.append(path)
        else:
            others.add(kind or "beside the shards", path.name)
    classes = subfolders(root)
    shards = [path for path in archives if path.suffix.lower() == ".tar"]
    if classes and shards:
        raise DataError(
            f"{name}: expected shards or class folders, found both: {shards[0].name} and {classes[0]}/",
            hint=f'name the shards, such as "{root}/shards-{{000..009}}.tar", or move them elsewhere',
        )
    # The archive that an image folder was unpacked from may lie in it; compressed shards alone are refused as such.
    if classes or not archives:
        return open_folder(name, root, unlabelled=unlabelled)
    return Shards(name, archives, others)


def _open_pattern(name: str) -> Dataset:
    paths = [Path(each) for each in expand(name)]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DataError(f"{name}: {len(missing):,} of {len(paths):,} shards do not exist, such as {missing[0]}")
    return Shards(name, paths)
