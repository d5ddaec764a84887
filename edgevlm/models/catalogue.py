"""Finds a model by what a user calls it: a built-in name, a folder, or a hub id."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from edgevlm.errors import CheckpointError
from edgevlm.models import builtin, families
from edgevlm.models.checkpoints import hub
from edgevlm.models.checkpoints.files import refuse_special_files
from edgevlm.models.checkpoints.hub import is_hub_id
from edgevlm.models.students import layout
from edgevlm.process.paths import user_path

if TYPE_CHECKING:
    from edgevlm.models.model import Model
    from edgevlm.models.talker import Talker

FAMILIES = {
    "clip": "CLIP: openai/clip-vit-base-patch32 and its kin, any sizes, any activation, either pooling rule",
    "siglip": "SigLIP and SigLIP 2 at a fixed resolution: google/siglip-base-patch16-224 and its kin",
    "student": "students trained by edgevlm distill: the folder that it wrote",
    **{name: family.about for name, family in [*families.TALKERS.items(), *families.VARIANTS.items()]},
}


def load_any(
    name: str | Path = builtin.STUDENT,
    *,
    revision: str | None = None,
    context_length: int | None = None,
    lengths: tuple[int, ...] | None = None,
    picture_size: tuple[int, int] | None = None,
) -> Model | Talker:
    """Loads a dual encoder or a model that talks.

    Args:
        name, revision: See `load`.
        context_length: Of a model that talks, the positions of a dialogue.
        lengths: Of a model that talks, how many rows are decoded at once, ascending from 1.
        picture_size: Of one that takes pictures of any size, the height and width in pixels of all.

    Raises:
        CheckpointError, MissingDependency: see `load`.
        InputError: lengths that do not ascend from 1, or beyond the context; a size that the model does not take.
    """
    folder = find_folder(name, revision=revision)
    if not _talks(folder):
        return load(name, revision=revision)
    from edgevlm.models.checkpoints import talking

    called, commit = _called(name, folder)
    return talking.load(
        folder, name=called, commit=commit, context_length=context_length, lengths=lengths, picture_size=picture_size
    )


def talks(name: str | Path) -> bool:
    """Whether what `load_any` would load is a model that talks.

    Raises:
        CheckpointError: there is none, or its configuration is damaged.
    """
    return _talks(find_folder(name))


def _talks(folder: Path) -> bool:
    return not layout.is_student(folder) and families.talks(folder)


def load(name: str | Path = builtin.STUDENT, *, revision: str | None = None) -> Model:
    """Loads a dual encoder.

    Args:
        name: A built-in model's, a folder in Hugging Face format or of a student, or a hub id.
        revision: Branch, tag or commit of a hub id.

    Raises:
        CheckpointError: no such folder or hub model, or one that is damaged or of another family.
        MissingDependency: torch, transformers or huggingface_hub is not installed.
    """
    folder = find_folder(name, revision=revision)
    called, commit = _called(name, folder)
    if layout.is_student(folder):
        from edgevlm.models.students import folder as students

        return students.load(folder, name=called, commit=commit, trusted=str(name) in builtin.FOLDERS)
    from edgevlm.models.checkpoints import loading

    return loading.load(folder, name=called, commit=commit)


def _called(name: str | Path, folder: Path) -> tuple[str, str | None]:
    """What a model is called, and its commit where it is from the hub."""
    on_disk = str(name) in builtin.FOLDERS or user_path(name).is_dir()
    called = folder.resolve().name if on_disk and str(name) not in builtin.FOLDERS else str(name)
    return called, None if on_disk else folder.name


def fingerprint(name: str | Path = builtin.STUDENT, *, revision: str | None = None) -> str:
    """A hash of the files that `load` would read, without loading them; a hub id is downloaded first.

    Raises:
        CheckpointError: there is no such folder or hub model.
    """
    digest = hashlib.sha256()
    for path in _files(name, revision):
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def find_folder(name: str | Path, *, revision: str | None = None) -> Path:
    """Where a model's files lie; a hub id is downloaded first.

    Raises:
        CheckpointError: there is no such folder or hub model.
    """
    folder = builtin.FOLDERS.get(str(name)) or user_path(name)
    if folder.is_dir():
        if revision is not None:
            raise CheckpointError(
                f"{name} is a folder, which has no revision {revision!r}", hint="leave the revision out"
            )
        for each in (folder, folder / layout.TEXT_TOWER):
            refuse_special_files(each)
        return folder
    if isinstance(name, str) and is_hub_id(name) and not folder.exists():
        return hub.download(name, revision=revision)
    raise CheckpointError(
        f"expected a checkpoint's folder or a hub id such as openai/clip-vit-base-patch32, got {str(name)!r}",
        hint="edgevlm models lists the built-in ones; a folder holds config.json, model.safetensors, "
        "preprocessor_config.json and tokenizer files",
    )


def _files(name: str | Path, revision: str | None) -> list[Path]:
    folder = find_folder(name, revision=revision)
    if layout.is_student(folder):
        return layout.list_files(folder)
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def short_name(name: str | Path) -> str:
    """What a bundle of this model is called: the last part of a path or hub id."""
    text = str(name)
    return text.rsplit("/", 1)[-1] if is_hub_id(text) and not Path(text).exists() else Path(text).resolve().name
