"""Convolution, pooling and resampling of [batch, channels, *spatial] tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F

from edgevlm.errors import UnsupportedError
from edgevlm.runtimes.mlprogram.ops.registry import Ints, Tensor, op

PadType = Literal["valid", "same", "custom", "same_lower"]


def _margins(pad_type: PadType, pad: Ints | None, sizes: Sequence[int], reach: Sequence[int], strides: Ints) -> Ints:
    """Elements added before and after each spatial axis: (before_0, after_0, before_1, ...).

    Args:
        sizes: Of the spatial axes.
        reach: Of the window along each axis, dilation included.
    """
    if pad_type == "valid":
        return (0,) * (2 * len(sizes))
    if pad_type == "custom":
        return pad if pad is not None else (0,) * (2 * len(sizes))
    margins: list[int] = []
    for size, extent, stride in zip(sizes, reach, strides, strict=True):
        total = max(0, (math.ceil(size / stride) - 1) * stride + extent - size)
        smaller, larger = total // 2, total - total // 2
        margins += [smaller, larger] if pad_type == "same" else [larger, smaller]
    return tuple(margins)


def _torch_order(margins: Ints) -> list[int]:
    """torch's `pad` counts axes from the last one."""
    pairs = zip(margins[::2], margins[1::2], strict=True)
    return [each for pair in reversed(list(pairs)) for each in pair]


@op("conv")
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Ints | None = None,
    pad_type: PadType = "valid",
    pad: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    spatial = x.ndim - 2
    strides = strides or (1,) * spatial
    dilations = dilations or (1,) * spatial
    reach = [(size - 1) * dilation + 1 for size, dilation in zip(weight.shape[2:], dilations, strict=True)]
    before, after = (_margins(pad_type, pad, x.shape[2:], reach, strides)[side::2] for side in (0, 1))
    if before != after:
        x = F.pad(x, _torch_order(tuple(each for pair in zip(before, after, strict=True) for each in pair)))
        before = (0,) * spatial
    function = (F.conv1d, F.conv2d, F.conv3d)[spatial - 1]
    return function(x, weight, bias, strides, before, dilations, groups)


@op("max_pool")
def max_pool(
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: PadType,
    strides: Ints | None = None,
    pad: Ints | None = None,
    ceil_mode: Literal[False] = False,
) -> Tensor:
    strides = strides or (1,) * len(kernel_sizes)
    margins = _margins(pad_type, pad, x.shape[2:], kernel_sizes, strides)
    function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(kernel_sizes) - 1]
    pooled: Tensor = function(F.pad(x, _torch_order(margins), value=-math.inf), kernel_sizes, strides)
    return pooled


@op("avg_pool")
def avg_pool(
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: PadType,
    strides: Ints | None = None,
    pad: Ints | None = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: Literal[False] = False,
) -> Tensor:
    strides = strides or (1,) * len(kernel_sizes)
    margins = _torch_order(_margins(pad_type, pad, x.shape[2:], kernel_sizes, strides))
    function = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(kernel_sizes) - 1]
    average = function(F.pad(x, margins), kernel_sizes, strides)
    if exclude_padding_from_average and any(margins):
        # The mean over a window of ones is the share of it that lies on the picture.
        average = average / function(F.pad(x.new_ones(1, 1, *x.shape[2:]), margins), kernel_sizes, strides)
    return average


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
