"""Layers with a norm behind each of their parts, as BERT (arXiv 1810.04805) and BART (arXiv 1910.13461) have them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from edgevlm.models.generators.decoder import Slots


class Attention(nn.Module):
    """Rows [1, T, W] look at keys and values [heads, S, D], beside their own input and under a norm, -> [1, T, W].

    Args:
        query, out: Linear layers.
        norm: Behind them.
        heads: How many.
        key, value: Linear layers of what is looked at; none where that is given.
    """

    def __init__(
        self,
        query: nn.Linear,
        out: nn.Linear,
        norm: nn.LayerNorm,
        heads: int,
        key: nn.Linear | None = None,
        value: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out, self.norm = query, key, value, out, norm
        self.heads, self.size = heads, query.out_features // heads

    def seen(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [heads, S, D] of rows [1, S, W]."""
        if self.key is None or self.value is None:
            raise ValueError("keys and values of these are given")
        return self._split(self.key(rows)), self._split(self.value(rows))

    def forward(self, rows: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        scores = self._split(self.query(rows) * self.size**-0.5) @ keys.transpose(1, 2)
        mixed = (scores if mask is None else scores + mask).softmax(-1) @ values
        return self.norm(self.out(mixed.transpose(0, 1).flatten(1).unsqueeze(0)) + rows)  # type: ignore[no-any-return]

    def _split(self, rows: Tensor) -> Tensor:
        """[1, T, heads * D] -> [heads, T, D]"""
        return rows.reshape(rows.shape[1], self.heads, self.size).transpose(0, 1)


class Layer(nn.Module):
    """Attention to the text so far, to what is beside it, and an MLP.

    Args:
        own: To the text.
        cross: To what is beside it; none where nothing is.
        wide, narrow, norm: The MLP's parts.
    """

    def __init__(
        self, own: Attention, cross: Attention | None, wide: nn.Module, narrow: nn.Linear, norm: nn.LayerNorm
    ) -> None:
        super().__init__()
        self.own, self.cross, self.wide, self.narrow, self.norm = own, cross, wide, narrow, norm

    def forward(
        self, rows: Tensor, slots: Slots, beside: tuple[Tensor, ...], keys: Tensor, values: Tensor, *masks: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rows [1, T, W], what is beside them, a state of keys and values [1, heads, S, D] each -> rows, the state.

        Args:
            slots: Of the state.
            beside: Keys and values [1, heads, P, D]; none where nothing is.
            masks: Of what is beside, where not all of it is seen.
        """
        new_keys, new_values = self.own.seen(rows)
        keys, values = slots.write(keys, new_keys), slots.write(values, new_values)
        rows = self.own(rows, keys.flatten(0, 1), values.flatten(0, 1), slots.mask)
        if self.cross is not None:
            rows = self.cross(rows, *(each.squeeze(0) for each in beside), *masks)
        return self.think(rows), keys, values

    def think(self, rows: Tensor) -> Tensor:
        """The MLP."""
        return self.norm(self.narrow(self.wide(rows)) + rows)  # type: ignore[no-any-return]


def of_bert(layer: Any, *, looks: bool) -> Layer:
    """transformers' `BlipTextLayer`.

    Args:
        layer: Whose weights are taken.
        looks: Whether it makes keys and values of what is beside the text; else they are given.
    """

    def attention(part: Any, *, seen: bool) -> Attention:
        both = (part.self.key, part.self.value) if seen else ()
        return Attention(
            part.self.query, part.output.dense, part.output.LayerNorm, part.self.num_attention_heads, *both
        )

    own, cross = attention(layer.attention, seen=True), attention(layer.crossattention, seen=looks)
    return Layer(own, cross, layer.intermediate, layer.output.dense, layer.output.LayerNorm)


def of_bart(layer: Any) -> Layer:
    """transformers' `BartEncoderLayer` or `BartDecoderLayer`, whose weights are taken."""

    def attention(part: Any, norm: nn.LayerNorm) -> Attention:
        return Attention(part.q_proj, part.out_proj, norm, part.num_heads, part.k_proj, part.v_proj)

    cross = getattr(layer, "encoder_attn", None)
    return Layer(
        attention(layer.self_attn, layer.self_attn_layer_norm),
        None if cross is None else attention(cross, layer.encoder_attn_layer_norm),
        nn.Sequential(layer.fc1, layer.activation_fn),
        layer.fc2,
        layer.final_layer_norm,
    )
