"""Some rows and columns of a scaled picture, without the rest of it.

Of a picture of 1 x 40,000 pixels, scaled until the shorter side fits, a crop keeps a few thousandths; the whole would
take gigabytes. What is computed here equals that part of the whole to the bit, by the formulas of
edgevlm/bundle/README.md. Pillow's `resize(box=...)` cannot be asked for it: a part's positions are not the whole's in
float arithmetic. It is as slow as numpy, and meant for what Pillow has no memory for.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgevlm.bundle.spec import Resample

_PRECISION_BITS = 22
_ONE = 1 << _PRECISION_BITS


@dataclass(frozen=True)
class _Mean:
    """A position of the result: the weighted mean of `len(weights)` positions from `first` on."""

    first: int
    weights: NDArray[np.int64]

    @property
    def end(self) -> int:
        return self.first + len(self.weights)


_Filter: TypeAlias = Callable[[float], float]


def columns_first(height: int, width: int, new_height: int, new_width: int) -> bool:
    """Whether the pass along the columns, which changes the height, comes before that along the rows."""
    return new_height < height and height - new_height > 2 * (width - new_width)


def resize_part(
    image: Image.Image, height: int, width: int, resample: Resample, rows: slice, columns: slice
) -> NDArray[np.uint8]:
    """The rows and columns that are asked for of an RGB picture scaled to `height` x `width` pixels.

    Args:
        image: The whole picture; only what the part is made of is read.
        height, width: Of the whole, scaled.
        resample: The filter.
        rows, columns: Of the scaled picture; both ends are within it.

    Returns:
        uint8 [R, C, 3].
    """
    means = _means(image.height, height, resample, rows), _means(image.width, width, resample, columns)
    (top, bottom), (left, right) = ((min(m.first for m in each), max(m.end for m in each)) for each in means)
    pixels = np.asarray(image.crop((left, top, right, bottom)), np.uint8)
    along_columns, along_rows = (0, means[0], top), (1, means[1], left)
    is_columns_first = columns_first(image.height, image.width, height, width)
    for axis, wanted, start in (along_columns, along_rows) if is_columns_first else (along_rows, along_columns):
        pixels = _pass(pixels.swapaxes(0, axis), wanted, start).swapaxes(0, axis)
    return pixels


def weights(n: int, m: int, resample: Resample) -> NDArray[np.float64]:
    """What each of `m` positions is made of, of `n`, as a matrix [m, n]; Pillow rounds what comes of it, and cuts it
    to 0..255, behind each axis.

    >>> weights(4, 2, "box")
    array([[0.5, 0.5, 0. , 0. ],
           [0. , 0. , 0.5, 0.5]])
    """
    matrix = np.zeros((m, n))
    for row, mean in zip(matrix, _means(n, m, resample, slice(0, m)), strict=True):
        row[mean.first : mean.end] = mean.weights / _ONE
    return matrix


def _pass(pixels: NDArray[np.uint8], means: Sequence[_Mean], start: int) -> NDArray[np.uint8]:
    """[n, ..., 3] -> [len(means), ..., 3]; position 0 of the input is the means' `start`."""
    out = np.empty((len(means), *pixels.shape[1:]), np.uint8)
    for row, mean in zip(out, means, strict=True):
        total = np.tensordot(mean.weights, pixels[mean.first - start : mean.end - start], 1) + (_ONE >> 1)
        row[...] = np.clip(total >> _PRECISION_BITS, 0, 255)
    return out


def _means(n: int, m: int, resample: Resample, kept: slice) -> list[_Mean]:
    """What the positions `kept` of `m` are made of, of `n`."""
    if n == m:
        return [_alone(position) for position in range(kept.start, kept.stop)]
    if resample == "nearest":
        steps = itertools.accumulate(itertools.repeat(n / m), initial=0.5 * (n / m))
        return [_alone(math.floor(position)) for position in itertools.islice(steps, kept.start, kept.stop)]
    support, shape = _FILTERS[resample]
    return [_mean(n, m, position, support, shape) for position in range(kept.start, kept.stop)]


def _alone(position: int) -> _Mean:
    return _Mean(position, np.array([_ONE]))


def _mean(n: int, m: int, position: int, support: float, shape: _Filter) -> _Mean:
    scale = n / m
    stretch = max(scale, 1.0)
    reach = support * stretch
    centre = (position + 0.5) * scale
    first, last = max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), n)
    weights = [shape((i - centre + 0.5) * (1.0 / stretch)) for i in range(first, last)]
    total = functools.reduce(operator.add, weights, 0.0)  # not sum(): from Python 3.12 on, that makes up for rounding
    shares = [weight / total for weight in weights] if total else weights
    return _Mean(first, np.array([int(share * _ONE + math.copysign(0.5, share)) for share in shares], np.int64))


def _box(t: float) -> float:
    return 1.0 if -0.5 < t <= 0.5 else 0.0


def _bilinear(t: float) -> float:
    return max(1.0 - abs(t), 0.0)


def _hamming(t: float) -> float:
    t = abs(t)
    return _sinc(t) * (0.54 + 0.46 * math.cos(t * math.pi)) if 0 < t < 1 else float(t == 0)


def _bicubic(t: float) -> float:
    t, a = abs(t), -0.5
    if t < 1:
        return ((a + 2) * t - (a + 3)) * t * t + 1
    return (((t - 5) * t + 8) * t - 4) * a if t < 2 else 0.0


def _lanczos(t: float) -> float:
    return _sinc(t) * _sinc(t / 3) if -3 <= t < 3 else 0.0


def _sinc(t: float) -> float:
    return math.sin(t * math.pi) / (t * math.pi) if t else 1.0


_FILTERS: dict[Resample, tuple[float, _Filter]] = {
    "box": (0.5, _box),
    "bilinear": (1.0, _bilinear),
    "hamming": (1.0, _hamming),
    "bicubic": (2.0, _bicubic),
    "lanczos": (3.0, _lanczos),
}
