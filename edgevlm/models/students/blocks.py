"""The transformer block that all families and the text tower share."""

from __future__ import annotations

from torch import Tensor, nn

from edgevlm.models.layers import attend
from edgevlm.models.students.config import ImageTowerConfig, TextTowerConfig

_EXPANSION = 3


class Attention(nn.Module):
    """Multi-head self-attention, [N, T, C] -> [N, T, C], with heads of `size` channels each."""

    def __init__(self, width: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, heads * size)
        self.key = nn.Linear(width, heads * size)
        self.value = nn.Linear(width, heads * size)
        self.out = nn.Linear(heads * size, width)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        mixed = attend(self.query(tokens), self.key(tokens), self.value(tokens), self.heads, mask)
        return self.out(mixed)  # type: ignore[no-any-return]


class Block(nn.Module):
    """A pre-norm transformer block with a GELU MLP.

    Args:
        width: C, the channels of a token.
        heads: Attention heads.
        head_size: Channels of each.
        mlp: Channels of the MLP.
    """

    def __init__(self, width: int, heads: int, head_size: int, mlp: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, head_size)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, mlp), nn.GELU(), nn.Linear(mlp, width))

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        tokens = tokens + self.attention(self.attention_norm(tokens), mask)
        return tokens + self.mlp(self.mlp_norm(tokens))  # type: ignore[no-any-return]


def build_blocks(config: ImageTowerConfig | TextTowerConfig, width: int, count: int) -> nn.ModuleList:
    """A tower's transformer blocks: alike, with an MLP three times as wide, or of the sizes that pruning left.

    Args:
        config: The tower's.
        width: Channels of a token.
        count: Number of blocks.
    """
    heads = config.block_heads or (config.heads,) * count
    mlps = config.block_mlps or (_EXPANSION * width,) * count
    sizes = zip(heads, mlps, strict=True)
    return nn.ModuleList(Block(width, kept, width // config.heads, mlp) for kept, mlp in sizes)
