"""Compressed weights in an ML Program: NNCF's integers, coremltools' palettes, and zeros that take no room.

coremltools folds integer weights back into floats on several of its routes without a word. So the program is converted
in floats and, as its last pass, each constant that equals `scale * integers` of a decided weight becomes the op that
says so. A constant that an earlier pass has changed is not found; the proof from the shipped file then says which.
Ops: https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html (iOS 16 and 18).
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.recipe import Recipe
from edgevlm.converters.coreml.footprint import LEAST_SIZE, WORTH_A_MASK
from edgevlm.errors import UnsupportedError
from edgevlm.graphs.program import Program

if TYPE_CHECKING:
    from edgevlm.converters.integers import IntegerWeight

PASS = "edgevlm::integer_weights"

_COMPRESSIBLE = ("linear", "conv", "gather")

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
        if not _has_groups(function):
            wide = _per_channel(op, weight, dtype)
        elif _is_sparse(weight):
            wide = _sparse(op, weight, dtype)
        else:
            wide = _per_group(op, weight, dtype)
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


def _is_sparse(weight: IntegerWeight) -> bool:
    """Whether a bit for each value, and the values that are not zero, are less than all of them."""
    return weight.bits == 8 and float((weight.integers == 0).mean()) > WORTH_A_MASK


def _sparse(op: Any, weight: IntegerWeight, dtype: np.dtype[Any]) -> Any:
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.mil import types  # type: ignore[import-untyped]

    there = weight.integers != 0
    mask, values = Builder.constexpr_sparse_blockwise_shift_scale(
        data_mask=there.astype(types.np_uint1_dtype),
        nonzero_data=weight.integers[there],
        scale=_grid(weight, dtype),
        before_op=op,
        name=f"{op.name}_integers",
    )
    return Builder.constexpr_sparse_to_dense(nonzero_data=values, mask=mask, before_op=op, name=f"{op.name}_dense")


def _grid(weight: IntegerWeight, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The scales, of the weight's rank."""
    return weight.scale.astype(dtype).reshape(*weight.scale.shape, *[1] * (weight.integers.ndim - 2))


def _per_group(op: Any, weight: IntegerWeight, dtype: np.dtype[Any]) -> Any:
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.mil import types

    return Builder.constexpr_blockwise_shift_scale(
        data=weight.integers if weight.bits == 8 else weight.integers.astype(types.np_int4_dtype),
        scale=_grid(weight, dtype),
        before_op=op,
        name=f"{op.name}_integers",
    )


def compress_with_coremltools(passes: Any, program: Program, recipe: Recipe) -> None:
    """Appends coremltools' own pass to a pipeline: for palettes, found by k-means (NNCF has none), or for zeros.

    As a pass, not as coremltools' function of a finished model: that runs all default passes again, the unsound too.
    """
    name = _pass_of(recipe)
    if name is not None:
        config = _config(program, recipe)
        passes.append_pass(_spare_shared_constants(config))
        passes.append_pass(name)
        passes.set_options(name, {"config": config})


def require_compressed(model: Any, program: Program, recipe: Recipe) -> None:
    """Raises UnsupportedError where that pass found nothing to do."""
    if _pass_of(recipe) == _PALETTES:
        _require(model, "constexpr_lut_to_dense", f"{program.spec.name}: no weight became a palette")
    if _pass_of(recipe) == _ZEROS:
        _require(model, "constexpr_sparse_to_dense", f"{program.spec.name}: no weight has zeros to leave out")


_PALETTES = "compression::palettize_weights"
_ZEROS = "compression::prune_weights"


def _pass_of(recipe: Recipe) -> str | None:
    if recipe.weights.dtype.startswith("palette"):
        return _PALETTES
    return _ZEROS if recipe.weights.sparsity and not recipe.quantises else None


def _config(program: Program, recipe: Recipe) -> Any:
    """The settings for every layer but those that the recipe keeps."""
    import coremltools.optimize.coreml as optimize  # type: ignore[import-untyped]

    if _pass_of(recipe) == _PALETTES:
        bits = int(recipe.weights.dtype.removeprefix("palette-"))
        settings = optimize.OpPalettizerConfig(mode="kmeans", nbits=bits, weight_threshold=LEAST_SIZE)
    else:
        settings = optimize.OpThresholdPrunerConfig(
            threshold=1e-12, minimum_sparsity_percentile=WORTH_A_MASK, weight_threshold=LEAST_SIZE
        )
    component, patterns = program.spec.name, recipe.weights.float_layers
    layers = [name.removesuffix(".weight") for name, _ in program.module.named_parameters()]
    kept = [
        f"p_module_{layer.replace('.', '_')}_weight{suffix}"  # as torch.export and coremltools call them
        for layer in layers
        if any(fnmatchcase(f"{component}/{layer}", pattern) for pattern in patterns)
        for suffix in ("", "_to_fp16")
    ]
    return optimize.OptimizationConfig(
        op_type_configs=dict.fromkeys(_COMPRESSIBLE, settings), op_name_configs=dict.fromkeys(kept)
    )


def _spare_shared_constants(config: Any) -> str:
    """Registers a pass that leaves out what other ops read too, such as zeros that a norm shares with a product.

    Equal constants are one by then, and coremltools fails where their readers' settings differ.
    """
    from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
    from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

    class SpareSharedConstants(AbstractGraphPass):  # type: ignore[misc]
        def apply(self, program: Any) -> None:
            for function in program.functions.values():
                for op in function.find_ops(op_type="const"):
                    readers = {reader.op_type for reader in op.outputs[0].child_ops}
                    if not readers <= set(_COMPRESSIBLE):
                        config.op_name_configs[op.name] = None

    PASS_REGISTRY.add("edgevlm", SpareSharedConstants, override=True, name="spare_shared_constants")
    return "edgevlm::spare_shared_constants"


def _require(model: Any, kind: str, otherwise: str) -> None:
    program = model.get_spec().mlProgram
    blocks = [block for each in program.functions.values() for block in each.block_specializations.values()]
    if not any(op.type == kind for block in blocks for op in block.operations):
        raise UnsupportedError(otherwise, hint="--recipe fp16")
