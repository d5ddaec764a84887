"""What a converter needs to be installed."""

from __future__ import annotations

import importlib.util

from edgevlm.errors import MissingDependency


def require(package: str, *, extra: str) -> None:
    """Raises `MissingDependency` where a top-level package is not installed; imports nothing."""
    if importlib.util.find_spec(package) is None:
        raise MissingDependency(package, extra=extra)
