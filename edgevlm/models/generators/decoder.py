"""A causal decoder of Llama's kind, written so that every backend lowers it whole and float16 does not overflow.

It is a pure function of its state: keys and values come in, and go out with the new positions written. So each backend
keeps them its own way, and one at length 1 and one at length 128 are the same module. What is written anew, against
transformers' version:

    positions   a row says where it stands; one that stands at -1 is padding, writes nothing and is answered for nobody
    cache       rows are written by an op of their own, of which each backend makes its quickest
    rotation    angles are computed once for all positions, in float32: in float16 those of 1,000 are off by 0.3
    norms       RMSNorm divides by the largest magnitude first: the square of a value beyond 256 overflows float16
    heads       query heads that share a key are rows of one product, so that keys and values are read once
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgevlm.bundle.spec import TensorSpec
from edgevlm.errors import CheckpointError
from edgevlm.graphs import kv_cache
from edgevlm.models.generators.parts import check_context, keys_and_values
from edgevlm.models.layers import MASKED

_ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn")
"""Rotations whose angles depend on the position alone: `dynamic` is the default one in a context that was trained."""
_ROPE_KEYS = frozenset((
    *("rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings", "attention_factor"),
    *("beta_fast", "beta_slow", "low_freq_factor", "high_freq_factor", "mscale", "mscale_all_dim", "truncate"),
))  # fmt: skip
"""The tables are made by transformers' own class, which reads these."""


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich, 2019, arXiv 1910.07467), [..., W] -> [..., W].

    Args:
        norm: transformers' `LlamaRMSNorm` or one of its kin, whose weight is taken; of Gemma's, one more.
    """

    def __init__(self, norm: Any) -> None:
        super().__init__()
        of_gemma = not hasattr(norm, "variance_epsilon")
        self.weight: nn.Parameter = (
            nn.Parameter(1 + norm.weight.detach(), requires_grad=False) if of_gemma else norm.weight
        )
        self.eps: float = norm.eps if of_gemma else norm.variance_epsilon

    def forward(self, rows: Tensor) -> Tensor:
        largest = rows.abs().amax(-1, keepdim=True).clamp(min=1)
        rows = rows / largest
        return rows * ((rows * rows).mean(-1, keepdim=True) + self.eps / (largest * largest)).rsqrt() * self.weight


def half_safe_norm(norm: Any) -> nn.Module:
    """transformers' own norm, or none, as it is; but RMSNorm, which overflows float16 there."""
    return norm if isinstance(norm, nn.LayerNorm | nn.Identity) else RMSNorm(norm)


class Slots:
    """Which of a state's S slots the rows of one run are written into, and which they see.

    Args:
        hot: [1, T, S], 1 where a row is written; it may be that none is.
        mask: [1, T or 1, S], added to scores.
    """

    def __init__(self, hot: Tensor, mask: Tensor) -> None:
        self.hot, self.mask = hot, mask
        self.kept = 1 - hot.sum(1).unsqueeze(-1)
        """[1, S, 1]: 0 for slots that are written."""

    def write(self, state: Tensor, rows: Tensor) -> Tensor:
        """A state [1, H, S, D] with the rows [H, T, D] in their slots."""
        return kv_cache.product(state, rows, self.hot, self.kept)


class Places(Slots):
    """Where the rows of one run stand in a state of S slots, in the forms that every layer needs.

    Args:
        positions: int32 [1, T]; -1 is padding.
        slots: int32 [S], 0 to S - 1.
        groups: Query heads that share a key.
        prefix: Whether the rows of a run that begins a dialogue all see each other.
    """

    def __init__(self, positions: Tensor, slots: Tensor, groups: int, *, prefix: bool = False) -> None:
        self.positions, column = positions, positions.unsqueeze(-1)
        last = positions.amax(-1, keepdim=True)
        seen = column
        if prefix:
            begins = (positions[:, :1] == 0).to(positions.dtype)
            seen = (positions + begins * (last - positions)).unsqueeze(-1)
        self.looked_up = positions.clamp(min=0)
        """int32 [1, T], indices into a table of positions; those of padding are of no matter."""
        super().__init__((slots == column).float(), ((slots > seen).float() * MASKED).repeat(1, groups, 1))
        self.newest = (positions == last).float().unsqueeze(1)
        """[1, 1, T]: picks the last row."""

    def write(self, state: Tensor, rows: Tensor) -> Tensor:
        """See `Slots.write`: all rows are written that are no padding."""
        written: Tensor = kv_cache.update(state, rows, self.positions, self.hot, self.kept)
        return written


