"""The integer weights of an ML Program, read from the shipped package without running it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.errors import BundleError
from edgevlm.runtimes.mlprogram.package import Constant, Function, Operation
from edgevlm.stored import ScaleType, StoredWeight

_SCALES: Mapping[str, ScaleType] = {"float32": "float32", "float16": "float16"}


def stored_weights(function: Function) -> tuple[StoredWeight, ...]:
    """Every weight that a function dequantises: int8 per channel (iOS 16), int4 per group (iOS 18).

    Raises:
        BundleError: the package is damaged.
    """
    constants = {
        operation.name: operation.arguments["val"] for operation in function.operations if operation.kind == "const"
    }

    def read(operation: Operation, name: str) -> NDArray[Any]:
        (argument,) = operation.arguments[name]
        if isinstance(argument, str):
            (argument,) = constants[argument]
        if not isinstance(argument, Constant):
            raise BundleError(f"{operation.name}: expected a constant as {name}", hint="convert the model again")
        return np.asarray(argument.read())

    found = []
    for operation in function.operations:
        if operation.kind == "constexpr_affine_dequantize":
            found.append(_per_channel(operation, read))
        elif operation.kind == "constexpr_blockwise_shift_scale":
            found.append(_per_group(operation, read))
    return tuple(found)


def _per_channel(operation: Operation, read: Any) -> StoredWeight:
    values, scale, zero_point = (read(operation, name) for name in ("quantized_data", "scale", "zero_point"))
    rows = len(values)
    if int(read(operation, "axis")) != 0:  # a scale for each first index is all that converters write
        raise BundleError(f"{operation.name}: expected scales along axis 0", hint="convert the model again")
    return StoredWeight(
        layer=operation.name,
        bits=8,
        values=values.astype(np.int8),
        scale=np.broadcast_to(scale.astype(np.float32), rows).reshape(rows, 1),
        zero_point=np.broadcast_to(zero_point.astype(np.int32), rows).reshape(rows, 1),
        scale_type=_SCALES[scale.dtype.name],
    )


def _per_group(operation: Operation, read: Any) -> StoredWeight:
    (data,) = operation.arguments["data"]
    dtype = constants[data][0].type.dtype if isinstance(data, str) else data.type.dtype
    values, scale = read(operation, "data"), read(operation, "scale")
    offset = read(operation, "offset") if "offset" in operation.arguments else np.zeros_like(scale)
    return StoredWeight(
        layer=operation.name,
        bits=4 if dtype == "int4" else 8,
        values=values.astype(np.int8),
        scale=scale.astype(np.float32).reshape(len(values), -1),
        zero_point=offset.astype(np.int32).reshape(len(values), -1),
        scale_type=_SCALES[scale.dtype.name],
    )
