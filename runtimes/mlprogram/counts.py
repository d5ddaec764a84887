"""How many ops of each kind a function has, and what its weights are stored as."""

from __future__ import annotations

from collections import Counter

from edgevlm.runtimes.mlprogram.program import Constant, Function, Operation
from edgevlm.targets.inspection import OpCount

_COMPRESSED = ("int4", "int8", "palette", "sparse")


def count_ops(function: Function) -> tuple[OpCount, ...]:
    """How many ops of each kind and result type a function has; constants are not counted, but the
    `constexpr_` ops that decompress weights are."""
    counts: Counter[tuple[str, str, str]] = Counter()
    stored: dict[str, str] = {}
    for operation in function.walk():
        if operation.kind == "const":
            if operation.outputs:
                stored[operation.name] = operation.outputs[0].type.dtype
            continue
        of = [stored.get(name, "") for name in _names(operation)]
        if operation.kind.startswith("constexpr_"):
            stored[operation.name] = _stored_type(operation, of)
            weights = ""
        else:
            # A zero point of activations is an int8 constant as well, and no weight.
            reads = operation.kind not in ("quantize", "dequantize")
            weights = next((each for each in of if reads and each.startswith(_COMPRESSED)), "")
        counts[operation.kind, operation.outputs[0].type.dtype if operation.outputs else "none", weights] += 1
    return tuple(
        OpCount(kind, count, dtype, runs_on="evaluator", weights=weights)
        for (kind, dtype, weights), count in sorted(counts.items())
    )


def _names(operation: Operation) -> list[str]:
    """The earlier results that an op reads."""
    return [each for argument in operation.arguments.values() for each in argument if isinstance(each, str)]


def _stored_type(operation: Operation, of: list[str]) -> str:
    """What the result of a `constexpr_` op is stored as.

    Args:
        operation: The op.
        of: Types of the constants that it reads by name.
    """
    here = [
        each.type.dtype for argument in operation.arguments.values() for each in argument if not isinstance(each, str)
    ]
    integers = next((each for each in (*here, *of) if each in ("int8", "int4")), "int8")
    if operation.kind == "constexpr_lut_to_dense":
        entries = next(iter(operation.arguments.get("lut", ())), None)
        shape = (entries.type.shape or ()) if isinstance(entries, Constant) else ()
        size = shape[0 if len(shape) == 1 else -2] if shape else None  # iOS 18: [groups ..., entries, width]
        return f"palette-{(size - 1).bit_length()}" if size else "palette"
    if operation.kind.startswith("constexpr_sparse"):
        return (
            next((each for each in of if each.startswith("sparse")), "sparse")
            if "to_dense" in operation.kind
            else (f"sparse {integers}")
        )
    return integers
