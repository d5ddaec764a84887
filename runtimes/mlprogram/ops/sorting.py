"""Orders, places and the largest. Equal values keep their order, which MIL leaves open."""

from __future__ import annotations

from typing import Literal

import torch

from edgevlm.runtimes.mlprogram.ops.registry import CARRIERS, Scalar, Tensor, Tensors, op


@op("argsort")
def argsort(x: Tensor, axis: int = -1, ascending: bool = False) -> Tensor:
    return x.argsort(dim=axis, descending=not ascending, stable=True).int()


@op("topk")
def topk(
    x: Tensor,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: Literal["int32", "uint16"] = "int32",
) -> Tensors:
    # Unsorted results may come in any order, and sorted is one.
    k = x.shape[axis] if k == -1 else k
    values, indices = x.sort(dim=axis, descending=not ascending, stable=True)
    largest = values.narrow(axis, 0, k)
    if not return_indices:
        return (largest,)
    return largest, indices.narrow(axis, 0, k).to(CARRIERS[output_indices_dtype])


@op("non_zero")
def non_zero(x: Tensor) -> Tensor:
    return x.nonzero().int()


@op("one_hot")
def one_hot(
    indices: Tensor, one_hot_vector_size: int, axis: int = -1, on_value: Scalar = 1, off_value: Scalar = 0
) -> Tensor:
    places = torch.arange(one_hot_vector_size)
    axis %= indices.ndim + 1
    there = indices.unsqueeze(axis) == places.reshape(-1, *[1] * (indices.ndim - axis))
    return torch.where(there, torch.tensor(on_value), torch.tensor(off_value))
