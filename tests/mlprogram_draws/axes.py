"""Along axes: reductions, running sums, softmax, normalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from mlprogram_cases.arithmetic import REDUCTIONS
from mlprogram_oracles import layer_norm as normalised
from mlprogram_oracles import softmax as shares

from mlprogram_draws.draw import Call, Draws, exact, rounded

_OF_FLOATS = ("reduce_mean", "reduce_log_sum_exp", "reduce_l2_norm", "reduce_log_sum")
_OF_SOME = ("reduce_max", "reduce_min", "reduce_log_sum", "reduce_log_sum_exp", "reduce_mean")
"""Without an element they have no result."""
_ALL: dict[str, Callable[..., Any]] = REDUCTIONS | {
    "reduce_log_sum": lambda x, axis, keepdims: np.log(x.sum(axis, keepdims=keepdims))
}


def reduction(draws: Draws) -> Call:
    kind, dtype = draws.op(*_ALL, of_floats=_OF_FLOATS)
    shape = draws.shape(1, empty=kind not in _OF_SOME)
    x = draws.given(dtype, shape, *((1, 4) if kind == "reduce_log_sum" else (-2, 2)))
    axes = draws.axes(len(shape)) if draws.yes(0.8) else None
    keep = draws.yes()
    result = _ALL[kind](exact(x), axis=None if axes is None else tuple(axes), keepdims=keep)
    return Call(
        kind,
        {"x": x},
        rounded(result, dtype),
        {"keep_dims": keep} | ({} if axes is None else {"axes": axes}),
    )


def place(draws: Draws) -> Call:
    """Of the largest or the smallest."""
    kind, dtype = draws.op("reduce_argmax", "reduce_argmin")
    shape = draws.shape(1, empty=False)
    x, axis, keep = draws.distinct(dtype, shape), draws.axis(len(shape)), draws.yes()
    find = np.argmax if kind == "reduce_argmax" else np.argmin
    return Call(kind, {"x": x}, find(x.array, axis, keepdims=keep), {"axis": axis, "keep_dims": keep})


def cumsum(draws: Draws) -> Call:
    dtype, shape = draws.dtype("cumsum"), draws.shape(1)
    x, axis = draws.given(dtype, shape), draws.whole(-1, len(shape) - 1)  # no other from the end is taken
    exclusive, reverse = draws.yes(), draws.yes()
    array = np.flip(exact(x), axis) if reverse else exact(x)
    total = np.cumsum(array, axis, dtype=array.dtype)
    total = total - array if exclusive else total
    return Call(
        "cumsum",
        {"x": x},
        rounded(np.flip(total, axis) if reverse else total, dtype),
        {"axis": axis, "exclusive": exclusive, "reverse": reverse},
    )


def softmax(draws: Draws) -> Call:
    dtype, shape = draws.dtype("softmax"), draws.shape(1, empty=False)
    x, axis = draws.given(dtype, shape), draws.axis(len(shape))
    return Call("softmax", {"x": x}, rounded(shares(exact(x), axis), dtype), {"axis": axis})


def layer_norm(draws: Draws) -> Call:
    dtype, shape = draws.dtype("layer_norm"), draws.shape(1, empty=False)
    axes = draws.axes(len(shape))
    order = sorted(axis % len(shape) for axis in axes)
    spread = [size if axis in order else 1 for axis, size in enumerate(shape)]
    gamma, beta = (draws.given("fp32", tuple(shape[axis] for axis in order)).array for _ in range(2))
    x = draws.given(dtype, shape)
    result = normalised(exact(x), tuple(order), gamma.reshape(spread), beta.reshape(spread), 0.5)
    kind = np.float16 if dtype == "fp16" else np.float32
    arguments = {"axes": axes, "gamma": gamma.astype(kind), "beta": beta.astype(kind), "epsilon": kind(0.5)}
    return Call("layer_norm", {"x": x}, rounded(result, dtype), arguments)
