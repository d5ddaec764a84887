"""Faults of litert-torch and ai-edge-quantizer 0.10.0 that our models meet, mended for this version alone.

A test fails once upstream has mended one.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any, TypeVar

T = TypeVar("T")
PATCHED_VERSION = "0.10.0"


@contextlib.contextmanager
def applied() -> Iterator[None]:
    """Mends all for as long as the block runs; any other version is left as it is."""
    with contextlib.ExitStack() as stack:
        if version("litert-torch") == PATCHED_VERSION:
            stack.enter_context(_decomposed_once())
            stack.enter_context(_ops_lowered_once())
        if version("ai-edge-quantizer") == PATCHED_VERSION:
            stack.enter_context(_names_in_bytes())
        yield


@contextlib.contextmanager
def _decomposed_once() -> Iterator[None]:
    """A signature is decomposed as it is lowered, and not before that as well.

    0.10.0 does both, each by tracing the whole graph twice, though the second takes apart all that the first does: a
    quarter of a conversion. Its coming converter leaves the first out, too.
    """
    from litert_torch._convert import core  # type: ignore[import-untyped]

    export = core.export_torch_signature
    core.export_torch_signature = functools.partial(export, run_decompositions=False)
    try:
        yield
    finally:
        core.export_torch_signature = export


_MOST = 5_000
_texts: dict[Any, str] = {}
_packed: dict[str, bytes] = {}
"""What JAX makes of an op of certain shapes, and that as LiteRT's converter reads it, by the text."""


@contextlib.contextmanager
def _ops_lowered_once() -> Iterator[None]:
    """An op that JAX has lowered is not lowered by it again where it has the same shapes and arguments.

    0.10.0 remembers that within one signature. JAX's work is a fifth of a small model's conversion, and a second one of
    the same shapes, by another recipe or beside other lengths, does without most of it.
    """
    from litert_torch.backend.jax_bridge import _wrap  # type: ignore[import-untyped]

    lower, pack = _wrap._lower_to_ir_text, _wrap._stablehlo_to_vhlo

    def lower_once(function: Any, args: Any, kwargs: Any, ir_input_names: Any = None) -> tuple[Callable[[], str], Any]:
        make: Callable[[], str]
        make, inputs = lower(function, args, kwargs, ir_input_names=ir_input_names)

        def text() -> str:
            found = _wrap.get_cache_fingerprint((function, args, kwargs, ir_input_names))
            return make() if found is None else _kept(_texts, (found, repr(found)), make)  # 1, 1.0 and True are equal

        return text, inputs

    def pack_once(text: str) -> bytes:
        return _kept(_packed, text, lambda: bytes(pack(text)))

    _wrap._lower_to_ir_text, _wrap._stablehlo_to_vhlo = lower_once, pack_once
    try:
        yield
    finally:
        _wrap._lower_to_ir_text, _wrap._stablehlo_to_vhlo = lower, pack


def _kept(kept: dict[Any, T], key: Any, make: Callable[[], T]) -> T:
    if key not in kept:
        if len(kept) >= _MOST:
            kept.clear()
        kept[key] = make()
    return kept[key]


@contextlib.contextmanager
def _names_in_bytes() -> Iterator[None]:
    """A weight that is stored once for several layers, and halved for each, keeps a name of the type that names have.

    0.10.0 calls the second of them by a text, and ends where it puts bytes behind that.
    """
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
