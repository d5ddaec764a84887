"""Slices, gathers and scatters."""

from __future__ import annotations

import numpy as np
from mlprogram_cases.movement import _MODES, scattered

from mlprogram_draws.draw import Call, Draws


def slice_by_index(draws: Draws) -> Call:
    """Begin, end and stride of either sign, ends beyond the axis, open ends, single elements; seldom nothing."""
    x = draws.given(draws.dtype("slice_by_index"), draws.shape(1, empty=False))
    begin, end, stride, places = [], [], [], []
    masks: dict[str, list[bool]] = {"begin_mask": [], "end_mask": [], "squeeze_mask": []}
    for size in x.array.shape:
        single = draws.yes(0.2)
        step = 1 if single else draws.one([1, 1, 2, -1, -2])
        first, last, open_first, open_last = _window(draws, size, step)
        for into, each in ((begin, first), (end, last), (stride, step)):
            into.append(each)
        for name, mask in zip(masks, (open_first and not single, open_last and not single, single), strict=True):
            masks[name].append(mask)
        window = slice(None if open_first else first, None if open_last else last, step)
        places.append(first if single else window)
    result = np.asarray(x.array[tuple(places)])
    call = Call("slice_by_index", {"x": x}, result, {"begin": begin, "end": end, "stride": stride, **masks})
    # Of what it does not know, coremltools declares that an axis of one element keeps it.
    return call.computed("begin", "end") if min(x.array.shape) > 1 and draws.yes(0.5) else call


def _window(draws: Draws, size: int, step: int) -> tuple[int, int, bool, bool]:
    """Where a slice begins and ends, and whether either is open: with an element, or an end where it begins.

    What else holds nothing coremltools' builder declares with an element, or refuses.
    """
    if size > 1 and draws.yes(0.05):
        first = draws.whole(0, size - 1)
        return first, first, False, False
    while True:
        first, last = draws.whole(-size, size - 1), draws.whole(-size, size + 2)
        open_first, open_last = draws.yes(0.2), draws.yes(0.2)
        if len(range(size)[slice(None if open_first else first, None if open_last else last, step)]):
            return first, last, open_first, open_last


def slice_by_size(draws: Draws) -> Call:
    x = draws.given(draws.dtype("slice_by_size"), draws.shape(1, empty=False))
    begin = [draws.whole(0, size - 1) for size in x.array.shape]
    size = [draws.one([-1, draws.whole(1, n - b)]) for b, n in zip(begin, x.array.shape, strict=True)]
    places = tuple(slice(b, None if n == -1 else b + n) for b, n in zip(begin, size, strict=True))
    call = Call("slice_by_size", {"x": x}, x.array[places], {"begin": begin, "size": size})
    return call.computed(*draws.one([("begin",), ("size",), ("begin", "size")])) if draws.yes(0.4) else call


def gather(draws: Draws) -> Call:
    """Along any axis, for batches or all, with indices of rank 0 to 3, computed or constant."""
    shape = draws.shape(1, 4, empty=False)
    x, axis = draws.given(draws.dtype("gather"), shape), draws.axis(len(shape))
    place = axis % len(shape)
    batches = draws.whole(0, min(place, 2))
    rank = draws.whole(0 if batches == 0 else 1, 5 - len(shape) + 1 if batches == 0 else 2)
    own = tuple(draws.whole(1, 3) for _ in range(min(rank, 3)))
    indices = draws.given(draws.dtype("gather", "indices"), (*shape[:batches], *own), 0, shape[place] - 1)
    result = _gathered(x.array, indices.array, place, batches)
    return Call("gather", {"x": x, "indices": indices}, result, {"axis": axis, "batch_dims": batches})


def _gathered(x: np.ndarray, indices: np.ndarray, axis: int, batches: int) -> np.ndarray:
    if batches == 0:
        return np.take(x, indices, axis)
    return np.stack([_gathered(x[i], indices[i], axis - 1, batches - 1) for i in range(len(x))])


def gather_along_axis(draws: Draws) -> Call:
    shape = draws.shape(1, empty=False)
    x, axis = draws.given(draws.dtype("gather_along_axis"), shape), draws.axis(len(shape))
    sizes = list(shape)
    sizes[axis] = draws.whole(1, 5)
    indices = draws.given(draws.dtype("gather_along_axis", "indices"), tuple(sizes), 0, shape[axis] - 1)
    result = np.take_along_axis(x.array, indices.array.astype(np.int64), axis)
    return Call("gather_along_axis", {"x": x, "indices": indices}, result, {"axis": axis})


def gather_nd(draws: Draws) -> Call:
    shape = draws.shape(1, 4, empty=False)
    x = draws.given(draws.dtype("gather_nd"), shape)
    batches = draws.whole(0, min(2, len(shape) - 1))
    depth = draws.whole(1, len(shape) - batches)
    own = tuple(draws.whole(1, 3) for _ in range(draws.whole(0 if batches else 1, 2)))
    flat = [draws.rng.integers(0, shape[batches + i], (*shape[:batches], *own)) for i in range(depth)]
    indices = draws.given(draws.dtype("gather_nd", "indices"), (*shape[:batches], *own, depth))
    indices = type(indices)(np.stack(flat, -1).astype(np.int32), indices.dtype)
    result = _picked(x.array, indices.array, batches)
    return Call("gather_nd", {"x": x, "indices": indices}, result, {"batch_dims": batches})


def _picked(x: np.ndarray, indices: np.ndarray, batches: int) -> np.ndarray:
    if batches == 0:
        return np.asarray(x[tuple(np.moveaxis(indices, -1, 0))])
    return np.stack([_picked(x[i], indices[i], batches - 1) for i in range(len(x))])


def scatter(draws: Draws) -> Call:
    """Updates of slices along an axis, one after another."""
    shape = draws.shape(1, 4, empty=False)
    dtype, axis = draws.dtype("scatter", "data"), draws.axis(len(shape))
    mode = draws.one([each for each in _MODES if each != "div" or dtype != "int32"])
    data = draws.given(dtype, shape)
    count = draws.whole(1, shape[axis] if mode == "update" else 4)
    places = (
        draws.rng.permutation(shape[axis])[:count] if mode == "update" else draws.rng.integers(0, shape[axis], count)
    )
    sizes = list(shape)
    sizes[axis] = count
    updates = draws.given(dtype, tuple(sizes), *((1, 2) if mode == "div" else (-2, 2)))
    moved = np.moveaxis(data.array.astype(np.float64 if dtype != "int32" else np.int32), axis, 0)
    rows = list(np.moveaxis(updates.array, axis, 0).astype(moved.dtype))
    result = np.moveaxis(scattered(moved, [(int(place),) for place in places], rows, mode), 0, axis)
    arguments = {"indices": places.astype(np.int32), "axis": axis, "mode": mode}
    return Call("scatter", {"data": data, "updates": updates}, result.astype(data.array.dtype), arguments)
