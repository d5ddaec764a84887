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


def _grid(old: int, new: int, mode: Sampling) -> Tensor:
    """float64 [new], 0..old - 1."""
    i = torch.arange(new, dtype=torch.float64)
    if mode == "UNALIGN_CORNERS":
        points = (i + 0.5) * old / new - 0.5
    elif mode == "OFFSET_CORNERS":
        points = (i + 0.5) * max(1, old - 1) / new
    elif new == 1:
        points = torch.full((1,), (old - 1) / 2 if mode == "ALIGN_CORNERS" else 0.0, dtype=torch.float64)
    else:
        points = i * ((old - 1) if mode != "DEFAULT" else (old - old / new)) / (new - 1)
    return points.clamp(0, old - 1)


def _interpolated(x: Tensor, axis: int, points: Tensor) -> Tensor:
    """Linearly between the two pixels beside each point."""
    lower = points.floor().long()
    upper = (lower + 1).clamp(max=x.shape[axis] - 1)
    share = (points - lower).to(x.dtype).reshape(-1, *[1] * (x.ndim - 1 - axis % x.ndim))
    return x.index_select(axis, lower) * (1 - share) + x.index_select(axis, upper) * share


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
        x = _interpolated(x, axis, _grid(x.shape[axis], size, sampling_mode))
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
            x = _nearest(x, axis, size)
        else:
            x = _interpolated(x, axis, _grid(x.shape[axis], size, sampling_mode))
    return x


@op("upsample_bilinear")
def upsample_bilinear(
    x: Tensor,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    if half_pixel_centers is not None and half_pixel_centers == align_corners:
        raise UnsupportedError(f"half_pixel_centers={half_pixel_centers} together with align_corners={align_corners}")
    planes = x.reshape(1, -1, *x.shape[-2:])
    size = (math.floor(x.shape[-2] * scale_factor_height), math.floor(x.shape[-1] * scale_factor_width))
    # By size rather than by factor: MIL's grid is spaced by the ratio of the sizes, rounding included.
    return F.interpolate(planes, size, mode="bilinear", align_corners=align_corners).reshape(*x.shape[:-2], *size)


@op("upsample_nearest_neighbor")
def upsample_nearest_neighbor(x: Tensor, scale_factor_height: float = 1, scale_factor_width: float = 1) -> Tensor:
    if scale_factor_height % 1 or scale_factor_width % 1:
        raise UnsupportedError(
            f"scale factors {scale_factor_height}, {scale_factor_width}: MIL does not say which pixel is nearest "
            "for fractional ones"
        )
    return x.repeat_interleave(int(scale_factor_height), -2).repeat_interleave(int(scale_factor_width), -1)
