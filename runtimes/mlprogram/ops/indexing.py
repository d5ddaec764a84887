"""Slices and gathers. An index out of range is an `IndexError`, which the evaluator reports."""

from __future__ import annotations

import torch

from edgevlm.runtimes.mlprogram.ops.registry import Bools, Ints, Stored, Tensor, op
from edgevlm.runtimes.mlprogram.values import from_halves


@op("slice_by_index", moves=True)
def slice_by_index(
    x: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
) -> Tensor:
    nowhere = (False,) * x.ndim
    steps = stride or (1,) * x.ndim
    open_begin, open_end, single = (mask or nowhere for mask in (begin_mask, end_mask, squeeze_mask))
    for axis in reversed(range(x.ndim)):
        if single[axis]:
            x = x.select(axis, 0 if open_begin[axis] else begin[axis])
            continue
        window = slice(None if open_begin[axis] else begin[axis], None if open_end[axis] else end[axis], steps[axis])
        chosen = range(*window.indices(x.shape[axis]))
        if steps[axis] < 0:  # torch has no views that run backwards
            x = x.index_select(axis, torch.tensor(chosen, dtype=torch.int64))
        elif chosen != range(x.shape[axis]):
            x = x[(slice(None),) * axis + (window,)]
    return x


@op("slice_by_size", moves=True)
def slice_by_size(x: Tensor, begin: Ints, size: Ints) -> Tensor:
    for axis, (start, length) in enumerate(zip(begin, size, strict=True)):
        start = start + x.shape[axis] if start < 0 else start
        length = x.shape[axis] - start if length == -1 else length
        if not 0 <= start <= start + length <= x.shape[axis]:
            raise IndexError(f"a slice from {start} to {start + length} of an axis of size {x.shape[axis]}")
        x = x.narrow(axis, start, length)
    return x


def from_zero(indices: Tensor, size: int, validate: bool | None) -> Tensor:
    """int64 indices that count from the beginning of an axis of that size.

    Args:
        validate: The op's `validate_indices`, which ops of iOS 15 and 16 have not: there a negative index counts
            from the end. From iOS 17 on it is an error, or undefined where nothing is validated; that is refused too.
    """
    indices = indices.long()
    lowest = -size if validate is None else 0
    if indices.numel() and not (lowest <= indices.min() and indices.max() < size):
        raise IndexError(f"expected {lowest} to {size - 1}, got {indices.min()} to {indices.max()}")
    return torch.where(indices < 0, indices + size, indices)


def _batch_grid(x: Tensor, batch_dims: int, rank: int) -> list[Tensor]:
    """Indices that select each batch element itself, shaped to broadcast to `rank` axes."""
    return [
        torch.arange(x.shape[axis]).reshape([-1 if other == axis else 1 for other in range(rank)])
        for axis in range(batch_dims)
    ]


@op("gather", moves=True)
def gather(
    x: Stored, indices: Tensor, axis: int = 0, batch_dims: int = 0, validate_indices: bool | None = None
) -> Tensor:
    axis %= x.ndim
    indices = from_zero(indices, x.shape[axis], validate_indices)
    if batch_dims == 0:  # a table of words is large, and few of them are looked up
        picked = from_halves(x.index_select(axis, indices.reshape(-1)))
        return picked.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))
    batch_dims %= x.ndim
    # [batch, between, axis, rest] -> [batch, axis, between, rest] -> [batch, indices, between, rest]
    picked = from_halves(x.movedim(axis, batch_dims)[(*_batch_grid(x, batch_dims, indices.ndim), indices)])
    between = range(indices.ndim, indices.ndim + axis - batch_dims)
    return picked.movedim(tuple(between), tuple(range(batch_dims, batch_dims + len(between))))


@op("gather_nd", moves=True)
def gather_nd(x: Tensor, indices: Tensor, batch_dims: int = 0, validate_indices: bool | None = None) -> Tensor:
    places = [from_zero(each, x.shape[batch_dims + i], validate_indices) for i, each in enumerate(indices.unbind(-1))]
    return x[(*_batch_grid(x, batch_dims, indices.ndim - 1), *places)]


@op("gather_along_axis", moves=True)
def gather_along_axis(x: Tensor, indices: Tensor, axis: int = 0, validate_indices: bool | None = None) -> Tensor:
    return x.gather(axis, from_zero(indices, x.shape[axis], validate_indices))
