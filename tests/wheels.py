"""Packages of one module each, which pip installs in place of those of an index."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest


def only_from(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has pip look there alone, and what it is asked for kept there instead of in the cache that tests share."""
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", folder), ("EDGEVLM_CACHE_DIR", folder / "cache")):
        monkeypatch.setenv(name, str(value))


def write(folder: Path, name: str, version: str, tags: str) -> None:
    """A wheel, for the Python, ABI and platform that its tags name."""
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-{tags}.whl", "w") as file:
        file.writestr(f"{name}/__init__.py", f"__version__ = '{version}'\n")
        file.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{about}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tags}\n")
        file.writestr(f"{about}/RECORD", "")
