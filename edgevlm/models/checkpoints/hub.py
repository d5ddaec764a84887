"""Checkpoints on the Hugging Face hub: downloaded once, pinned to a commit, read from the cache when offline."""

from __future__ import annotations

import re
from pathlib import Path

from edgevlm.errors import CheckpointError, MissingDependency

_FILES = (
    "README.md",
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "text_tower/config.json",
    "text_tower/model.safetensors",
)
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_hub_id(name: str) -> bool:
    """Whether the name has the form `owner/model`."""
    return _ID.fullmatch(name) is not None


def download(name: str, *, revision: str | None = None) -> Path:
    """The folder in the hub's cache that holds the checkpoint; its name is the commit's hash.

    Only the files that a checkpoint is made of are fetched, and no pickled weights.

    Args:
        name: `owner/model`.
        revision: A branch, tag or commit; the main branch where it is None.

    Raises:
        CheckpointError: no such model or revision, access refused, no network and not in the cache.
        MissingDependency: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError as error:
        raise MissingDependency("huggingface_hub", extra="convert") from error

    at = f"{name} at {revision}" if revision else name
    elsewhere = f"where there is a network, run `hf download {name} --local-dir FOLDER`, and give FOLDER here"
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(_FILES)))
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"the hub gives {at} only to those who accepted its terms",
            hint=f"accept them at https://huggingface.co/{name}, then run `hf auth login`",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"no folder {name!r} here, and the hub has no such model, or shows it only to its owner",
            hint="check the spelling; for a private model run `hf auth login`",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{name} has no revision {revision!r}: expected a branch, tag or commit") from error
    except errors.HFValidationError as error:
        raise CheckpointError(f"no folder {name!r} here, and no hub id either: {error}") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise CheckpointError(
            f"no folder {name!r} here; the hub cannot be reached, and its cache does not hold {at}", hint=elsewhere
        ) from error
    # Downloads break in many ways, whose exceptions change with the hub client's transport.
    except Exception as error:
        raise CheckpointError(f"{at} could not be downloaded: {error}", hint=elsewhere) from error
