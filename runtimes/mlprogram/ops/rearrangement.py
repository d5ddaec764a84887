"""Ops that move elements between axes: pixels and depth, blocks and batch, windows, reversals."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from edgevlm.runtimes.mlprogram.ops.registry import Ints, Tensor, op


@op("pixel_shuffle", moves=True)
def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    return F.pixel_shuffle(x, upscale_factor)


@op("pixel_unshuffle", moves=True)
def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    return F.pixel_unshuffle(x, downscale_factor)


@op("depth_to_space", moves=True)
def depth_to_space(x: Tensor, block_size: int) -> Tensor:
    # As TensorFlow has it: the place in the block comes before the channel, which `pixel_shuffle` has the other way.
    n, c, h, w = x.shape
    blocks = x.reshape(n, block_size, block_size, c // block_size**2, h, w)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(n, c // block_size**2, h * block_size, w * block_size)


@op("space_to_depth", moves=True)
def space_to_depth(x: Tensor, block_size: int) -> Tensor:
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // block_size, block_size, w // block_size, block_size)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(n, c * block_size**2, h // block_size, w // block_size)


@op("space_to_batch")
def space_to_batch(x: Tensor, block_shape: Ints, paddings: Ints) -> Tensor:
    top, bottom, left, right = paddings
    x = F.pad(x, (left, right, top, bottom))
    (n, c, h, w), (rows, columns) = x.shape, block_shape
    blocks = x.reshape(n, c, h // rows, rows, w // columns, columns)
    return blocks.permute(3, 5, 0, 1, 2, 4).reshape(n * rows * columns, c, h // rows, w // columns)


@op("batch_to_space")
def batch_to_space(x: Tensor, block_shape: Ints, crops: Ints) -> Tensor:
    (n, c, h, w), (rows, columns) = x.shape, block_shape
    blocks = x.reshape(rows, columns, n // (rows * columns), c, h, w)
    whole = blocks.permute(2, 3, 4, 0, 5, 1).reshape(n // (rows * columns), c, h * rows, w * columns)
    top, bottom, left, right = crops
    return whole[..., top : h * rows - bottom, left : w * columns - right]


@op("sliding_windows")
def sliding_windows(x: Tensor, axis: int, size: int, stride: int = 1) -> Tensor:
    axis %= x.ndim
    return x.unfold(axis, size, stride).movedim(-1, axis + 1)


@op("reverse", moves=True)
def reverse(x: Tensor, axes: Ints | None = None) -> Tensor:
    return x.flip(tuple(range(x.ndim)) if axes is None else axes)


@op("reverse_sequence")
def reverse_sequence(x: Tensor, lengths: Tensor, seq_axis: int = 0, batch_axis: int = 0) -> Tensor:
    places = torch.arange(x.shape[seq_axis]).expand(len(lengths), -1)
    ends = lengths.long()[:, None]
    source = torch.where(places < ends, ends - 1 - places, places)  # [batch, sequence]
    moved = x.movedim((batch_axis, seq_axis), (0, 1))
    picked = moved[torch.arange(len(lengths))[:, None], source]
    return picked.movedim((0, 1), (batch_axis, seq_axis))


@op("crop")
def crop(x: Tensor, crop_height: Ints, crop_width: Ints) -> Tensor:
    height, width = x.shape[-2:]
    return x[..., crop_height[0] : height - crop_height[1], crop_width[0] : width - crop_width[1]]
