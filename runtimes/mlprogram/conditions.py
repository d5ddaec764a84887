"""What can be asked of an op, or of a function, of a program that is only read: the conditions of `facts`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.runtimes.mlprogram.program import Described, Function, Named, ValueType
from edgevlm.runtimes.mlprogram.uses import Use

LONGEST_AXIS = 16_384
MOST_ROWS = int(np.iinfo(np.int16).max)
_HALF_MAX = float(np.finfo(np.float16).max)
_MASKING = ("add", "sub", "mul", "select", "maximum", "minimum", "scaled_dot_product_attention")
_NORMS = ("layer_norm", "batch_norm", "instance_norm", "l2_norm")
_AT_THE_BOUNDARY = ("fp16", "fp32", "int32", "int8")

# Of an op


def of(*kinds: str, dtype: str | None = None) -> Callable[[Use], bool]:
    """Ops of these kinds that compute in that type."""
    return lambda use: use.kind in kinds and (dtype is None or _dtype(use) == dtype)


def has_more_than_five_axes(use: Use) -> bool:
    return use.computes and any(len(each.type.shape or ()) > 5 for each in use.operation.outputs)


def is_log_of_softmax(use: Use) -> bool:
    maker = use.maker("x") if use.kind == "log" else None
    return maker is not None and maker.kind == "softmax" and _dtype(use) == "fp16"


def masks_with_infinity(use: Use) -> bool:
    return _has_a_constant(use, lambda value: bool(np.isinf(value).any()))


def masks_with_nan(use: Use) -> bool:
    return _has_a_constant(use, lambda value: bool(np.isnan(value).any()))


def casts_what_fp16_has_not(use: Use) -> bool:
    value = use.value("x") if use.kind == "cast" and _result_is(use, "fp16") else None
    return value is not None and bool((np.isfinite(value) & (np.abs(value) > _HALF_MAX)).any())


def loses_its_epsilon(use: Use) -> bool:
    epsilon = use.value("epsilon") if use.kind in _NORMS and _dtype(use) == "fp16" else None
    return epsilon is not None and bool((epsilon.astype(np.float16) == 0).all())


def squares_what_may_be_large(use: Use) -> bool:
    """Squares in fp16, alone or inside a norm, but for those of what was divided by its maximum before."""
    if _dtype(use) != "fp16" or _is_divided_by_its_maximum(use.maker("x")):
        return False
    if use.kind == "mul":
        return use.operation.arguments.get("x") == use.operation.arguments.get("y")
    exponent = use.value("y") if use.kind == "pow" else None
    squared = exponent is not None and bool((exponent == 2).all())
    return squared or use.kind in ("square", "reduce_sum_square", "reduce_l2_norm", "l2_norm")


def computes_in(dtype: str) -> Callable[[Use], bool]:
    """Ops with results of that type; what only hands values on is none."""
    return lambda use: use.computes and use.kind not in ("cast", "identity", "classify") and _result_is(use, dtype)


def looks_up_many_rows(use: Use) -> bool:
    """Gathers with 32-bit indices from more rows than 16-bit ones reach."""
    if use.kind not in ("gather", "gather_along_axis"):
        return False
    shape, (axis, *_), indices = use.shape("x"), use.numbers("axis") or (0,), use.type("indices")
    rows = shape[axis] if -len(shape) <= axis < len(shape) else None
    return indices is not None and indices.dtype == "int32" and (rows or 0) > MOST_ROWS


def has_a_long_axis(use: Use) -> bool:
    if not use.computes:
        return False
    found = [use.type(argument) for argument in use.operation.arguments]
    found += [each.type for each in use.operation.outputs]
    return any(size is not None and size > LONGEST_AXIS for each in found if each for size in each.shape or ())


def is_scaled_by_block(use: Use) -> bool:
    """Integer weights whose scales vary along more than one axis, or within one."""
    if use.kind not in ("constexpr_blockwise_shift_scale", "constexpr_sparse_blockwise_shift_scale"):
        return False
    sizes = use.shape("data") or use.shape("data_mask")
    varied = [(scales, size) for scales, size in zip(use.shape("scale"), sizes, strict=False) if scales != 1]
    return len(varied) > 1 or any(scales != size for scales, size in varied)


def has_palettes_of_few_channels(use: Use) -> bool:
    """A palette for fewer than eight channels."""
    tables, sizes = use.shape("lut")[:-2], use.shape("indices")
    if use.kind != "constexpr_lut_to_dense" or len(tables) != len(sizes):
        return False
    return any((table or 1) > 1 and (size or 0) < 8 * (table or 1) for table, size in zip(tables, sizes, strict=True))


def ends_in_an_axis_of_one(use: Use) -> bool:
    shape = use.result.shape if use.computes and use.result is not None and _result_is(use, "fp16") else None
    return shape is not None and len(shape) > 1 and shape[-1] == 1 and math.prod(size or 1 for size in shape) > 1


def strides_by_other_factors(use: Use) -> bool:
    """Convolutions whose stride has a prime factor other than 2 and 3."""
    return use.kind == "conv" and any(_without(stride, 2, 3) > 1 for stride in use.numbers("strides"))


def pools_by_other_strides(use: Use) -> bool:
    pools = use.kind in ("max_pool", "avg_pool", "l2_pool")
    return pools and any(stride not in (1, 2, 4) for stride in use.numbers("strides"))


def is_widely_dilated(use: Use) -> bool:
    return use.kind == "conv" and any(dilation > 3 for dilation in use.numbers("dilations"))


# Of a function, by the names of what has it


def inputs_of_a_range(function: Function) -> Iterator[str]:
    """Inputs whose size is anything between two bounds."""
    for name, about in _described_inputs(function):
        if about.sizes is not None and any(low != high for low, high in about.sizes):
            yield name


def inputs_without_bounds(function: Function) -> Iterator[str]:
    for name, about in _described_inputs(function):
        if about.sizes is not None and any(high is None for _, high in about.sizes):
            yield name


def results_of_sizes_computed(function: Function) -> Iterator[str]:
    """Results whose sizes depend on values: none of the inputs has sizes that vary."""
    if any(None in (each.type.shape or (None,)) for each in function.inputs if each.type.kind == "tensor"):
        return
    for operation in function.walk():
        for each in operation.outputs:
            if each.type.kind == "tensor" and (each.type.shape is None or None in each.type.shape):
                yield each.name


def states_of_other_widths(function: Function) -> Iterator[str]:
    """States whose last axis is no multiple of 32."""
    for each in function.inputs:
        if each.type.kind == "state" and each.type.shape and (each.type.shape[-1] or 0) % 32:
            yield each.name


def boundary_of_other_types(function: Function) -> Iterator[str]:
    """Inputs and outputs that no `MLMultiArray` holds."""
    for name, found in boundary(function):
        plain = function.described.get(name, Described()).plain
        if found.kind == "tensor" and found.dtype not in (*_AT_THE_BOUNDARY, "string") and not plain:
            yield name


def boundary(function: Function) -> Iterator[tuple[str, ValueType]]:
    """Inputs, states and outputs with their types."""
    yield from ((each.name, each.type) for each in (*function.inputs, *returned(function)))


def returned(function: Function) -> tuple[Named, ...]:
    """Its outputs; one that nothing computes is left out."""
    named = {each.name: each for each in function.inputs}
    named |= {each.name: each for operation in function.operations for each in operation.outputs}
    return tuple(named[name] for name in function.outputs if name in named)


def _described_inputs(function: Function) -> Iterator[tuple[str, Described]]:
    for each in function.inputs:
        if each.name in function.described:
            yield each.name, function.described[each.name]


def _dtype(use: Use) -> str | None:
    """The type that an op computes in: that of its input, where it has one called x."""
    found = use.type("x") or use.result
    return found.dtype if found is not None else None


def _is_divided_by_its_maximum(use: Use | None) -> bool:
    """Whether the divisor comes of a maximum, perhaps kept above a least value."""
    divisor = use.maker("y") if use is not None and use.kind == "real_div" else None
    for _ in range(3):
        if divisor is None or divisor.kind == "reduce_max":
            break
        divisor = divisor.maker("x")
    return divisor is not None and divisor.kind == "reduce_max"


def _result_is(use: Use, dtype: str) -> bool:
    return use.result is not None and use.result.kind == "tensor" and use.result.dtype == dtype


def _has_a_constant(use: Use, fault: Callable[[NDArray[Any]], bool]) -> bool:
    """Whether a constant that an fp16 op adds to values, or chooses among them, has a fault."""
    if use.kind not in _MASKING or not _result_is(use, "fp16"):
        return False
    values = (use.value(argument) for argument in use.operation.arguments)
    return any(each is not None and each.dtype.kind == "f" and fault(each) for each in values)


def _without(number: int, *primes: int) -> int:
    """What is left of a number without these prime factors."""
    for prime in primes:
        while number > 0 and number % prime == 0:
            number //= prime
    return number
