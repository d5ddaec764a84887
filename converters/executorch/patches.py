"""A fault of torch 2.13 that costs time while ExecuTorch lowers, mended for this version alone.

It is mended while a program is lowered and restored after it, as coremltools' are (`converters/coreml/patches.py`). A
test fails once upstream has mended it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.metadata import version

PATCHED_TORCH = "2.13"


@contextlib.contextmanager
def applied() -> Iterator[None]:
    """Mends torch for as long as the block runs; any other version is left as it is."""
    if not version("torch").startswith(f"{PATCHED_TORCH}."):
        yield
        return
    with _shared_histories():
        yield


@contextlib.contextmanager
def _shared_histories() -> Iterator[None]:
    """A node's history refers to those before it.

    2.13 copies them, whole, for every node of every pass, though nothing changes them: with ExecuTorch's many passes
    that is a sixth of a conversion.
    """
    from torch.fx.traceback import NodeSource

    NodeSource.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del NodeSource.__deepcopy__  # type: ignore[attr-defined]
