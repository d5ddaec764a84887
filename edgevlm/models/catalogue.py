"""Finds a model by what a user calls it: a built-in name, a folder, or a hub id."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from edgevlm.models import builtin
from edgevlm.models.hub import is_hub_id

if TYPE_CHECKING:
    from edgevlm.models.model import Model

FAMILIES = {
    "clip": "CLIP: openai/clip-vit-base-patch32 and its kin, any sizes, any activation, either pooling rule",
    "siglip": "SigLIP and SigLIP 2 at a fixed resolution: google/siglip-base-patch16-224 and its kin",
}


def load(name: str | Path = builtin.NAME, *, revision: str | None = None) -> Model:
    """Loads a model.

    Args:
        name: `edgevlm-student`, a folder in Hugging Face format, or a hub id.
        revision: Branch, tag or commit of a hub id.

    Raises:
        CheckpointError: see `edgevlm.models.checkpoint.load`.
        MissingDependency: the packages that conversion needs are not installed.
    """
    if str(name) == builtin.NAME:
        return builtin.load()
    from edgevlm.models import checkpoint

    return checkpoint.load(name, revision=revision)


def fingerprint(name: str | Path = builtin.NAME, *, revision: str | None = None) -> str | None:
    """A hash of the files that `load` would read, without loading them; None where they are not on this machine."""
    if str(name) == builtin.NAME:
        files = [builtin.WEIGHTS, builtin.TOKENIZER]
    elif Path(name).is_dir():
        files = sorted(path for path in Path(name).iterdir() if path.is_file() and not path.name.startswith("."))
    else:
        return None
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def short_name(name: str | Path) -> str:
    """What a bundle of this model is called: the last part of a path or hub id."""
    text = str(name)
    return text.rsplit("/", 1)[-1] if is_hub_id(text) and not Path(text).exists() else Path(text).resolve().name
