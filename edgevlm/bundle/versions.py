"""Versions of the bundle's format: which of them this EdgeVLM reads, and how strictly.

A minor version adds keys, and changes nothing that was there: what is written in a newer one is read without the keys
that it added. A major version cannot be read without what it added, and a newer one is refused. 2 is 1 with models that
talk, 3 is 2 with pictures that are scaled to grids of tiles, and 4 is 3 with models that answer one question, those
whose picture and question are put at once, and those whose picture is beside the words and has a token among them: what
needs none of these is still written in an older one, for readers that know no other.
"""

from __future__ import annotations

import re
from typing import Any

from edgevlm.bundle.manifest import FORMAT_VERSION, VERSIONS
from edgevlm.errors import BundleError

_OWN = {int(major): int(minor) for major, minor in (each.split(".") for each in VERSIONS)}
"""Newest minor version by major one."""
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
    major, minor = map(int, found[0].split("."))
    if major > max(_OWN):
        raise BundleError(
            f"{where}: expected format version {max(_OWN)}.x, got {version!r}, which a newer edgevlm wrote",
            hint="update edgevlm, or convert the model again with this one",
        )
    if major < min(_OWN):
        raise BundleError(
            f"{where}: expected format version {min(_OWN)}.x, got {version!r}, which this edgevlm reads no more",
            hint="convert the model again with this edgevlm",
        )
    return minor > _OWN[major]


def own(version: str) -> str:
    """The newest version that this EdgeVLM knows, of the major one of another.

    >>> own("1.9")
    '1.5'
    """
    major = int(version.split(".")[0])
    return f"{major}.{_OWN[major]}"


def is_at_least(version: str, least: str) -> bool:
    """Whether a bundle's `format_version` is that one or a later one.

    >>> is_at_least("1.10", "1.4")
    True
    """
    found, wanted = (tuple(map(int, each.split("."))) for each in (version, least))
    return found >= wanted
