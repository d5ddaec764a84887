"""Shapes, and the same elements in another order."""

from __future__ import annotations

import numpy as np

from mlprogram_draws.draw import FLOATS, Call, Draws


def reshaped(draws: Draws) -> Call:
    """To any shape of as many elements, a size perhaps left open or taken over."""
    x = draws.given(draws.dtype("reshape"), draws.shape(0, 4))
    array = x.array
    if array.size == 0 or (array.ndim and draws.yes(0.2)):
        return Call("reshape", {"x": x}, array, {"shape": [0] * array.ndim})
    sizes = _factors(draws, array.size)
    given = list(sizes)
    if draws.yes():
        given[draws.whole(0, len(given) - 1)] = -1
    call = Call("reshape", {"x": x}, array.reshape(sizes), {"shape": given})
    return call.computed("shape") if draws.yes(0.3) else call


def _factors(draws: Draws, size: int) -> tuple[int, ...]:
    sizes = []
    for _ in range(draws.whole(0, 4)):
        sizes.append(draws.one([each for each in range(1, size + 1) if size % each == 0]))
        size //= sizes[-1]
    return (*sizes, size)


def axes_of_one(draws: Draws) -> Call:
    """Added, or taken out."""
    kind, dtype = draws.op("expand_dims", "squeeze")
    x = draws.given(dtype, draws.shape(0 if kind == "expand_dims" else 1, 4))
    array, rank = x.array, x.array.ndim
    if kind == "expand_dims":
        places = sorted(int(each) for each in draws.rng.permutation(rank + 1)[: draws.whole(1, 5 - rank)])
        wide = rank + len(places)
        axes = [each - wide * draws.yes() for each in draws.rng.permutation(places).tolist()]
        return Call(kind, {"x": x}, np.expand_dims(array, tuple(places)), {"axes": axes})
    ones = [axis for axis, size in enumerate(array.shape) if size == 1]
    if not ones or draws.yes(0.3):
        return Call(kind, {"x": x}, np.squeeze(array))
    axes = [axis - rank * draws.yes() for axis in ones[: draws.whole(1, len(ones))]]
    return Call(kind, {"x": x}, np.squeeze(array, tuple(axes)), {"axes": axes})


def flattened(draws: Draws) -> Call:
    kind, dtype = draws.op("flatten2d", "shape")
    x = draws.given(dtype, draws.shape(1))
    sizes = x.array.shape
    if kind == "shape":
        return Call(kind, {"x": x}, np.array(sizes))
    axis = draws.axis(len(sizes))
    flat = int(np.prod(sizes[:axis])), int(np.prod(sizes[axis:]))
    return Call(kind, {"x": x}, x.array.reshape(flat), {"axis": axis})


def transposed(draws: Draws) -> Call:
    kind, dtype = draws.op("transpose", "reverse", "band_part")
    x = draws.given(dtype, draws.shape(2 if kind == "band_part" else 1))
    array, rank = x.array, x.array.ndim
    if kind == "transpose":
        perm = [int(axis) - rank * draws.yes() for axis in draws.rng.permutation(rank)]
        return Call(kind, {"x": x}, array.transpose(perm), {"perm": perm})
    if kind == "reverse":
        axes = draws.axes(rank)
        return Call(kind, {"x": x}, np.flip(array, tuple(axes)), {"axes": axes})
    lower, upper = draws.whole(-1, 3), draws.whole(-1, 3)
    m, n = np.indices(array.shape[-2:])
    kept = ((lower < 0) | (m - n <= lower)) & ((upper < 0) | (n - m <= upper))
    return Call(kind, {"x": x}, np.where(kept, array, array.dtype.type(0)), {"lower": lower, "upper": upper})


def joined(draws: Draws) -> Call:
    """Of two to four, of sizes that differ along the axis."""
    kind = draws.one(["concat", "stack"])
    dtype = draws.one([*FLOATS, "int32", "bool"])
    shape = draws.shape(1, 4)
    axis = draws.axis(len(shape) + (kind == "stack"))
    inputs = {}
    for index in range(draws.whole(2, 4)):
        sizes = list(shape)
        if kind == "concat":
            sizes[axis] = draws.whole(0, 3)
        inputs[f"v{index}"] = draws.given(dtype, tuple(sizes))
    arrays = [each.array for each in inputs.values()]
    result = np.concatenate(arrays, axis) if kind == "concat" else np.stack(arrays, axis)
    return Call(kind, inputs, result, {"axis": axis}, values=True)


def split(draws: Draws) -> Call:
    x = draws.given(draws.dtype("split"), draws.shape(1, empty=False))
    axis = draws.axis(x.array.ndim)
    size = x.array.shape[axis]
    if draws.yes():
        parts = draws.one([each for each in range(1, size + 1) if size % each == 0])
        return Call("split", {"x": x}, np.split(x.array, parts, axis), {"axis": axis, "num_splits": parts})
    cut = draws.whole(0, size)
    sizes = [cut, size - cut]
    return Call("split", {"x": x}, np.split(x.array, [cut], axis), {"axis": axis, "split_sizes": sizes})


def repeated(draws: Draws) -> Call:
    x = draws.given(draws.dtype("tile"), draws.shape(1))
    reps = [draws.whole(1, 3) for _ in x.array.shape]
    call = Call("tile", {"x": x}, np.tile(x.array, reps), {"reps": reps})
    return call.computed("reps") if draws.yes(0.3) else call


def padded(draws: Draws) -> Call:
    mode = draws.one(["constant", "reflect", "replicate"])
    x = draws.given(draws.dtype("pad"), draws.shape(1, empty=mode == "constant"))
    axes = draws.whole(1, x.array.ndim if mode == "constant" else min(2, x.array.ndim))
    most = [size - 1 if mode == "reflect" else 3 for size in x.array.shape[-axes:]]
    widths = [(draws.whole(0, most_), draws.whole(0, most_)) for most_ in most]
    all_widths = [(0, 0)] * (x.array.ndim - axes) + widths
    arguments = {"pad": [each for pair in widths for each in pair], "mode": mode}
    if mode == "constant":
        value = x.array.dtype.type(draws.whole(0, 1))
        result = np.pad(x.array, all_widths, constant_values=value)
        return Call("pad", {"x": x}, result, arguments | {"constant_val": value})
    return Call("pad", {"x": x}, np.pad(x.array, all_widths, "edge" if mode == "replicate" else mode), arguments)
