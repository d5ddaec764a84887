"""What devices are emulated with is fetched: a test that needs it is skipped where there is no network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from edgevlm.errors import DeviceError


@contextmanager
def skipped_offline() -> Iterator[None]:
    try:
        yield
    except DeviceError as error:
        if "cannot fetch" in error.message or "cannot read the lists" in error.message:
            pytest.skip(f"no network: {error.message}")
        raise
