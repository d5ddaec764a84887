"""Other sizes and places of pictures: what lies between pixels is interpolated.

The grids are those of MIL's page of `resize_bilinear`: where, in an axis of `old` pixels, each of `new` ones looks.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F

from edgevlm.errors import UnsupportedError
from edgevlm.runtimes.mlprogram.ops.registry import Ints, Tensor, op

Sampling: TypeAlias = Literal["DEFAULT", "STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "OFFSET_CORNERS", "UNALIGN_CORNERS"]


def grid(old: float, new: int, mode: Sampling) -> Tensor:
    """Where the new pixels look, counted in old ones.

    Args:
        old: Pixels of the axis; of a box whose ends are the places a and b, b - a + 1.

    Returns:
        float64 [new], from 0 to old - 1.
    """
    i = torch.arange(new, dtype=torch.float64)
    if mode == "UNALIGN_CORNERS":
        points = (i + 0.5) * old / new - 0.5
    elif mode == "OFFSET_CORNERS":
        points = (i + 0.5) * max(1, old - 1) / new
    elif new == 1:
        points = torch.full((1,), (old - 1) / 2 if mode == "ALIGN_CORNERS" else 0.0, dtype=torch.float64)
    else:
        points = i * ((old - 1) if mode != "DEFAULT" else (old - old / new)) / (new - 1)
    return points.clamp(min(0.0, old - 1), max(0.0, old - 1))


def _interpolated(x: Tensor, axis: int, points: Tensor) -> Tensor:
    """Linearly between the two pixels beside each point."""
    lower = points.floor().long()
    upper = (lower + 1).clamp(max=x.shape[axis] - 1)
    share = (points - lower).to(x.dtype).reshape(-1, *[1] * (x.ndim - 1 - axis % x.ndim))
    return x.index_select(axis, lower) * (1 - share) + x.index_select(axis, upper) * share


def _picked(x: Tensor, axis: int, new: int, shift: float) -> Tensor:
    """Each new pixel is the old one below (place + shift) * old / new."""
    old = x.shape[axis]
    if new == old:
        return x
    places = (torch.arange(new, dtype=torch.float64) + shift) * old / new
    return x.index_select(axis, places.floor().long().clamp(max=old - 1))


def _nearest(x: Tensor, axis: int, new: int) -> Tensor:
    if new % x.shape[axis]:
        raise UnsupportedError(
            f"from {x.shape[axis]} pixels to {new}: MIL does not say which pixel is nearest for such a ratio"
        )
    return x.repeat_interleave(new // x.shape[axis], axis)


@op("resize_bilinear")
def resize_bilinear(
    x: Tensor, target_size_height: int = 1, target_size_width: int = 1, sampling_mode: Sampling = "DEFAULT"
) -> Tensor:
    for axis, size in ((-2, target_size_height), (-1, target_size_width)):
        x = _interpolated(x, axis, grid(x.shape[axis], size, sampling_mode))
    return x


@op("resize_nearest_neighbor")
def resize_nearest_neighbor(x: Tensor, target_size_height: int, target_size_width: int) -> Tensor:
    return _nearest(_nearest(x, -2, target_size_height), -1, target_size_width)


@op("resize")
def resize(
    x: Tensor,
    shape: Ints,
    resized_dims: int,
    interpolation_mode: Literal["LINEAR", "NEAREST_NEIGHBOR"] = "LINEAR",
    sampling_mode: Sampling = "DEFAULT",
) -> Tensor:
    for axis in range(-resized_dims, 0):
        size = shape[axis] or x.shape[axis]
        if interpolation_mode == "NEAREST_NEIGHBOR":
            if sampling_mode not in ("DEFAULT", "UNALIGN_CORNERS"):
                raise UnsupportedError(f"{sampling_mode} with the nearest pixel, which MIL does not define")
            x = _picked(x, axis, size, 0.5)  # half a pixel in, as coremltools' own test of 2 pixels to 3 has it
        else:
            x = _interpolated(x, axis, grid(x.shape[axis], size, sampling_mode))
    return x


@op("upsample_bilinear")
def upsample_bilinear(
    x: Tensor,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    if half_pixel_centers and align_corners:
        raise UnsupportedError("half_pixel_centers together with align_corners, which contradict each other")
    planes = x.reshape(1, -1, *x.shape[-2:])
    size = (math.floor(x.shape[-2] * scale_factor_height), math.floor(x.shape[-1] * scale_factor_width))
    if half_pixel_centers is False and not align_corners:
        return resize_bilinear(x, *size)
    # By size rather than by factor: MIL's grid is spaced by the ratio of the sizes, rounding included.
    return F.interpolate(planes, size, mode="bilinear", align_corners=align_corners).reshape(*x.shape[:-2], *size)


@op("upsample_nearest_neighbor")
def upsample_nearest_neighbor(x: Tensor, scale_factor_height: float = 1, scale_factor_width: float = 1) -> Tensor:
    # The pixel below, by the ratio of the sizes: what coremltools' own test of 3.17, 0.67 and 1.12 has.
    for axis, factor in ((-2, scale_factor_height), (-1, scale_factor_width)):
        x = _picked(x, axis, math.floor(x.shape[axis] * factor), 0.0)
    return x
