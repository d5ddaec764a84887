"""Opens data in any form that EdgeVLM reads."""

from __future__ import annotations

import re
from pathlib import Path

from edgevlm.data.braces import expand, has_braces
from edgevlm.data.coco import open_captions
from edgevlm.data.dataset import Dataset
from edgevlm.data.folders import class_folders, open_folder
from edgevlm.data.rendered import is_rendered, open_rendered
from edgevlm.data.shards import Shards
from edgevlm.errors import DataError

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


def open_data(spec: str | Path, *, images: Path | None = None) -> Dataset:
    """Opens a dataset; pictures are read later, one at a time.

    Args:
        spec: See `FORMS`.
        images: Folder that the names in a COCO captions file start from, its own folder by default.

    Raises:
        DataError: nothing that any form describes, or data that is not what its form says; the message names the
            place, and what to do.
    """
    name = str(spec)
    try:
        return _open(name, images)
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error}") from error


def _open(name: str, images: Path | None) -> Dataset:
    path = Path(name)
    if images is not None and path.suffix.lower() != ".json":
        raise DataError(f"{name}: has its own pictures, so --images {images} does not apply", hint="leave --images out")
    if is_rendered(name):
        return open_rendered(name)
    if _URL.match(name):
        raise DataError(f"{name}: is a URL: expected data on this machine", hint="download it first")
    if path.is_dir():
        return _open_directory(name, path)
    if path.is_file() and path.suffix.lower() == ".json":
        return open_captions(name, path, images)
    if path.is_file() and name.lower().endswith(_ARCHIVES):
        return Shards(name, [path])
    if has_braces(name):
        return _open_pattern(name)
    found = "is no form of data" if path.exists() else "no such file or folder"
    raise DataError(f"{name}: {found}: expected one of\n{FORMS}")


def _open_directory(name: str, root: Path) -> Dataset:
    archives = sorted(
        path for path in root.iterdir() if path.name.lower().endswith(_ARCHIVES) and not path.name.startswith(".")
    )
    classes = class_folders(root)
    shards = [path for path in archives if path.suffix.lower() == ".tar"]
    if classes and shards:
        raise DataError(
            f"{name}: expected shards or class folders, found both: {shards[0].name} and {classes[0].name}/",
            hint=f'name the shards, such as "{root}/shards-{{000..009}}.tar", or move them elsewhere',
        )
    # The archive that an image folder was unpacked from may lie in it; compressed shards alone are refused as such.
    return open_folder(name, root) if classes or not archives else Shards(name, archives)


def _open_pattern(name: str) -> Dataset:
    paths = [Path(each) for each in expand(name)]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DataError(f"{name}: {len(missing):,} of {len(paths):,} shards do not exist, such as {missing[0]}")
    return Shards(name, paths)
