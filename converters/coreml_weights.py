"""Puts NNCF's integers into an ML Program, in place of the floats that they stand for.

coremltools folds integer weights back into floats on several of its routes without a word. So the program is converted
in floats and, as its last pass, each constant that equals `scale * integers` of a decided weight becomes the op that
says so. A constant that an earlier pass has changed is not found; the proof from the shipped file then says which.
Ops: https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html (iOS 16 and 18).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .integers import IntegerWeight

PASS = "edgevlm::integer_weights"

_Key = tuple[str, tuple[int, ...], int]


def integer_weights_pass(weights: Sequence[IntegerWeight]) -> str:
    """Registers the pass for these weights, and gives the name to append to a pipeline."""
    from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass  # type: ignore[import-untyped]
    from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY  # type: ignore[import-untyped]

    class IntegerWeights(AbstractGraphPass):  # type: ignore[misc]
        def apply(self, program: Any) -> None:
            decided = {_key(weight.value.astype(dtype)): weight for dtype in _FLOATS for weight in weights}
            for function in program.functions.values():
                for op in list(function.operations):
                    value = op.outputs[0].val if op.op_type == "const" else None
                    if isinstance(value, np.ndarray) and value.dtype in _FLOATS and value.ndim > 1:
                        weight = decided.get(_key(value))
                        if weight is not None:
                            _store(op, weight, value.dtype)

    namespace, _, name = PASS.partition("::")
    PASS_REGISTRY.add(namespace, IntegerWeights, override=True, name=name)
    return PASS


_FLOATS = (np.dtype(np.float32), np.dtype(np.float16))


def _key(value: NDArray[Any]) -> _Key:
    return value.dtype.name, value.shape, hash(value.tobytes())


def _store(op: Any, weight: IntegerWeight, dtype: np.dtype[Any]) -> None:
    """Puts the integers' op where a constant was. Scales take the program's own precision: the op gives its type."""
    function = op.enclosing_block
    with function:
        wide = _per_group(op, weight, dtype) if _has_groups(function) else _per_channel(op, weight, dtype)
    function.replace_uses_of_var_after_op(
        anchor_op=op, old_var=op.outputs[0], new_var=wide, no_check_var_types=True, force_replace=True
    )
    function.remove_ops([op])


def _has_groups(function: Any) -> bool:
    """Whether the program is for iOS 18, whose op for integers of 4 and 8 bits takes the place of iOS 16's."""
    import coremltools as ct  # type: ignore[import-untyped]

    return bool(function.opset_version >= ct.target.iOS18)


def _per_channel(op: Any, weight: IntegerWeight, dtype: np.dtype[Any]) -> Any:
    from coremltools.converters.mil import Builder  # type: ignore[import-untyped]

    return Builder.constexpr_affine_dequantize(
        quantized_data=weight.integers,
        zero_point=np.int8(0),
        scale=weight.scale[:, 0].astype(dtype),
        axis=np.int32(0),
        before_op=op,
        name=f"{op.name}_integers",
    )


def _per_group(op: Any, weight: IntegerWeight, dtype: np.dtype[Any]) -> Any:
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.mil import types  # type: ignore[import-untyped]

    grid = (*weight.scale.shape, *[1] * (weight.integers.ndim - 2))
    return Builder.constexpr_blockwise_shift_scale(
        data=weight.integers if weight.bits == 8 else weight.integers.astype(types.np_int4_dtype),
        scale=weight.scale.astype(dtype).reshape(grid),
        before_op=op,
        name=f"{op.name}_integers",
    )
