"""A transformer's parts, written so that every backend lowers them whole and float16 does not overflow.

The parts hold the checkpoint's own linears, norms and MLPs; what is written anew is what transformers' version
leaves in an exported graph that some backend carries badly: fused attention, masks of `finfo.min`, `argmax`,
dtype assertions and dropout.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

MASKED = -1e4
"""Added to the score of a key that may not be seen. Softmax gives it exactly 0 as long as scores differ by less
than about 9,900. `finfo.min`, transformers' choice, is infinite in float16, and a score added to it NaN."""


class PixelNormalisation(nn.Module):
    """Pixels in 0..255, [N, 3, H, W] -> `(pixels * rescale - mean) / std` as one product and one sum a channel."""

    scale: Tensor
    shift: Tensor

    def __init__(self, rescale: float, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        spread = torch.tensor(std, dtype=torch.float64).reshape(1, 3, 1, 1)
        centre = torch.tensor(mean, dtype=torch.float64).reshape(1, 3, 1, 1)
        self.register_buffer("scale", (rescale / spread).float())
        self.register_buffer("shift", (-centre / spread).float())

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels * self.scale + self.shift


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al., 2017) as plain matrix products.

    Args:
        attention: transformers' `CLIPAttention` or `SiglipAttention`, whose projections are taken.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads: int = attention.num_heads
        self.query: nn.Linear = attention.q_proj
        self.key: nn.Linear = attention.k_proj
        self.value: nn.Linear = attention.v_proj
        self.out: nn.Linear = attention.out_proj

    def forward(self, queried: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """`queried` [N, Q, C] looks at `tokens` [N, T, C] -> [N, Q, C]. `mask`: see `attend`."""
        mixed = attend(self.query(queried), self.key(tokens), self.value(tokens), self.heads, mask)
        return self.out(mixed)  # type: ignore[no-any-return]


class Block(nn.Module):
    """A pre-norm transformer block.

    Args:
        layer: transformers' `CLIPEncoderLayer` or `SiglipEncoderLayer`, whose weights are taken.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.attention_norm: nn.LayerNorm = layer.layer_norm1
        self.attention = Attention(layer.self_attn)
        self.mlp_norm: nn.LayerNorm = layer.layer_norm2
        self.mlp: nn.Module = layer.mlp

    def forward(self, tokens: Tensor, mask: Tensor | None = None, queried: Tensor | None = None) -> Tensor:
        """[N, T, C] -> [N, T, C]; or [N, Q, C] for those rows of `tokens` that are given as `queried`.

        The last block of a tower that pools one token is asked for that token alone: the others' queries and MLPs
        are the most part of its work, and nobody reads them.
        """
        normed = self.attention_norm(tokens)
        asking = normed if queried is None else self.attention_norm(queried)
        tokens = (tokens if queried is None else queried) + self.attention(asking, normed, mask)
        return tokens + self.mlp(self.mlp_norm(tokens))  # type: ignore[no-any-return]


class EndOfText(nn.Module):
    """Finds where CLIP pools: token ids int32 [1, L] -> a one-hot row, float32 [1, 1, L].

    The place is the first one that holds `eot_id`, or place 0 where none does; with `eot_id` None it is the first
    one that holds the row's highest id: both are what transformers' `CLIPTextModel` does, without its `argmax`, which
    a Neural Engine has been seen to answer wrongly in float16. Ids are compared as integers, since float16 holds
    whole numbers only up to 2,048. The rest is sums of zeros and ones, exact in any precision.
    """

    earlier: Tensor
    place_0: Tensor

    def __init__(self, eot_id: int | None, context_length: int) -> None:
        super().__init__()
        self.eot_id = eot_id
        self.register_buffer("earlier", torch.ones(context_length, context_length).triu(1))
        self.register_buffer("place_0", torch.eye(1, context_length))

    def forward(self, token_ids: Tensor) -> Tensor:
        wanted = token_ids.amax(-1, keepdim=True) if self.eot_id is None else self.eot_id
        matches = (token_ids == wanted).to(self.earlier.dtype)
        first = matches * torch.relu(1 - matches @ self.earlier)
        if self.eot_id is not None:
            first = first + self.place_0 * torch.relu(1 - matches.sum(-1, keepdim=True))
        return first.unsqueeze(1)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """softmax(query @ key / sqrt(C / heads) + mask) @ value, head by head.

    The query is scaled rather than the scores: fewer products, and scores that stay small in float16. Heads are rows of
    a batch, so that scores and mask have three axes each: LiteRT's GPU delegate adds a mask of four axes to products of
    three, into which the converter turns those of four, wrongly and in silence (LiteRT issue 8980).

    Args:
        query: [N, Q, C]
        key, value: [N, T, C]
        mask: [1, Q, T], added to the scores of every head.

    Returns:
        [N, Q, C]
    """
    batch, rows, width = query.shape
    size = width // heads
    query, key, value = (
        tensor.reshape(len(tensor), -1, heads, size).transpose(1, 2).flatten(0, 1)
        for tensor in (query * size**-0.5, key, value)
    )
    scores = query @ key.transpose(1, 2)
    weights = (scores if mask is None else scores + mask).softmax(-1)
    return (weights @ value).reshape(batch, heads, rows, size).transpose(1, 2).reshape(batch, rows, width)


def causal_mask(length: int) -> Tensor:
    """float32 [1, length, length]: 0 where a row may see a column, `MASKED` where that lies in its future."""
    return torch.full((1, length, length), MASKED).triu(1)


def unit_norm(vectors: Tensor) -> Tensor:
    """[N, D] -> [N, D] of length one.

    Divided by the largest entry first: the square of a length above 256 overflows float16, and so do CLIP's; after
    it the sum of squares lies in 1..D. A row of zeros gives NaN, as in transformers. Multiplied by rsqrt: divided by
    sqrt, the converter to TFLite makes one op of it that LiteRT's GPU delegate leaves to the CPU.
    """
    vectors = vectors / vectors.abs().amax(-1, keepdim=True)
    return vectors * (vectors * vectors).sum(-1, keepdim=True).rsqrt()
