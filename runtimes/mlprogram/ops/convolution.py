"""Convolution and pooling of [batch, channels, *spatial] tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F

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


@op("conv_transpose")
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Ints | None = None,
    output_shape: Ints | None = None,
    pad_type: Literal["valid", "same", "custom"] = "valid",
    strides: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    spatial = x.ndim - 2
    strides = strides or (1,) * spatial
    dilations = dilations or (1,) * spatial
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[spatial - 1]
    whole: Tensor = function(x, weight, None, strides, 0, 0, groups, dilations)
    sizes = output_shape[2:] if output_shape else None
    for axis in range(spatial):
        full, start = whole.shape[axis + 2], 0
        if pad_type == "same":
            size = x.shape[axis + 2] * strides[axis]
            start = max(0, full - size) // 2
        else:
            before, after = pad[2 * axis : 2 * axis + 2] if pad and pad_type == "custom" else (0, 0)
            start, size = before, full - before - after
        whole = _window(whole, axis + 2, start, sizes[axis] if sizes else size)
    return whole if bias is None else whole + bias.reshape(-1, *[1] * spatial)


def _window(x: Tensor, axis: int, start: int, size: int) -> Tensor:
    """`size` elements from `start` on; what lies beyond the end is zero."""
    beyond = max(0, start + size - x.shape[axis])
    x = F.pad(x, [0, 0] * (x.ndim - 1 - axis) + [0, beyond])
    return x.narrow(axis, start, size)


def _pool_margins(
    pad_type: PadType, pad: Ints | None, sizes: Sequence[int], kernel: Ints, strides: Ints, ceil_mode: bool
) -> tuple[Ints, Ints]:
    """The padding that is asked for, and with it what a last window needs that begins inside and ends beyond."""
    margins = _margins(pad_type, pad, sizes, kernel, strides)
    if not ceil_mode:
        return margins, margins
    wider = list(margins)
    for axis, (size, reach, stride) in enumerate(zip(sizes, kernel, strides, strict=True)):
        before, after = margins[2 * axis : 2 * axis + 2]
        windows = -(-(size + before + after - reach) // stride) + 1
        if (windows - 1) * stride >= size + before and before + after > 0:
            windows -= 1
        wider[2 * axis + 1] += max(0, (windows - 1) * stride + reach - (size + before + after))
    return margins, tuple(wider)


@op("l2_pool")
def l2_pool(
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: PadType,
    strides: Ints | None = None,
    pad: Ints | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    strides = strides or (1,) * len(kernel_sizes)
    _, wider = _pool_margins(pad_type, pad, x.shape[2:], kernel_sizes, strides, ceil_mode)
    function = (F.avg_pool1d, F.avg_pool2d)[len(kernel_sizes) - 1]
    mean = function(F.pad(x.square(), _torch_order(wider)), kernel_sizes, strides)
    return (mean * math.prod(kernel_sizes)).sqrt()


@op("max_pool")
def max_pool(
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: PadType,
    strides: Ints | None = None,
    pad: Ints | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    strides = strides or (1,) * len(kernel_sizes)
    _, wider = _pool_margins(pad_type, pad, x.shape[2:], kernel_sizes, strides, ceil_mode)
    function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(kernel_sizes) - 1]
    pooled: Tensor = function(F.pad(x, _torch_order(wider), value=-math.inf), kernel_sizes, strides)
    return pooled


@op("avg_pool")
def avg_pool(
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: PadType,
    strides: Ints | None = None,
    pad: Ints | None = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Tensor:
    strides = strides or (1,) * len(kernel_sizes)
    margins, wider = _pool_margins(pad_type, pad, x.shape[2:], kernel_sizes, strides, ceil_mode)
    function = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(kernel_sizes) - 1]
    average = function(F.pad(x, _torch_order(wider)), kernel_sizes, strides)
    counted = (0,) * len(margins) if exclude_padding_from_average else margins
    if counted != wider:
        # The mean over a window of ones is the share of it that counts.
        ones = F.pad(x.new_ones(1, 1, *x.shape[2:]), _torch_order(counted), value=1.0)
        rest = tuple(all_ - own for all_, own in zip(wider, counted, strict=True))
        average = average / function(F.pad(ones, _torch_order(rest)), kernel_sizes, strides)
    return average