class Rotation(nn.Module):
    """Rotary positions (Su et al., 2021, arXiv 2104.09864) from tables.

    Args:
        rotary: transformers' `LlamaRotaryEmbedding` or one of its kin.
        context_length: How many positions there are.
    """

    cos: Tensor
    sin: Tensor
    turn: Tensor

    def __init__(self, rotary: Any, context_length: int) -> None:
        super().__init__()
        with torch.no_grad():
            cos, sin = rotary(torch.zeros(1), torch.arange(context_length)[None])
        self.register_buffer("cos", cos[0].float())
        self.register_buffer("sin", sin[0].float())
        self.register_buffer("turn", quarter_turn(cos.shape[-1]))

    def forward(self, places: Places) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the rows' angles, [1, T, D] each."""
        look_up = nn.functional.embedding
        return look_up(places.looked_up, self.cos), look_up(places.looked_up, self.sin)

    def rotate(self, heads: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """Queries or keys [H, T, D], turned by the angles of their positions."""
        cos, sin = angles
        return heads * cos + (heads @ self.turn) * sin


def quarter_turn(size: int) -> Tensor:
    """[D, D]: heads [..., D] times it are `rotate_half` of them, the second half before the first, with its sign."""
    half = torch.eye(size // 2)
    nothing = torch.zeros_like(half)
    return torch.cat([torch.cat([nothing, half], 1), torch.cat([-half, nothing], 1)])


class Attention(nn.Module):
    """Causal attention with grouped queries (Ainslie et al., 2023, arXiv 2305.13245) over a state of keys and values.

    Args:
        attention: transformers' `LlamaAttention`, `MistralAttention`, `Qwen2Attention`, `Qwen3Attention`,
            `GemmaAttention` or `OPTAttention`, whose projections are taken, and Qwen3's norms of each head.
        rotation: Shared by all layers; None where rows have said before where they stand.
    """

    def __init__(self, attention: Any, rotation: Rotation | None) -> None:
        super().__init__()
        self.size: int = attention.head_dim
        self.scale: float = attention.scaling
        self.largest: float | None = getattr(attention, "attn_logit_softcapping", None)
        """Of scores, which tanh keeps below it, as Gemma 2's."""
        self.query: nn.Linear = attention.q_proj
        self.key: nn.Linear = attention.k_proj
        self.value: nn.Linear = attention.v_proj
        self.out: nn.Linear = attention.out_proj if rotation is None else attention.o_proj
        self.normed = hasattr(attention, "q_norm")
        if self.normed:
            self.query_norm, self.key_norm = RMSNorm(attention.q_norm), RMSNorm(attention.k_norm)
        self.heads = self.key.out_features // self.size
        """Of keys and values."""
        self.rotation = rotation

    def forward(
        self, rows: Tensor, places: Places, angles: tuple[Tensor, Tensor] | None, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rows [1, T, W], keys and values [1, H, S, D] -> rows, keys, values of the same shapes."""
        if self.normed:
            query = self.query_norm(self._split(self.query(rows))) * self.scale
            key = self.key_norm(self._split(self.key(rows)))
        else:
            query, key = self._split(self.query(rows) * self.scale), self._split(self.key(rows))
        if self.rotation is not None and angles is not None:
            query, key = self.rotation.rotate(query, angles), self.rotation.rotate(key, angles)
        keys, values = places.write(keys, key), places.write(values, self._split(self.value(rows)))
        scores = query.reshape(self.heads, -1, self.size) @ keys.flatten(0, 1).transpose(1, 2)
        if self.largest is not None:
            scores = (scores / self.largest).tanh() * self.largest
        mixed = (scores + places.mask).softmax(-1) @ values.flatten(0, 1)
        mixed = mixed.reshape(len(mixed), -1, query.shape[1], self.size).flatten(0, 1).transpose(0, 1).flatten(1)
        return self.out(mixed.unsqueeze(0)), keys, values

    def _split(self, rows: Tensor) -> Tensor:
        """[1, T, heads * D] -> [heads, T, D]"""
        return rows.reshape(rows.shape[1], -1, self.size).transpose(0, 1)


class Layer(nn.Module):
    """Attention and an MLP, each behind a norm and beside its own input.

    Args:
        layer: transformers' `LlamaDecoderLayer` or one of its kin, whose weights are taken.
        rotation: Shared by all layers.
    """

    def __init__(self, layer: Any, rotation: Rotation) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(layer.input_layernorm)
        self.attention = Attention(layer.self_attn, rotation)
        self.mlp_norm = RMSNorm(layer.post_attention_layernorm)
        self.mlp: nn.Module = layer.mlp

    def forward(
        self, rows: Tensor, places: Places, angles: tuple[Tensor, Tensor], keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        mixed, keys, values = self.attention(self.attention_norm(rows), places, angles, keys, values)
        rows = rows + mixed
        return rows + self.mlp(self.mlp_norm(rows)), keys, values


class Decoder(nn.Module):
    """Embeddings float32 [1, T, W], positions int32 [1, T], state -> logits float32 [1, V] of the last row, state.

    The state is keys and values of each layer in turn, float32 [1, H, S, D], zeros at first.

    Args:
        model: transformers' `LlamaModel`, `MistralModel`, `Qwen2Model` or `Qwen3Model`.
        head: Gives logits of a row.
        context_length: S, the positions that the state holds.
        where: The text config's place, for errors.

    Raises:
        CheckpointError: another decoder, a rotation that depends on the length of the text, a window that slides, or
            fewer positions than asked for.
    """

    kinds: ClassVar[Collection[str]] = ("llama", "mistral", "qwen2", "qwen3")
    """`model_type` of the decoders that are carried."""
    rope_keys: ClassVar[frozenset[str]] = _ROPE_KEYS
    """What `rope_parameters` may say."""
    prefix: ClassVar[bool] = False
    """Whether the rows of a run that begins a dialogue all see each other."""
    slots: Tensor

    def __init__(self, model: Any, head: nn.Linear, context_length: int, *, where: str) -> None:
        super().__init__()
        _check_decoder(model.config, context_length, where, self.kinds)
        _check_rope(model.config.rope_parameters, f"{where}.rope_parameters", self.rope_keys)
        self.rotation = Rotation(model.rotary_emb, context_length)
        self.layers = nn.ModuleList(self.layer_of(layer) for layer in model.layers)
        self.norm = RMSNorm(model.norm)
        self.head = head
        self.groups: int = model.layers[0].self_attn.num_key_value_groups
        self.register_buffer("slots", torch.arange(context_length, dtype=torch.int32))

    @property
    def state(self) -> tuple[TensorSpec, ...]:
        """Keys and values of each layer in turn, [1, H, S, D]."""
        attention: Attention = self.layers[0].attention  # type: ignore[assignment]
        return keys_and_values(len(self.layers), (1, attention.heads, len(self.slots), attention.size))

    def forward(self, embeddings: Tensor, positions: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        places = Places(positions, self.slots, self.groups, prefix=self.prefix)
        angles, rows, written = self.rotation(places), embeddings, []
        for layer, keys, values in zip(self.layers, state[::2], state[1::2], strict=True):
            rows, keys, values = layer(rows, places, angles, keys, values)
            written += [keys, values]
        return self.answer(places, rows), *written

    def layer_of(self, layer: Any) -> Layer:
        """One of the layers, of transformers'."""
        return Layer(layer, self.rotation)

    def answer(self, places: Places, rows: Tensor) -> Tensor:
        """Logits [1, V] of the last of the rows [1, T, W]."""
        return self.head(self.norm(places.newest @ rows)).squeeze(1)  # type: ignore[no-any-return]


def _check_decoder(config: Any, context_length: int, where: str, kinds: Collection[str]) -> None:
    """Refuses what `Decoder` cannot carry; see there."""
    if config.model_type not in kinds:
        raise CheckpointError(
            f"{where}.model_type: expected a decoder of the kinds {', '.join(kinds)}, got {config.model_type!r}"
        )
    check_context(
        context_length, config.max_position_embeddings, where
    )  # where `dynamic` begins to turn by other angles
    windows = {kind for kind in getattr(config, "layer_types", None) or () if kind != "full_attention"}
    window = getattr(config, "sliding_window", None)
    if (windows or config.model_type == "mistral") and window is not None and window < context_length:
        raise CheckpointError(
            f"{where}.sliding_window: expected at least the context, {context_length:,}, got {window:,}",
            hint=f"--context {window} is the longest in which no position is forgotten",
        )


def _check_rope(rope: Mapping[str, Any], where: str, keys: Collection[str]) -> None:
    rope_type = rope.get("rope_type", "default")
    if rope_type not in _ROPE_TYPES:
        raise CheckpointError(
            f"{where}.rope_type: expected one of {', '.join(_ROPE_TYPES)}, got {rope_type!r}",
            hint="longrope turns by other angles once a text is long, which a cache of rotated keys cannot follow"
            if rope_type == "longrope"
            else None,
        )
    share = rope.get("partial_rotary_factor")
    if share not in (None, 1):
        raise CheckpointError(
            f"{where}.partial_rotary_factor: expected 1 or nothing, so that whole heads are turned, got {share!r}",
            hint="transformers' own classes of these decoders turn whole heads, and fail on a part of one",
        )
    known = {*keys, "partial_rotary_factor"}
    others = [key for key, value in rope.items() if value is not None and key not in known]
    if others:
        raise CheckpointError(
            f"{where}: expected none but {', '.join(sorted(keys))}, got {', '.join(others)}",
            hint="a decoder that turns its heads by more than the position of a row is not carried",
        )
