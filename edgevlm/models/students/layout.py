"""Which files make a student's folder; needs no framework, so that a folder can be recognised and hashed without."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from edgevlm import schema
from edgevlm.errors import CheckpointError

MODEL_TYPE: Literal["edgevlm-student"] = "edgevlm-student"
FORMAT_VERSION = 1
TEXT_TOWER = "text_tower"
_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "README.md",
    f"{TEXT_TOWER}/config.json",
    f"{TEXT_TOWER}/model.safetensors",
)


def is_student(folder: Path) -> bool:
    """Whether its `config.json` says so."""
    try:
        config = schema.read_json(folder / "config.json", error=CheckpointError)
    except CheckpointError:
        return False
    return isinstance(config, dict) and config.get("model_type") == MODEL_TYPE


def list_files(folder: Path) -> list[Path]:
    """The student's own files that are there; what else the folder holds, such as a run's log, is not its."""
    return [folder / name for name in _FILES if (folder / name).is_file()]
