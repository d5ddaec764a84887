"""A convolutional stem and a few transformer blocks, which read a grid of tokens at once and so know what is where.

The built-in models' family: others pool their tokens, which is cheaper at high resolutions; this one projects all of
them side by side, which tells places apart.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgevlm.models.layers import unit_norm
from edgevlm.models.students.blocks import build_blocks
from edgevlm.models.students.config import GridConfig


class Residual(nn.Module):
    """A 3x3 convolution with BatchNorm and ReLU around which the input passes, [N, C, H, W] -> [N, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_convolution(channels, channels, stride=1))

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels + self.layers(pixels)  # type: ignore[no-any-return]


class ImageTower(nn.Module):
    """Pixels float32 [N, 3, S, S] in 0..255 -> unit vectors float32 [N, D]."""

    def __init__(self, config: GridConfig, embedding_dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in config.stem_channels:
            layers += [*_convolution(channels, width, stride=2), Residual(width)]
            channels = width
        self.stem = nn.Sequential(*layers, nn.Conv2d(channels, config.width, 1))
        tokens = (config.image_size // config.stride) ** 2
        self.positions = nn.Parameter(0.02 * torch.randn(1, tokens, config.width))
        self.blocks = build_blocks(config, config.width, config.blocks)
        self.norm = nn.LayerNorm(config.width)
        self.features = nn.Linear(config.width, config.token_features)
        self.projection = nn.Linear(tokens * config.token_features, embedding_dim, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.stem(pixels * (1 / 127.5) - 1.0).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        return unit_norm(self.projection(self.features(self.norm(tokens)).flatten(1)))


def _convolution(channels: int, width: int, *, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(width), nn.ReLU()]
