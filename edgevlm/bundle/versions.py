"""Versions of the bundle's format: which of them this EdgeVLM reads, and how strictly.

A minor version adds keys, and changes nothing that was there: what is written in a newer one is read without the keys
that it added. A major version changes what keys mean, and is refused.
"""

from __future__ import annotations

import re
from typing import Any

from edgevlm.bundle.manifest import FORMAT_VERSION
from edgevlm.errors import BundleError

_VERSION = re.compile(r"(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})")


def is_newer(version: Any, *, where: str) -> bool:
    """Whether a bundle of that version may have keys that this EdgeVLM does not know: a newer minor version.

    Args:
        version: `format_version` as it was found in the manifest.
        where: The manifest's path, for errors.

    Raises:
        BundleError: no version, or another major one than this EdgeVLM's.
    """
    found = _VERSION.fullmatch(version) if isinstance(version, str) else None
    if found is None:
        raise BundleError(
            f'{where}: expected a format version such as "{FORMAT_VERSION}", a text of two whole numbers, '
            f"got {version!r}",
            hint="copy the bundle again, or convert the model again",
        )
    (major, minor), (own_major, own_minor) = (map(int, each.split(".")) for each in (found[0], FORMAT_VERSION))
    if major > own_major:
        raise BundleError(
            f"{where}: expected format version {own_major}.x, got {version!r}, which a newer edgevlm wrote",
            hint="update edgevlm, or convert the model again with this one",
        )
    if major < own_major:
        raise BundleError(
            f"{where}: expected format version {own_major}.x, got {version!r}, which this edgevlm reads no more",
            hint="convert the model again with this edgevlm",
        )
    return minor > own_minor


def is_at_least(version: str, least: str) -> bool:
    """Whether a bundle's `format_version` is that one or a later one.

    >>> is_at_least("1.10", "1.4")
    True
    """
    found, wanted = (tuple(map(int, each.split("."))) for each in (version, least))
    return found >= wanted
