"""Compressed weights: `constexpr_` ops, which run once, when the program is opened."""

from __future__ import annotations

import math
from typing import Literal

import torch

from edgevlm.errors import BundleError
from edgevlm.runtimes.mlprogram.dtypes import BY_NAME, DType, decode
from edgevlm.runtimes.mlprogram.ops.quantisation import along
from edgevlm.runtimes.mlprogram.ops.registry import Ints, Tensor, Tensors, op


@op("constexpr_affine_dequantize")
def constexpr_affine_dequantize(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: int) -> Tensor:
    rank = quantized_data.ndim
    shifted = quantized_data.float() - along(zero_point.float(), axis, rank)
    return shifted * along(scale, axis, rank)


def _per_element(parameter: Tensor, sizes: torch.Size) -> Tensor:
    """Repeats a parameter that has one entry a block until it has one an element."""
    for axis, size in enumerate(sizes):
        parameter = parameter.repeat_interleave(size // parameter.shape[axis], axis)
    return parameter


@op("constexpr_blockwise_shift_scale")
def constexpr_blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    values = data.float()
    if offset is not None:
        values = values - _per_element(offset.float(), data.shape)
    return values * _per_element(scale, data.shape)


@op("constexpr_sparse_blockwise_shift_scale")
def constexpr_sparse_blockwise_shift_scale(
    data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> Tensors:
    mask = data_mask.bool()
    values = nonzero_data.float()
    if offset is not None:
        values = values - _per_element(offset.float(), mask.shape)[mask]
    return data_mask, values * _per_element(scale, mask.shape)[mask]


def _unpack(packed: Tensor, dtype: DType, sizes: Ints) -> Tensor:
    return torch.from_numpy(decode(packed.numpy(), dtype, math.prod(sizes)).reshape(sizes))


@op("constexpr_lut_to_dense")
def constexpr_lut_to_dense(
    indices: Tensor, lut: Tensor, shape: Ints | None = None, vector_axis: int | None = None
) -> Tensor:
    if shape is not None:  # iOS 16 and 17: one flat table, and indices packed into bytes
        bits = (lut.numel() - 1).bit_length()
        if f"uint{bits}" not in BY_NAME:
            raise BundleError(f"a table of {lut.numel()} entries: expected 2, 4, 8, 16, 64 or 256")
        return lut[_unpack(indices, BY_NAME[f"uint{bits}"], shape).long()]
    # iOS 18: tables [*groups, entries, vector], and indices with the shape of the weight, but for vectors
    entries, length = lut.shape[-2:]
    table = torch.arange(lut[..., 0, 0].numel()).reshape(lut.shape[:-2])
    dense = lut.reshape(-1, entries, length)[_per_element(table, indices.shape), indices.long()]
    axis = (-1 if vector_axis is None else vector_axis) % indices.ndim
    return dense.movedim(-1, axis + 1).flatten(axis, axis + 1)


@op("constexpr_lut_to_sparse")
def constexpr_lut_to_sparse(
    indices_mask: Tensor, indices_nonzero_data: Tensor, lut: Tensor, vector_axis: int | None = None
) -> Tensors:
    mask = indices_mask.bool()
    indices = torch.zeros(mask.shape, dtype=indices_nonzero_data.dtype).masked_scatter(mask, indices_nonzero_data)
    dense = constexpr_lut_to_dense(indices, lut, vector_axis=vector_axis)
    if lut.shape[-1] > 1:
        mask = mask.repeat_interleave(lut.shape[-1], -1 if vector_axis is None else vector_axis)
    return mask.to(indices_mask.dtype), dense[mask]


@op("constexpr_cast")
def constexpr_cast(source_val: Tensor, output_dtype: Literal["fp32"]) -> Tensor:
    return source_val


@op("constexpr_sparse_to_dense")
def constexpr_sparse_to_dense(nonzero_data: Tensor, mask: Tensor, shape: Ints | None = None) -> Tensor:
    if shape is not None:  # iOS 16 and 17: the mask is packed into bytes
        mask = _unpack(mask, BY_NAME["uint1"], shape)
    return torch.zeros(mask.shape, dtype=nonzero_data.dtype).masked_scatter(mask.bool(), nonzero_data)
