"""A fault of ai-edge-quantizer 0.10.0 that our models meet, mended for this version alone.

A test fails once upstream has mended it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

PATCHED_VERSION = "0.10.0"


@contextlib.contextmanager
def applied() -> Iterator[None]:
    """A weight that is stored once for several layers, and halved for each, keeps a name of the type that names have.

    0.10.0 calls the second of them by a text, and ends where it puts bytes behind that.
    """
    if version("ai-edge-quantizer") != PATCHED_VERSION:
        yield
        return
    from ai_edge_quantizer.transformations import duplicate_tensor as module  # type: ignore[import-untyped]

    duplicate = module.duplicate_tensor

    def named_in_bytes(given: Any) -> Any:
        result = duplicate(given)
        tensor = given.subgraph.tensors[result.output_tensor_id]
        tensor.name = tensor.name.encode() if isinstance(tensor.name, str) else tensor.name
        return result

    module.duplicate_tensor = named_in_bytes
    try:
        yield
    finally:
        module.duplicate_tensor = duplicate
