"""Activations as integers: `quantize` and `dequantize`, which run with the program (iOS 17)."""

from __future__ import annotations

from typing import Literal

import torch

from edgevlm.runtimes.mlprogram.ops.registry import CARRIERS, Real, Tensor, op


def along(parameter: Tensor, axis: int | None, rank: int) -> Tensor:
    """A scalar as it is; a vector shaped to broadcast along one axis."""
    if parameter.ndim == 0 or axis is None:
        return parameter
    return parameter.reshape([-1 if i == axis % rank else 1 for i in range(rank)])


@op("quantize")
def quantize(
    input: Real,
    scale: Tensor,
    output_dtype: Literal["int8", "uint8"],
    zero_point: Tensor | None = None,
    axis: int | None = None,
) -> Tensor:
    # MIL says "round"; ties go to even, as in coremltools' own value inference. What Apple's runtime does is not known.
    values = torch.round(input / along(scale, axis, input.ndim))
    if zero_point is not None:
        values = values + along(zero_point.float(), axis, input.ndim)
    bounds = torch.iinfo(CARRIERS[output_dtype])
    return values.clamp(bounds.min, bounds.max).to(CARRIERS[output_dtype])


@op("dequantize")
def dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: int | None = None) -> Tensor:
    values = input.float()
    if zero_point is not None:
        values = values - along(zero_point.float(), axis, input.ndim)
    return values * along(scale, axis, input.ndim)
