"""Which bundles this machine made itself: an empty file each in EdgeVLM's cache, by their digest.

What runs an artefact is native code that a damaged or hostile file can end, or worse. A bundle that was converted here
is opened in the process that asks for it, any other in one of its own (`edgevlm.targets.isolation`).
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from edgevlm.bundle.bundle import Bundle
from edgevlm.errors import OutputError
from edgevlm.process import store

_FOLDER = "made-here"


def trust(bundle: Bundle) -> None:
    """Notes that the bundle was made here; no cache, or a full or unwritable one, is no reason to fail."""
    with contextlib.suppress(OSError, OutputError):
        mark = _mark(bundle)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def is_trusted(bundle: Bundle) -> bool:
    """Whether the bundle, to the last byte that its manifest lists, was made here."""
    with contextlib.suppress(OSError, OutputError):
        return _mark(bundle).is_file()
    return False


def _mark(bundle: Bundle) -> Path:
    return store.folder() / _FOLDER / bundle.digest.removeprefix("sha256:")
