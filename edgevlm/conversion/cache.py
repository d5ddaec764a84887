"""Converted bundles kept by the hash of all that went into them, so that converting again takes seconds.

They lie in EdgeVLM's cache, `edgevlm.process.store`. The oldest go when they outgrow `LIMIT_BYTES`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import edgevlm
from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.manifest import SUFFIX
from edgevlm.errors import EdgeVLMError, OutputError
from edgevlm.process import scratch, store
from edgevlm.process.writing import discard

LIMIT_BYTES = 8_000_000_000
TOOLS = (
    "edgevlm",
    "torch",
    "transformers",
    "coremltools",
    "executorch",
    "litert-torch",
    "litert-converter",
    "ai-edge-litert",
    "ai-edge-quantizer",
    "litert-lm-builder",
    "numpy",
    "pillow",
    "tokenizers",
    "nncf",
    "torchao",
)


def tool_versions() -> dict[str, str]:
    """The installed version of every package that shapes a bundle."""
    found = {}
    for name in TOOLS:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def key(inputs: Mapping[str, Any]) -> str:
    """A hash of plain values, of the tools' versions and of EdgeVLM's own source."""
    digest = hashlib.sha256(json.dumps([inputs, tool_versions()], sort_keys=True).encode())
    for path in sorted(path for folder in _source_folders() for path in folder.rglob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def find(entry: str) -> Bundle | None:
    """The bundle kept under that key, if it is there and whole."""
    path = store.folder() / _name(entry)
    scratch.sweep(store.folder())
    try:
        bundle = Bundle.open(path)
    except EdgeVLMError:
        discard(path)
        return None
    os.utime(path)
    return bundle


def keep(entry: str, bundle: Bundle) -> None:
    """Keeps a copy of a bundle; a full or unwritable cache is no reason to fail."""
    with contextlib.suppress(OSError, OutputError):
        store.fill(_name(entry), partial(shutil.copytree, bundle.path, dirs_exist_ok=True))
        _shrink()


def _shrink() -> None:
    entries = sorted(store.folder().glob(_name("*")), key=lambda path: path.stat().st_mtime, reverse=True)
    total = 0
    for path in entries:
        total += sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        if total > LIMIT_BYTES:
            discard(path)


def _name(entry: str) -> str:
    return f"{entry}{SUFFIX}"


def _source_folders() -> set[Path]:
    """All of `edgevlm`, and the targets', which lie beside it in a checkout."""
    found = {Path(edgevlm.__file__).parent}
    for package in ("edgevlm.converters", "edgevlm.runtimes"):
        spec = find_spec(package)
        found |= {Path(path) for path in (spec.submodule_search_locations if spec else None) or ()}
    return found
