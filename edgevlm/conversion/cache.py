"""Converted bundles kept by the hash of all that went into them, so that converting again takes seconds.

The folder is `$EDGEVLM_CACHE_DIR`, else `$XDG_CACHE_HOME/edgevlm`, else `~/.cache/edgevlm`. The oldest entries go when
it outgrows `LIMIT_BYTES`; it may be removed at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.staging import staged
from edgevlm.errors import EdgeVLMError
from edgevlm.process.store import folder

LIMIT_BYTES = 8_000_000_000
TOOLS = (
    "edgevlm",
    "torch",
    "transformers",
    "coremltools",
    "executorch",
    "litert-torch",
    "ai-edge-litert",
    "ai-edge-quantizer",
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
    here = Path(__file__).parent
    roots = [here, *(Path(path) for package in ("converters", "runtimes") for path in _package_path(package))]
    for path in sorted(path for root in roots for path in root.rglob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def find(entry: str) -> Bundle | None:
    """The bundle kept under that key, if it is there and whole."""
    path = folder() / f"{entry}.edgevlm"
    try:
        bundle = Bundle.open(path)
    except EdgeVLMError:
        shutil.rmtree(path, ignore_errors=True)
        return None
    os.utime(path)
    return bundle


def keep(entry: str, bundle: Bundle) -> None:
    """Keeps a copy of a bundle; a full or unwritable cache is no reason to fail."""
    with contextlib.suppress(EdgeVLMError, OSError):
        with staged(folder() / f"{entry}.edgevlm", force=True) as stage:
            shutil.copytree(bundle.path, stage.folder, dirs_exist_ok=True)
        _shrink()


def _shrink() -> None:
    entries = sorted(folder().glob("*.edgevlm"), key=lambda path: path.stat().st_mtime, reverse=True)
    total = 0
    for path in entries:
        total += sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        if total > LIMIT_BYTES:
            shutil.rmtree(path, ignore_errors=True)


def _package_path(name: str) -> list[str]:
    from importlib.util import find_spec

    spec = find_spec(f"edgevlm.{name}")
    return list(spec.submodule_search_locations or ()) if spec else []
