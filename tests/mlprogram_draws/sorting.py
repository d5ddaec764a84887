"""Orders and places."""

from __future__ import annotations

import numpy as np

from mlprogram_draws.draw import Call, Draws


def argsort(draws: Draws) -> Call:
    shape = draws.shape(1, empty=False)
    x, axis, ascending = draws.distinct(draws.dtype("argsort"), shape), draws.axis(len(shape)), draws.yes()
    order = np.argsort(x.array if ascending else -x.array, axis)
    return Call("argsort", {"x": x}, order, {"axis": axis, "ascending": ascending})


def topk(draws: Draws) -> Call:
    shape = draws.shape(1, 3, empty=False)
    x, axis, ascending = draws.distinct(draws.dtype("topk"), shape), draws.axis(len(shape)), draws.yes()
    k = draws.whole(1, shape[axis])
    order = np.argsort(x.array if ascending else -x.array, axis).take(range(k), axis)
    arguments = {"k": k, "axis": axis, "ascending": ascending}
    return Call("topk", {"x": x}, [np.take_along_axis(x.array, order, axis), order], arguments)


def non_zero(draws: Draws) -> Call:
    x = draws.given(draws.dtype("non_zero"), draws.shape(1, 4), -1, 1)
    return Call("non_zero", {"x": x}, np.argwhere(x.array))


def one_hot(draws: Draws) -> Call:
    size = draws.whole(1, 4)
    indices = draws.given("int32", draws.shape(1, 4), 0, size - 1)
    axis = draws.axis(indices.array.ndim + 1)
    on, off = draws.whole(1, 4), draws.whole(-4, 0)
    hot = np.where(np.eye(size)[indices.array] == 1, on, off)
    arguments = {"one_hot_vector_size": size, "axis": axis, "on_value": np.int32(on), "off_value": np.int32(off)}
    return Call("one_hot", {"indices": indices}, np.moveaxis(hot, -1, axis), arguments)
