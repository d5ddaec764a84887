"""New keys and values written into a cache: an op of its own, since each backend has another quick way to do it.

A captured graph has the op `UPDATE`; whoever lowers it says in a table of decompositions what becomes of it, which
depends on how many rows a run has. One row, or as many as there are, can be written where they stand; of a fixed number
some may be padding, which has no place.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.library.custom_op("edgevlm::kv_cache_update", mutates_args=())
def update(state: Tensor, rows: Tensor, positions: Tensor, hot: Tensor, kept: Tensor) -> Tensor:
    """A cache float [1, H, S, D] with the rows float [H, T, D] in their slots, in memory of its own.

    >>> positions = torch.tensor([[1, -1]], dtype=torch.int32)
    >>> hot = (torch.arange(3) == positions[..., None]).float()
    >>> update(torch.zeros(1, 1, 3, 1), torch.ones(1, 2, 1), positions, hot, 1 - hot.sum(1)[..., None]).flatten()
    tensor([0., 1., 0.])

    Args:
        state: Keys or values of H heads in S slots.
        rows: New ones.
        positions: int32 [1, T], the slot of each row; -1 is padding, of which a run of one row has none.
        hot: float [1, T, S], 1 where a row is written: the same again, for `product`.
        kept: float [1, S, 1], 0 where a row is written.
    """
    places = positions.flatten()
    real = places >= 0
    written = state.clone()
    written[:, :, places[real].long()] = rows[:, real]
    return written


@update.register_fake
def _(state: Tensor, rows: Tensor, positions: Tensor, hot: Tensor, kept: Tensor) -> Tensor:
    return torch.empty_like(state)


UPDATE = torch.ops.edgevlm.kv_cache_update.default


def written_out(state: Tensor, rows: Tensor, positions: Tensor, hot: Tensor, kept: Tensor) -> Tensor:
    """`update` in core ATen's ops: `index_put`, which backends do in place, or `product` where rows may be padding."""
    if may_be_padded(rows):
        return product(state, rows, hot, kept)
    where = positions.flatten().long()
    result: Tensor = torch.ops.aten.index_put.default(state, [None, None, where], rows.unsqueeze(0))
    return result


def may_be_padded(rows: Tensor) -> bool:
    """Whether some of the rows [H, T, D] may be padding: if their number is neither free nor one."""
    count = rows.shape[1]
    return isinstance(count, int) and count > 1


def product(state: Tensor, rows: Tensor, hot: Tensor, kept: Tensor) -> Tensor:
    """`update` by a product with one-hot slots, in which a row may be 0 throughout and is not written then."""
    return (state.squeeze(0) * kept + hot.transpose(1, 2) @ rows).unsqueeze(0)
