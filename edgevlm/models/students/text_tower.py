"""A student's own text tower: CLIP's (Radford et al., 2021, arXiv 2103.00020) at a smaller size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgevlm.models.layers import causal_mask, unit_norm
from edgevlm.models.students.blocks import build_blocks
from edgevlm.models.students.config import TextTowerConfig


class TextTower(nn.Module):
    """Token ids int32 [N, T] -> unit vectors float32 [N, D]. T may be shorter than the context.

    Attention is causal, and a text's embedding is read where it first ends.

    Args:
        config: Its sizes.
        context_length: The largest T.
        eot_id: What ends a text, and may pad it.
        embedding_dim: D.
    """

    causal_mask: Tensor

    def __init__(self, config: TextTowerConfig, context_length: int, eot_id: int, embedding_dim: int) -> None:
        super().__init__()
        self.config = config
        self.eot_id = eot_id
        self.embedding = nn.Embedding(config.vocabulary_size, config.width)
        self.positions = nn.Parameter(0.02 * torch.randn(1, context_length, config.width))
        self.blocks = build_blocks(config, config.width, config.blocks)
        self.norm = nn.LayerNorm(config.width)
        self.projection = nn.Linear(config.width, embedding_dim, bias=False)
        self.register_buffer("causal_mask", causal_mask(context_length), persistent=False)

    def forward(self, token_ids: Tensor) -> Tensor:
        length = token_ids.shape[1]
        tokens = self.embedding(token_ids) + self.positions[:, :length]
        for block in self.blocks:
            tokens = block(tokens, self.causal_mask[..., :length, :length])
        # Padding is end-of-text too: the first one is the one that follows no other, and it sees all of the text.
        is_eot = (token_ids == self.eot_id).to(tokens.dtype)
        is_first = torch.cat([is_eot[:, :1], is_eot[:, 1:] * (1 - is_eot[:, :-1])], 1)
        pooled = (is_first.unsqueeze(1) @ self.norm(tokens)).squeeze(1)
        return unit_norm(self.projection(pooled))
