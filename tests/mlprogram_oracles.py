"""What MIL's pages say that ops compute, in NumPy, as plainly as it can be said."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from mlprograms import Array


def erf(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[float])(x)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softmax(x: Array, axis: int) -> Array:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def layer_norm(x: Array, axes: tuple[int, ...], gamma: Any = 1.0, beta: Any = 0.0, epsilon: float = 1e-5) -> Array:
    x = x.astype(np.float64)
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon) * gamma + beta


def attention(query: Array, key: Array, value: Array, mask: Any = 0.0) -> Array:
    return softmax(query @ key.swapaxes(-1, -2) / math.sqrt(query.shape[-1]) + mask, -1) @ value


def windows(x: Array, kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]) -> Array:
    """[n, c, *out, *kernel]: what the window sees at each place."""
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    axes = tuple(range(2, x.ndim))
    seen = np.lib.stride_tricks.sliding_window_view(x, reach, axes)
    places = (slice(None), slice(None), *(slice(None, None, s) for s in strides))
    return seen[(*places, *(slice(None, None, d) for d in dilations))]


def padded(x: Array, pad: tuple[int, ...], value: float = 0.0) -> Array:
    return np.pad(x, [(0, 0), (0, 0), *zip(pad[::2], pad[1::2], strict=True)], constant_values=value)


def conv(
    x: Array,
    weight: Array,
    *,
    bias: Any = 0.0,
    strides: tuple[int, ...] | None = None,
    pad: tuple[int, ...] | None = None,
    dilations: tuple[int, ...] | None = None,
    groups: int = 1,
) -> Array:
    n = x.ndim - 2
    x = padded(x, pad or (0,) * 2 * n)
    outs = []
    for own, kernel in zip(np.split(x, groups, 1), np.split(weight, groups, 0), strict=True):
        seen = windows(own, kernel.shape[2:], strides or (1,) * n, dilations or (1,) * n)
        outs.append(np.moveaxis(np.tensordot(seen, kernel, ([1, *range(2 + n, 2 + 2 * n)], range(1, 2 + n))), -1, 1))
    return np.concatenate(outs, 1) + np.reshape(bias, (-1, *(1,) * n))


def pool(x: Array, kernel: tuple[int, ...], strides: tuple[int, ...], pad: tuple[int, ...], how: str) -> Array:
    n = len(kernel)
    fill = {"max": -np.inf, "mean": 0.0, "mean of picture": np.nan}[how]
    seen = windows(padded(x, pad, fill), kernel, strides, (1,) * n)
    reduce = {"max": np.max, "mean": np.mean, "mean of picture": np.nanmean}[how]
    return reduce(seen, axis=tuple(range(-n, 0)))


def bilinear(x: Array, height: float, width: float, corners: bool) -> Array:
    for axis, factor in ((-2, height), (-1, width)):
        size, new = x.shape[axis], math.floor(x.shape[axis] * factor)
        i = np.arange(new)
        point = i * (size - 1) / max(new - 1, 1) if corners else i * size / new + 0.5 * size / new - 0.5
        point = np.clip(point, 0, size - 1)
        low = np.floor(point).astype(int)
        high = np.minimum(low + 1, size - 1)
        share = (point - low).reshape(-1, *(1,) * (-1 - axis))
        x = np.take(x, low, axis) * (1 - share) + np.take(x, high, axis) * share
    return x


def band(x: Array, lower: int, upper: int) -> Array:
    m, n = np.indices(x.shape[-2:])
    return np.where(((lower < 0) | (m - n <= lower)) & ((upper < 0) | (n - m <= upper)), x, 0)


def batch_norm(
    x: Array, mean: Array, variance: Array, gamma: Any = 1.0, beta: Any = 0.0, epsilon: float = 1e-5
) -> Array:
    mean, variance, gamma, beta = (
        np.reshape(each, (-1, *(1,) * (x.ndim - 2))) for each in (mean, variance, gamma, beta)
    )
    return (x - mean) / np.sqrt(variance + epsilon) * gamma + beta
