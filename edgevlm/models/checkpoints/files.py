"""The small files of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgevlm.errors import CheckpointError


def read_json(path: Path) -> Mapping[str, Any]:
    """The object in a checkpoint's file; raises CheckpointError where it is missing, damaged or no object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path.parent}: expected {path.name}, got no such file",
            hint="the folder is no checkpoint in Hugging Face format, or its download has not finished",
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable JSON file: {error}", hint="download it again") from error
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{path}: expected an object, got {type(value).__name__}")
    return value


def read_licence(readme: Path) -> str:
    """`license` of the model card's front matter (https://huggingface.co/docs/hub/model-cards), else `unknown`."""
    import yaml

    try:
        _, front_matter, _ = ("\n" + readme.read_text(encoding="utf-8")).split("\n---\n", 2)
        licence = yaml.safe_load(front_matter)["license"]
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
        return "unknown"
    return licence if isinstance(licence, str) and licence else "unknown"
