"""Attention in ops that every backend has."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Attention in three products; torch's own decomposition guards against fully masked rows op by op.

    For a table of decompositions, with the arguments of torch.nn.functional.scaled_dot_product_attention.

    Returns:
        float [..., T, V]; NotImplemented where it is not deterministic, or heads share keys.
    """
    if enable_gqa or dropout_p:
        return NotImplemented
    scores = torch.matmul(query * (scale or 1 / math.sqrt(query.shape[-1])), key.transpose(-1, -2))
    if is_causal:
        scores = scores + torch.full(scores.shape[-2:], -math.inf, dtype=scores.dtype).triu(1)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return torch.matmul(torch.softmax(scores, -1), value)
