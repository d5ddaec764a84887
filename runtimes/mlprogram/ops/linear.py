"""Products of matrices, and attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from edgevlm.errors import BundleError, UnsupportedError
from edgevlm.runtimes.mlprogram.ops.registry import Stored, Tensor, Tensors, op

_ROWS = 256
"""How many rows of a weight are widened at once: as few as stay in a processor's cache."""


def _narrow(x: Tensor, weight: Stored, bias: Tensor | None = None) -> Tensor:
    """Of one row, such as a token's, which reads each weight once: torch sums products of halves in float32."""
    if weight.dtype != torch.half or x.numel() != x.shape[-1] or (bias is not None and bias.any()):
        return linear(x, weight, bias)
    return F.linear(x.half(), weight).float()


@op("linear", narrow=_narrow)
def linear(x: Tensor, weight: Stored, bias: Tensor | None = None) -> Tensor:
    if weight.dtype == torch.half and len(weight) > _ROWS:
        wide = x.new_empty(min(_ROWS, len(weight)), weight.shape[-1])
        parts = [F.linear(x, wide[: len(rows)].copy_(rows)) for rows in torch.split(weight, _ROWS)]
        product = torch.cat(parts, -1)
        return product if bias is None else product + bias
    # From iOS 17 on weights may be integers beside floating-point inputs.
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


@op("matmul")
def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    # MIL transposes matrices only: the flag has no effect on a vector.
    if transpose_x and x.ndim > 1:
        x = x.transpose(-1, -2)
    if transpose_y and y.ndim > 1:
        y = y.transpose(-1, -2)
    wider = torch.promote_types(x.dtype, y.dtype)  # from iOS 17 on one of the two may be an integer weight
    return x.to(wider) @ y.to(wider)


@op("einsum")
def einsum(values: Tensors, equation: str) -> Tensor:
    # MIL knows two equations, in any letters; both broadcast over dimensions of size 1, as torch does.
    inputs, _, result = equation.replace(" ", "").partition("->")
    letters = "".join(dict.fromkeys(inputs.replace(",", "")))
    canonical = f"{inputs}->{result}".translate(str.maketrans(letters, "abcdefghij"[: len(letters)]))
    if canonical not in ("abcd,adce->abce", "abc,cbd->abd"):
        raise UnsupportedError(
            f"einsum: expected an equation like 'nchw,nwhu->nchu' or 'chw,whr->chr', got {equation!r}"
        )
    return torch.einsum(equation, *values)


@op("scaled_dot_product_attention")
def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    if key.shape[-2:-1] != value.shape[-2:-1]:  # torch's kernels read as many values as there are keys
        raise BundleError(f"keys of {list(key.shape)} with values of {list(value.shape)}")
    # A row whose every key is masked is 0 in torch and NaN in MIL's formula; neither is an answer to rely on.
    return F.scaled_dot_product_attention(query, key, value, attn_mask)
