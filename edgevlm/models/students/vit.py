"""A small vision transformer (Dosovitskiy et al., 2021, arXiv 2010.11929) that pools the mean of its tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgevlm.models.layers import unit_norm
from edgevlm.models.students.blocks import build_blocks
from edgevlm.models.students.config import VitConfig


class ImageTower(nn.Module):
    """Pixels float32 [N, 3, S, S] in 0..255 -> unit vectors float32 [N, D]."""

    def __init__(self, config: VitConfig, embedding_dim: int) -> None:
        super().__init__()
        tokens = (config.image_size // config.patch_size) ** 2
        self.patch_embedding = nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size)
        self.positions = nn.Parameter(0.02 * torch.randn(1, tokens, config.width))
        self.blocks = build_blocks(config, config.width, config.blocks)
        self.norm = nn.LayerNorm(config.width)
        self.projection = nn.Linear(config.width, embedding_dim, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.patch_embedding(pixels * (1 / 127.5) - 1.0).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        return unit_norm(self.projection(self.norm(tokens.mean(1))))
