"""Pillow's resampling, slowly and in plain numbers, after the formulas of edgevlm/bundle/README.md and nothing else.

A reader in another language can be written and tested from this file: no array operation here stands for more than its
loop would.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

PRECISION_BITS = 32 - 8 - 2


def box(t: float) -> float:
    return 1.0 if -0.5 < t <= 0.5 else 0.0


def bilinear(t: float) -> float:
    return max(1.0 - abs(t), 0.0)


def hamming(t: float) -> float:
    t = abs(t)
    if t == 0:
        return 1.0
    return math.sin(t * math.pi) / (t * math.pi) * (0.54 + 0.46 * math.cos(t * math.pi)) if t < 1 else 0.0


def bicubic(t: float) -> float:
    t, a = abs(t), -0.5
    if t < 1:
        return ((a + 2) * t - (a + 3)) * t * t + 1
    return (((t - 5) * t + 8) * t - 4) * a if t < 2 else 0.0


def lanczos(t: float) -> float:
    return sinc(t) * sinc(t / 3) if -3 <= t < 3 else 0.0


def sinc(t: float) -> float:
    return math.sin(t * math.pi) / (t * math.pi) if t else 1.0


FILTERS: dict[str, tuple[float, Callable[[float], float]]] = {
    "box": (0.5, box),
    "bilinear": (1.0, bilinear),
    "hamming": (1.0, hamming),
    "bicubic": (2.0, bicubic),
    "lanczos": (3.0, lanczos),
}


def resize(pixels: NDArray[np.uint8], height: int, width: int, resample: str) -> NDArray[np.uint8]:
    """[H, W, 3] -> [height, width, 3]."""
    if pixels.shape[:2] == (height, width):
        return pixels
    if resample == "nearest":
        rows, columns = _nearest(pixels.shape[0], height), _nearest(pixels.shape[1], width)
        return pixels[rows][:, columns]
    for axis in (0, 1) if columns_first(pixels.shape[0], pixels.shape[1], height, width) else (1, 0):
        length = (height, width)[axis]
        if pixels.shape[axis] != length:
            pixels = _pass(pixels.swapaxes(axis, 1), length, resample).swapaxes(axis, 1)
    return pixels


def columns_first(h: int, w: int, height: int, width: int) -> bool:
    """Whether the pass along the columns, which changes the height, comes before that along the rows."""
    return height < h and h - height > 2 * (w - width)


def _nearest(n: int, m: int) -> list[int]:
    """Which of `n` positions each of `m` takes."""
    scale = n / m
    position, found = 0.5 * scale, []
    for _ in range(m):
        found.append(math.floor(position))
        position += scale
    return found


def _pass(pixels: NDArray[np.uint8], m: int, resample: str) -> NDArray[np.uint8]:
    """[H, n, 3] -> [H, m, 3]."""
    n = pixels.shape[1]
    out = np.empty((pixels.shape[0], m, 3), np.uint8)
    for x in range(m):
        first, fixed = weights(n, m, x, resample)
        total = np.full((pixels.shape[0], 3), 1 << (PRECISION_BITS - 1), np.int64)
        for offset, weight in enumerate(fixed):
            total += pixels[:, first + offset].astype(np.int64) * weight
        out[:, x] = np.clip(total >> PRECISION_BITS, 0, 255)
    return out


def weights(n: int, m: int, x: int, resample: str) -> tuple[int, list[int]]:
    """For output position `x` of a pass from `n` to `m`: the first input position, and the weights from there on."""
    support, shape = FILTERS[resample]
    scale = n / m
    stretch = max(scale, 1.0)
    reach = support * stretch
    centre = (x + 0.5) * scale
    first = max(int(centre - reach + 0.5), 0)
    last = min(int(centre + reach + 0.5), n)
    found = [shape((i - centre + 0.5) * (1.0 / stretch)) for i in range(first, last)]
    total = 0.0
    for weight in found:  # not sum(): from Python 3.12 on, that makes up for rounding
        total += weight
    if total:
        found = [weight / total for weight in found]
    return first, [int(weight * (1 << PRECISION_BITS) + (0.5 if weight >= 0 else -0.5)) for weight in found]
