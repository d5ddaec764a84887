"""The small files of a checkpoint."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgevlm import schema
from edgevlm.errors import CheckpointError


def refuse_special_files(folder: Path) -> None:
    """Raises CheckpointError for a pipe, a socket or a device in the folder: a reader would wait on it for ever."""
    for path in sorted(folder.glob("*")):
        try:
            mode = path.stat().st_mode
        except OSError:  # a link that leads nowhere: whoever needs the file says so
            continue
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise CheckpointError(f"{path}: expected a file, got a pipe, a socket or a device", hint="remove it")


def read_json(path: Path) -> Mapping[str, Any]:
    """The object in a checkpoint's file; raises CheckpointError where it is missing, damaged or no object."""
    if not path.exists():
        raise CheckpointError(
            f"{path.parent}: expected {path.name}, got no such file",
            hint="the folder is no checkpoint in Hugging Face format, or its download has not finished",
        )
    value = schema.read_json(path, error=CheckpointError, hint="download it again")
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{path}: expected an object, got {type(value).__name__}")
    return value


def refuse_own_code(where: str | Path, config: Mapping[str, Any], *, kind: str, hint: str) -> None:
    """Raises CheckpointError where a configuration asks for Python that comes with the checkpoint.

    Args:
        where: The configuration's file, for errors.
        config: Its content.
        kind: Of transformers' own classes, one of which is expected.
        hint: What to do about it.
    """
    if "auto_map" in config:
        raise CheckpointError(
            f"{where}: auto_map: expected one of transformers' own {kind}, got the checkpoint's own code, "
            f"{config['auto_map']!r}, which is not run",
            hint=hint,
        )


def read_licence(readme: Path) -> str:
    """`license` of the model card's front matter (https://huggingface.co/docs/hub/model-cards), else `unknown`."""
    try:
        _, front_matter, _ = ("\n" + readme.read_text(encoding="utf-8")).split("\n---\n", 2)
        licence = schema.parse_yaml(front_matter, where=str(readme), error=CheckpointError)["license"]
    except (OSError, ValueError, LookupError, CheckpointError):
        return "unknown"
    return licence if isinstance(licence, str) and licence else "unknown"
