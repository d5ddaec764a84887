"""The built-in student's architecture: a small dual encoder with a convolutional stem and few tokens.

The image tower turns 64x64 pixels into an 8x8 grid of tokens by convolutions, mixes them with a few transformer
blocks, and reads the whole grid at once, so that it knows what is where; the text tower is CLIP's (Radford et al.,
2021) at a smaller size: causal attention, pooled at the end-of-text token. Both end in a linear projection and an
L2 norm.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgevlm.models.layers import attend, causal_mask, unit_norm


@dataclass(frozen=True)
class StudentConfig:
    """Sizes of the student; the defaults are the shipped one's (2.8 M parameters)."""

    image_size: int = 64
    stem_channels: tuple[int, ...] = (32, 64, 128)
    image_width: int = 192
    image_blocks: int = 2
    token_features: int = 24
    text_width: int = 192
    text_blocks: int = 3
    heads: int = 4
    context_length: int = 48
    vocabulary_size: int = 1024
    eot_id: int = 1
    embedding_dim: int = 192


class Attention(nn.Module):
    """Multi-head self-attention, [N, T, C] -> [N, T, C]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        mixed = attend(self.query(tokens), self.key(tokens), self.value(tokens), self.heads, mask)
        return self.out(mixed)  # type: ignore[no-any-return]


class Block(nn.Module):
    """A pre-norm transformer block with a GELU MLP three times as wide."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        tokens = tokens + self.attention(self.attention_norm(tokens), mask)
        return tokens + self.mlp(self.mlp_norm(tokens))  # type: ignore[no-any-return]


class Residual(nn.Module):
    """A 3x3 convolution with BatchNorm and ReLU around which the input passes, [N, C, H, W] -> [N, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_convolution(channels, channels, stride=1))

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels + self.layers(pixels)  # type: ignore[no-any-return]


class ImageTower(nn.Module):
    """Pixels float32 [N, 3, 64, 64] in 0..255 -> unit-norm embeddings float32 [N, D]."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in config.stem_channels:
            layers += [*_convolution(channels, width, stride=2), Residual(width)]
            channels = width
        self.stem = nn.Sequential(*layers, nn.Conv2d(channels, config.image_width, 1))
        tokens = (config.image_size // 2 ** len(config.stem_channels)) ** 2
        self.positions = nn.Parameter(0.02 * torch.randn(1, tokens, config.image_width))
        self.blocks = nn.ModuleList(Block(config.image_width, config.heads) for _ in range(config.image_blocks))
        self.norm = nn.LayerNorm(config.image_width)
        self.features = nn.Linear(config.image_width, config.token_features)
        self.projection = nn.Linear(tokens * config.token_features, config.embedding_dim, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.stem(pixels * (1 / 127.5) - 1.0).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        return unit_norm(self.projection(self.features(self.norm(tokens)).flatten(1)))


class TextTower(nn.Module):
    """Token ids int32 [N, T] -> unit-norm embeddings float32 [N, D]. T may be shorter than the context."""

    causal_mask: Tensor

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        length = config.context_length
        self.eot_id = config.eot_id
        self.embedding = nn.Embedding(config.vocabulary_size, config.text_width)
        self.positions = nn.Parameter(0.02 * torch.randn(1, length, config.text_width))
        self.blocks = nn.ModuleList(Block(config.text_width, config.heads) for _ in range(config.text_blocks))
        self.norm = nn.LayerNorm(config.text_width)
        self.projection = nn.Linear(config.text_width, config.embedding_dim, bias=False)
        self.register_buffer("causal_mask", causal_mask(length), persistent=False)

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


class Student(nn.Module):
    """Both towers and the temperature. The similarity of a picture and a text is `scale * image @ text`."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        self.image = ImageTower(config)
        self.text = TextTower(config)
        self.log_scale = nn.Parameter(torch.tensor(2.6592600))  # log(1 / 0.07), as CLIP starts


def _convolution(channels: int, width: int, *, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(width), nn.ReLU()]
