"""Scatters and updates of slices. An index out of range is an `IndexError`, which the evaluator reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch

from edgevlm.runtimes.mlprogram.ops.indexing import from_zero, slice_by_index
from edgevlm.runtimes.mlprogram.ops.registry import Bools, Ints, Tensor, op

Mode: TypeAlias = Literal["add", "div", "max", "min", "mul", "sub", "update"]

# Several updates of one place are taken one after another, so that a division by each is one by their product.
_REDUCED: dict[str, tuple[Literal["sum", "prod", "amax", "amin"], Callable[[Tensor, Tensor], Tensor]]] = {
    "add": ("sum", torch.add),
    "sub": ("sum", torch.sub),
    "mul": ("prod", torch.mul),
    "div": ("prod", torch.div),
    "max": ("amax", torch.maximum),
    "min": ("amin", torch.minimum),
}


def _scattered(data: Tensor, places: Tensor, updates: Tensor, mode: Mode) -> Tensor:
    """Rows [K, R] of updates to rows of [N, R] data, at places [K]."""
    if mode == "update":
        return data.index_copy(0, places, updates)
    reduce, combine = _REDUCED[mode]
    everywhere = places[:, None].expand_as(updates)
    gathered = torch.zeros_like(data).scatter_reduce(0, everywhere, updates, reduce, include_self=False)
    touched = torch.zeros(len(data), dtype=torch.bool).index_fill(0, places, True)[:, None]
    return torch.where(touched, combine(data, gathered).to(data.dtype), data)


@op("scatter")
def scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int = 0,
    mode: Mode = "add",
    validate_indices: bool | None = None,
) -> Tensor:
    places = from_zero(indices, data.shape[axis], validate_indices)
    moved, new = data.movedim(axis, 0), updates.movedim(axis, 0)
    rows = _scattered(moved.reshape(len(moved), -1), places, new.reshape(len(new), -1), mode)
    return rows.reshape(moved.shape).movedim(0, axis)


@op("scatter_along_axis")
def scatter_along_axis(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int = 0,
    mode: Mode = "add",
    validate_indices: bool | None = None,
) -> Tensor:
    along = from_zero(indices, data.shape[axis], validate_indices)
    grid = list(torch.meshgrid(*(torch.arange(size) for size in indices.shape), indexing="ij"))
    grid[axis] = along
    return _at(data, grid, updates, mode)


@op("scatter_nd")
def scatter_nd(
    data: Tensor, indices: Tensor, updates: Tensor, mode: Mode = "add", validate_indices: bool | None = None
) -> Tensor:
    return _at(
        data,
        [from_zero(each, data.shape[i], validate_indices) for i, each in enumerate(indices.unbind(-1))],
        updates,
        mode,
    )


def _at(data: Tensor, places: list[Tensor], updates: Tensor, mode: Mode) -> Tensor:
    """Updates of the slices that the places, an index an axis, name."""
    sizes, rest = data.shape[: len(places)], data.shape[len(places) :]
    flat = torch.zeros_like(places[0])
    for place, size in zip(places, sizes, strict=True):
        flat = flat * size + place
    rows = data.reshape(sizes.numel(), rest.numel())
    return _scattered(rows, flat.reshape(-1), updates.reshape(flat.numel(), rest.numel()), mode).reshape(data.shape)


@op("slice_update", moves=True, steady=("begin", "end"))
def slice_update(
    x: Tensor,
    update: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
) -> Tensor:
    # The places that the slice would read are those that it writes.
    result = x.clone()
    places = slice_by_index(result, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    if places.numel() != update.numel():
        where = f"from {list(begin)} to {list(end)} of {list(x.shape)}"
        raise IndexError(f"an update of {list(update.shape)} for a slice of {list(places.shape)}, {where}")
    if places.untyped_storage().data_ptr() == result.untyped_storage().data_ptr():
        places.copy_(update.reshape(places.shape))
        return result
    numbers = torch.arange(x.numel()).reshape(x.shape)  # read backwards, a slice is a copy
    places = slice_by_index(numbers, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    return x.reshape(-1).index_copy(0, places.reshape(-1), update.reshape(-1)).reshape(x.shape)
