"""Ops that move, repeat or create elements without computing on them."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F

from edgevlm.errors import UnsupportedError
from edgevlm.runtimes.mlprogram.ops.registry import Ints, Scalar, Tensor, Tensors, op


@op("reshape", moves=True)
def reshape(x: Tensor, shape: Ints) -> Tensor:
    # A 0 takes over x's size, counted from the last axis (from iOS 17 on the ranks may differ), or is 1 beyond x.
    lead = len(shape) - x.ndim
    sizes = (size or (x.shape[axis - lead] if axis >= lead else 1) for axis, size in enumerate(shape))
    return x.reshape(tuple(sizes))


@op("reshape_like", moves=True)
def reshape_like(x: Tensor, ref_tensors: Tensors, begins: Tensors, ends: Tensors, end_masks: Tensors) -> Tensor:
    sizes: list[int] = []
    for reference, begin, end, mask in zip(ref_tensors, begins, ends, end_masks, strict=True):
        sizes += reference.shape[int(begin) : None if mask else int(end)]
    return x.reshape(sizes)


@op("transpose", moves=True)
def transpose(x: Tensor, perm: Ints) -> Tensor:
    return x.permute(perm)


@op("expand_dims", moves=True)
def expand_dims(x: Tensor, axes: Ints) -> Tensor:
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


@op("squeeze", moves=True)
def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(axes)


@op("concat", moves=True)
def concat(values: Tensors, axis: int, interleave: bool = False) -> Tensor:
    values = tuple(value.reshape(1) if value.ndim == 0 else value for value in values)
    if not interleave:
        return torch.cat(values, axis)
    axis %= values[0].ndim
    return torch.stack(values, axis + 1).flatten(axis, axis + 1)


@op("stack", moves=True)
def stack(values: Tensors, axis: int) -> Tensor:
    return torch.stack(values, axis)


@op("split", moves=True)
def split(x: Tensor, axis: int, num_splits: int | None = None, split_sizes: Ints | None = None) -> Tensors:
    if split_sizes is not None:
        return torch.split(x, list(split_sizes), axis)
    if num_splits is None or x.shape[axis] % num_splits:
        raise UnsupportedError(f"a size of {x.shape[axis]} in {num_splits} equal parts")
    return torch.split(x, x.shape[axis] // num_splits, axis)


@op("flatten2d", moves=True)
def flatten2d(x: Tensor, axis: int = 1) -> Tensor:
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@op("tile", moves=True)
def tile(x: Tensor, reps: Ints) -> Tensor:
    return x.repeat(reps)


@op("pad")
def pad(
    x: Tensor, pad: Ints, mode: Literal["constant", "reflect", "replicate"] = "constant", constant_val: Scalar = 0.0
) -> Tensor:
    if mode == "constant":
        margins = [each for pair in reversed(list(zip(pad[::2], pad[1::2], strict=True))) for each in pair]
        return F.pad(x, margins, value=constant_val)
    # torch has these modes for the last axes of some ranks only: gather every axis by index instead.
    axes = range(x.ndim - len(pad) // 2, x.ndim)
    for axis, before, after in zip(axes, pad[::2], pad[1::2], strict=True):
        index = torch.arange(-before, x.shape[axis] + after)
        last = x.shape[axis] - 1
        index = index.clamp(0, last) if mode == "replicate" else last - (last - index.abs()).abs()
        x = x.index_select(axis, index)
    return x


@op("shape")
def shape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int32)


@op("fill_like")
def fill_like(ref_tensor: Tensor, value: Scalar = 0.0) -> Tensor:
    return torch.full(ref_tensor.shape, value)


@op("fill")
def fill(shape: Ints, value: Scalar = 0.0) -> Tensor:
    return torch.full(shape, value)


@op("range_1d")
def range_1d(start: Scalar, end: Scalar, step: Scalar) -> Tensor:
    return torch.arange(start, end, step) if (end - start) * step > 0 else torch.arange(start, start)


@op("band_part")
def band_part(x: Tensor, lower: int = -1, upper: int = -1) -> Tensor:
    if lower >= 0:
        x = x.triu(-lower)
    return x.tril(upper) if upper >= 0 else x
