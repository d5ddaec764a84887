"""A convolution-attention hybrid for phones, after FastViT (Vasu et al., 2023, arXiv 2303.14189).

Early stages, where there are many places, mix them with depthwise convolutions and the channels with pointwise MLPs;
the last stage, where there are few, uses attention. ReLU follows convolutions, since every backend fuses it into them.
Attention needs no position embedding: the padded convolutions before it tell a place from another.
"""

from __future__ import annotations

from torch import Tensor, nn

from edgevlm.models.layers import unit_norm
from edgevlm.models.students.blocks import Block
from edgevlm.models.students.config import HybridConfig
from edgevlm.models.students.reparameterised import RepConv

_EXPANSION = 3
_MIXER = 5


class ConvolutionBlock(nn.Module):
    """Depthwise token mixing, then a pointwise MLP, [N, C, H, W] -> [N, C, H, W]."""

    def __init__(self, width: int, copies: int) -> None:
        super().__init__()
        self.mixer = RepConv(width, width, _MIXER, groups=width, copies=copies, skip=True)
        self.mlp = nn.Sequential(
            RepConv(width, _EXPANSION * width, 1), nn.ReLU(), RepConv(_EXPANSION * width, width, 1)
        )

    def forward(self, maps: Tensor) -> Tensor:
        mixed: Tensor = self.mixer(maps)
        return mixed + self.mlp(mixed)  # type: ignore[no-any-return]


class ImageTower(nn.Module):
    """Pixels float32 [N, 3, S, S] in 0..255 -> unit vectors float32 [N, D]."""

    def __init__(self, config: HybridConfig, embedding_dim: int) -> None:
        super().__init__()
        first, last, copies = config.widths[0], config.widths[-1], config.copies
        layers: list[nn.Module] = [
            RepConv(3, first, 3, stride=2, copies=copies),
            nn.ReLU(),
            RepConv(first, first, 3, stride=2, groups=first, copies=copies),
            nn.ReLU(),
            RepConv(first, first, 1),
            nn.ReLU(),
        ]
        for stage, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            if stage > 0:
                before = config.widths[stage - 1]
                layers += [
                    RepConv(before, before, 3, stride=2, groups=before, copies=copies),
                    RepConv(before, width, 1),
                ]
            if stage < len(config.widths) - 1:
                layers += [ConvolutionBlock(width, copies) for _ in range(depth)]
        # What tells the last stage's tokens where they are: FastViT's conditional position encoding.
        layers.append(RepConv(last, last, _MIXER, groups=last, copies=copies, skip=True))
        self.convolutions = nn.Sequential(*layers)
        self.blocks = nn.ModuleList(Block(last, config.heads) for _ in range(config.depths[-1]))
        self.norm = nn.LayerNorm(last)
        self.projection = nn.Linear(last, embedding_dim, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.convolutions(pixels * (1 / 127.5) - 1.0).flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens)
        return unit_norm(self.projection(self.norm(tokens.mean(1))))
