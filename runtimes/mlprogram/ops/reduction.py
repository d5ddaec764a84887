"""Ops that reduce axes, and running sums."""

from __future__ import annotations

from typing import Literal

import torch

from edgevlm.errors import UnsupportedError
from edgevlm.runtimes.mlprogram.ops.registry import CARRIERS, Ints, Real, Tensor, op


def _all_or(axes: Ints | None, x: Tensor) -> Ints:
    if axes == ():
        raise UnsupportedError("an empty list of axes, which torch and NumPy read differently")
    return tuple(range(x.ndim)) if axes is None else axes


@op("reduce_sum")
def reduce_sum(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return x.sum(_all_or(axes, x), keepdim=keep_dims, dtype=x.dtype)


@op("reduce_mean")
def reduce_mean(x: Real, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return x.mean(_all_or(axes, x), keepdim=keep_dims)


@op("reduce_max")
def reduce_max(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return x.amax(_all_or(axes, x), keepdim=keep_dims)


@op("reduce_min")
def reduce_min(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return x.amin(_all_or(axes, x), keepdim=keep_dims)


@op("reduce_prod")
def reduce_prod(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in _all_or(axes, x)), reverse=True):
        x = x.prod(axis, keepdim=keep_dims, dtype=x.dtype)
    return x


@op("reduce_sum_square")
def reduce_sum_square(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return x.square().sum(_all_or(axes, x), keepdim=keep_dims, dtype=x.dtype)


@op("reduce_log_sum")
def reduce_log_sum(x: Real, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return x.sum(_all_or(axes, x), keepdim=keep_dims).log()


@op("reduce_log_sum_exp")
def reduce_log_sum_exp(x: Real, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return x.logsumexp(_all_or(axes, x), keepdim=keep_dims)


@op("reduce_l1_norm")
def reduce_l1_norm(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return x.abs().sum(_all_or(axes, x), keepdim=keep_dims, dtype=x.dtype)


@op("reduce_l2_norm")
def reduce_l2_norm(x: Real, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, dim=_all_or(axes, x), keepdim=keep_dims)
    return norm


@op("reduce_argmax")
def reduce_argmax(
    x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: Literal["int32", "uint16"] = "int32"
) -> Tensor:
    return x.argmax(axis, keepdim=keep_dims).to(CARRIERS[output_dtype])


@op("reduce_argmin")
def reduce_argmin(
    x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: Literal["int32", "uint16"] = "int32"
) -> Tensor:
    return x.argmin(axis, keepdim=keep_dims).to(CARRIERS[output_dtype])


@op("cumsum")
def cumsum(x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    if reverse:
        x = x.flip(axis)
    total = x.cumsum(axis, dtype=x.dtype)
    if exclusive and total.numel():  # by shifting: subtracting x again would cancel digits
        total = torch.cat((torch.zeros_like(x.narrow(axis, 0, 1)), total.narrow(axis, 0, x.shape[axis] - 1)), axis)
    return total.flip(axis) if reverse else total
