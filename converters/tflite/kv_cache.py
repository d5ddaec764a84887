"""New keys and values written into a cache, in LiteRT's ops."""

from __future__ import annotations

from typing import Any

from litert_torch.generative.custom_ops.dynamic_update_slice import (  # type: ignore[import-untyped]
    dynamic_update_slice,
)
from torch import Tensor

from edgevlm.graphs import kv_cache


def written_out(state: Tensor, rows: Tensor, positions: Tensor, hot: Tensor, kept: Tensor) -> Any:
    """One row by DYNAMIC_UPDATE_SLICE, which copies nothing where a caller gives a cache's memory for the new one too.

    Several are a product: the op would move a run to the left that reaches beyond the last slot with its padding. It
    decomposes `edgevlm.graphs.kv_cache.update`.
    """
    if kv_cache.may_be_padded(rows):
        return kv_cache.product(state, rows, hot, kept)
    first = positions.new_zeros(())
    return dynamic_update_slice(state, rows.unsqueeze(0), [first, first, positions.flatten()[0], first])
