"""A convolution-attention hybrid for phones, after FastViT (Vasu et al., 2023, arXiv 2303.14189).

Early stages, where there are many places, mix them with depthwise convolutions and the channels with pointwise MLPs;
the last stage, where there are few, uses attention. ReLU follows convolutions, since every backend fuses it into them.
Attention needs no position embedding: the padded convolutions before it tell a place from another.
"""

from __future__ import annotations

from torch import Tensor, nn

from edgevlm.models.layers import unit_norm
from edgevlm.models.students.blocks import build_blocks
from edgevlm.models.students.config import HybridConfig
from edgevlm.models.students.reparameterised import RepConv

_EXPANSION = 3
_MIXER = 5


class ConvolutionBlock(nn.Module):
    """Depthwise token mixing, then a pointwise MLP of `mlp` channels, [N, C, H, W] -> [N, C, H, W]."""

    def __init__(self, width: int, mlp: int, copies: int) -> None:
        super().__init__()
        self.mixer = RepConv(width, width, _MIXER, groups=width, copies=copies, skip=True)
        self.mlp = nn.Sequential(
            RepConv(width, mlp, 1, identity=False), nn.ReLU(), RepConv(mlp, width, 1, identity=False)
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
        mlps = iter(config.convolution_mlps or _unpruned_mlps(config))
        for stage, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            if stage > 0:
                before = config.widths[stage - 1]
                layers += [
                    RepConv(before, before, 3, stride=2, groups=before, copies=copies),
                    RepConv(before, width, 1, identity=False),
                ]
            if stage < len(config.widths) - 1:
                layers += [ConvolutionBlock(width, next(mlps), copies) for _ in range(depth)]
        # What tells the last stage's tokens where they are: FastViT's conditional position encoding.
        layers.append(RepConv(last, last, _MIXER, groups=last, copies=copies, skip=True))
        self.convolutions = nn.Sequential(*layers)
        self.blocks = build_blocks(config, last, config.depths[-1])
        self.norm = nn.LayerNorm(last)
        self.projection = nn.Linear(last, embedding_dim, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.convolutions(pixels * (1 / 127.5) - 1.0).flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens)
        return unit_norm(self.projection(self.norm(tokens.mean(1))))


def _unpruned_mlps(config: HybridConfig) -> list[int]:
    stages = zip(config.widths[:-1], config.depths[:-1], strict=True)
    return [_EXPANSION * width for width, depth in stages for _ in range(depth)]
