"""The integer weights of an ML Program, read from the shipped package without running it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.integer_weights import ScaleType, StoredWeight
from edgevlm.errors import BundleError
from edgevlm.runtimes.mlprogram.program import Constant, Function, Operation

_HINT = "convert the model again"
_SCALES: Mapping[str, ScaleType] = {"float32": "float32", "float16": "float16"}


def stored_weights(function: Function) -> tuple[StoredWeight, ...]:
    """Every weight that a function dequantises: int8 per channel (iOS 16), int8 and int4 per group (iOS 18).

    Each once for every op that reads it.

    Raises:
        BundleError: the package is damaged.
    """
    constants = {
        operation.name: operation.arguments["val"][0] for operation in function.operations if operation.kind == "const"
    }
    uses = _uses(function)
    return tuple(
        weight
        for each in function.operations
        if each.kind in _READERS
        for weight in repeat(_read(_Arguments(each, constants), each.kind), uses[each.name])
    )


def _uses(function: Function) -> Counter[str]:
    """How many ops read each result: itself, or what further `constexpr_` ops make of it."""
    uses: Counter[str] = Counter()
    for operation in reversed(list(function.walk())):
        unpacks = operation.kind.startswith("constexpr_")
        read = max((uses[output.name] for output in operation.outputs), default=0) if unpacks else 1
        for name in {each for argument in operation.arguments.values() for each in argument if isinstance(each, str)}:
            uses[name] += read
    return uses


def _read(arguments: _Arguments, kind: str) -> StoredWeight:
    try:
        return _READERS[kind](arguments)
    except (LookupError, TypeError, ValueError) as error:
        raise BundleError(f"{arguments.name}: its constants do not fit each other: {error}", hint=_HINT) from error


class _Arguments:
    """The constant arguments of an op, written in place or as ops of their own."""

    def __init__(self, operation: Operation, constants: Mapping[str, str | Constant]) -> None:
        self.name = operation.name
        self._operation = operation
        self._constants = constants

    def __contains__(self, name: str) -> bool:
        return name in self._operation.arguments

    def find(self, name: str) -> Constant:
        """Its type, and what reads it."""
        (argument,) = self._operation.arguments[name]
        found = self._constants.get(argument) if isinstance(argument, str) else argument
        if not isinstance(found, Constant):
            raise BundleError(f"{self.name}: expected a constant as {name}", hint=_HINT)
        return found

    def read(self, name: str) -> NDArray[Any]:
        """Its value."""
        return np.asarray(self.find(name).read())


def _per_channel(arguments: _Arguments) -> StoredWeight:
    values, scale, zero_point = (arguments.read(name) for name in ("quantized_data", "scale", "zero_point"))
    rows = len(values)
    if int(arguments.read("axis")) != 0:  # a scale for each first index is all that converters write
        raise BundleError(f"{arguments.name}: expected scales along axis 0", hint=_HINT)
    return StoredWeight(
        layer=arguments.name,
        bits=8,
        values=values.astype(np.int8),
        scale=np.broadcast_to(scale.astype(np.float32), rows).reshape(rows, 1),
        zero_point=np.broadcast_to(zero_point.astype(np.int32), rows).reshape(rows, 1),
        scale_type=_SCALES[scale.dtype.name],
    )


def _per_group(arguments: _Arguments) -> StoredWeight:
    return _grouped(arguments, arguments.read("data"), bits=4 if arguments.find("data").type.dtype == "int4" else 8)


def _sparse(arguments: _Arguments) -> StoredWeight:
    mask = arguments.read("data_mask").astype(bool)
    values = np.zeros(mask.shape, np.int8)
    values[mask] = arguments.read("nonzero_data")
    return _grouped(arguments, values, bits=8)


def _grouped(arguments: _Arguments, values: NDArray[Any], *, bits: int) -> StoredWeight:
    scale = arguments.read("scale")
    offset = arguments.read("offset") if "offset" in arguments else np.zeros(scale.shape, np.int32)
    return StoredWeight(
        layer=arguments.name,
        bits=bits,
        values=values.astype(np.int8),
        scale=scale.astype(np.float32).reshape(len(values), -1),
        zero_point=offset.astype(np.int32).reshape(len(values), -1),
        scale_type=_SCALES[scale.dtype.name],
    )


_READERS: Mapping[str, Callable[[_Arguments], StoredWeight]] = {
    "constexpr_affine_dequantize": _per_channel,
    "constexpr_blockwise_shift_scale": _per_group,
    "constexpr_sparse_blockwise_shift_scale": _sparse,
}
