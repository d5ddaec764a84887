"""Idefics (Laurençon et al., 2023, arXiv 2306.16527), made ready for export: the Flamingo kind (arXiv 2204.14198).

A vision transformer, a resampler that makes a few rows of its many, and a decoder of Llama's kind with layers in
between that look at the picture, each through a gate. Keys and values of the picture are what `encode_image` answers.
A row of words sees the picture from the token on that stands for it: `embed_tokens` marks that token, and `decode`
keeps where it stood, so that nobody else has to know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgevlm.bundle.dialogue import SHOWN, Chat, Turn
from edgevlm.bundle.spec import ImagePreprocessing, TensorSpec
from edgevlm.errors import CheckpointError
from edgevlm.models.generators.decoder import Attention, Layer, Places, RMSNorm, Rotation
from edgevlm.models.generators.parts import (
    Parts,
    Pieces,
    keys_and_values,
    keys_and_values_of_picture,
    normalised,
    scaled,
)
from edgevlm.models.generators.towers import Tower

_AROUND, _END = "<fake_token_around_image>", "<end_of_utterance>"
_LONGEST = 2048
"""Positions that the decoder was trained with, of which its configuration says nothing."""


class ResamplerBlock(nn.Module):
    """Latents [1, L, C] that look at a picture's rows [1, P, C] and at themselves, and an MLP.

    Args:
        attention: transformers' `IdeficsPerceiverAttention`, whose weights are taken.
        mlp: The MLP behind it.
        first: The latents [1, L, C] that the first block begins with. What it asks is a constant then: converters would
            make it of weights that NNCF has decided on.
    """

    asked: Tensor

    def __init__(self, attention: Any, mlp: nn.Module, first: Tensor | None) -> None:
        super().__init__()
        self.heads, self.size = int(attention.n_heads), int(attention.head_dim)
        self.rows_norm: nn.LayerNorm = attention.context_layer_norm
        self.latents_norm: nn.LayerNorm = attention.latents_layer_norm
        self.key, self.value = attention.k_proj, attention.v_proj
        self.query: nn.Linear | None = attention.q_proj if first is None else None
        self.query_norm: nn.Module = getattr(attention, "q_layer_norm", nn.Identity())
        self.key_norm: nn.Module = getattr(attention, "k_layer_norm", nn.Identity())
        self.out: nn.Linear = attention.output_proj
        self.mlp = mlp
        if first is not None:
            with torch.no_grad():
                asked = self._split(attention.q_proj(self.latents_norm(first)))
                self.register_buffer("asked", self.query_norm(asked) * self.size**-0.5)

    def forward(self, rows: Tensor, latents: Tensor) -> Tensor:
        normed = self.latents_norm(latents)
        seen = torch.cat([self.rows_norm(rows), normed], 1)
        if self.query is None:
            query = self.asked
        else:
            query = self.query_norm(self._split(self.query(normed))) * self.size**-0.5
        scores = query @ self.key_norm(self._split(self.key(seen))).transpose(1, 2)
        mixed = scores.softmax(-1) @ self._split(self.value(seen))
        latents = self.out(mixed.transpose(0, 1).flatten(1).unsqueeze(0)) + latents
        return self.mlp(latents) + latents  # type: ignore[no-any-return]

    def _split(self, rows: Tensor) -> Tensor:
        """[1, T, heads * D] -> [heads, T, D]"""
        return rows.reshape(rows.shape[1], self.heads, self.size).transpose(0, 1)


class EncodeImage(nn.Module):
    """Pixels float32 [1, 3, H, W] in 0..255 -> keys and values of each layer that looks, float32 [1, heads, P, D].

    Args:
        model: transformers' `IdeficsModel`.
        image: Size and normalisation of the pixels.
    """

    latents: Tensor

    def __init__(self, model: Any, image: ImagePreprocessing) -> None:
        super().__init__()
        config = model.config
        self.tower = Tower(model.vision_model, image, (config.vision_config.num_hidden_layers,))
        resampler = getattr(model, "perceiver_resampler", None)
        self.resampled = resampler is not None
        if resampler is not None:
            self.register_buffer("latents", resampler.latents.detach()[None])
            self.blocks = nn.ModuleList(
                ResamplerBlock(attention, mlp, None if number else self.latents)
                for number, (attention, mlp) in enumerate(resampler.blocks)
            )
            self.last_norm: nn.LayerNorm = resampler.layer_norm
        attentions = [layer.cross_attn for layer in model.gated_cross_attn_layers]
        self.heads: int = config.num_attention_heads
        self.keys = nn.ModuleList(each.k_proj for each in attentions)
        self.values = nn.ModuleList(each.v_proj for each in attentions)
        self.key_norms = nn.ModuleList(
            RMSNorm(each.k_layer_norm) if config.qk_layer_norms else nn.Identity() for each in attentions
        )

    @property
    def rows(self) -> int:
        """P, of the picture as the decoder looks at it."""
        return int(self.latents.shape[1]) if self.resampled else int(self.tower.positions.shape[1]) + 1

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        (rows,) = self.tower(pixels)
        if self.resampled:
            latents = self.latents
            for block in self.blocks:
                latents = block(rows, latents)
            rows = self.last_norm(latents)
        answers = []
        for key, value, norm in zip(self.keys, self.values, self.key_norms, strict=True):
            answers += [norm(self._split(key(rows))), self._split(value(rows))]
        return tuple(answers)

    def _split(self, rows: Tensor) -> Tensor:
        """[1, P, heads * D] -> [1, heads, P, D]"""
        return rows.reshape(1, rows.shape[1], self.heads, -1).transpose(1, 2)


class GatedLayer(nn.Module):
    """Attention to the picture and an MLP, each behind a norm, through a gate, and beside its own input.

    Args:
        layer: transformers' `IdeficsGatedCrossAttentionLayer`, whose weights are taken; its gates go into the last
            linear of each branch.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        attention = layer.cross_attn
        self.heads, self.size = int(attention.num_heads), int(attention.head_dim)
        self.attention_norm, self.mlp_norm = RMSNorm(layer.input_layernorm), RMSNorm(layer.post_attention_layernorm)
        self.query: nn.Linear = attention.q_proj
        self.query_norm: nn.Module = RMSNorm(attention.q_layer_norm) if attention.qk_layer_norms else nn.Identity()
        self.out = scaled(attention.o_proj, layer.alpha_cross_attn.tanh())
        self.gate, self.up, self.activation = layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.act_fn
        self.down = scaled(layer.mlp.down_proj, layer.alpha_dense.tanh())

    def forward(self, rows: Tensor, sees: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Rows [1, T, W] that see the picture or do not, 1 or 0 [1, T, 1]; keys and values [1, heads, P, D]."""
        query = self.query(self.attention_norm(rows)).reshape(rows.shape[1], self.heads, self.size).transpose(0, 1)
        scores = (self.query_norm(query) * self.size**-0.5) @ keys.squeeze(0).transpose(1, 2)
        mixed = (scores.softmax(-1) @ values.squeeze(0)).transpose(0, 1).flatten(1).unsqueeze(0)
        rows = rows + self.out(mixed) * sees
        normed = self.mlp_norm(rows)
        return rows + self.down(self.activation(self.gate(normed)) * self.up(normed))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Embeddings float32 [1, T, W + 1], positions int32 [1, T], the picture's keys and values, state -> logits, state.

    The last number of a row is 1 for the token that stands for the picture. The state is keys and values of the words,
    of each layer in turn, and where that token stood, float32 [1, 1, S, 1]. Logits are float32 [1, V], of the last row.

    Args:
        model: transformers' `IdeficsModel`.
        head: Gives logits of a row.
        context_length: S, the positions that the state holds.
        where: The config's file, for errors.

    Raises:
        CheckpointError: fewer positions than asked for.
    """

    slots: Tensor

    def __init__(self, model: Any, head: nn.Linear, context_length: int, *, where: str) -> None:
        super().__init__()
        if context_length > _LONGEST:
            raise CheckpointError(f"{where}: expected a context of at most {_LONGEST:,}, got {context_length:,}")
        self.rotation = Rotation(model.layers[0].self_attn.rotary_emb, context_length)
        self.layers = nn.ModuleList(Layer(layer, self.rotation) for layer in model.layers)
        self.gated = nn.ModuleList(GatedLayer(layer) for layer in model.gated_cross_attn_layers)
        self.interval: int = model.cross_layer_interval
        self.norm = RMSNorm(model.norm)
        self.head = head
        self.width: int = model.config.hidden_size
        self.register_buffer("slots", torch.arange(context_length, dtype=torch.int32))

    @property
    def state(self) -> tuple[TensorSpec, ...]:
        """Keys and values of each layer in turn, [1, heads, S, D], and where the picture was shown."""
        attention: Attention = self.layers[0].attention  # type: ignore[assignment]
        slots = len(self.slots)
        shown = TensorSpec(SHOWN, "float32", (1, 1, slots, 1), "1 where the token of a picture stands")
        return (*keys_and_values(len(self.layers), (1, attention.heads, slots, attention.size)), shown)

    def forward(self, embeddings: Tensor, positions: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        places = Places(positions, self.slots, groups=1)
        rows, mark = embeddings[..., : self.width], embeddings[..., self.width :]
        count = 2 * len(self.gated)
        picture, state = given[:count], given[count:]
        kept = places.write(state[-1], mark)  # not last of all: coremltools' canonicalize_inplace_pattern fails on that
        shown = kept.squeeze(0)
        sees = ((self.slots <= positions.unsqueeze(-1)).float() @ shown).clamp(max=1)
        angles, written = self.rotation(places), []
        for number, layer in enumerate(self.layers):
            if number % self.interval == 0:
                place = number // self.interval
                rows = self.gated[place](rows, sees, *picture[2 * place : 2 * place + 2])
            rows, keys, values = layer(rows, places, angles, *state[2 * number : 2 * number + 2])
            written += [keys, values]
        return self.head(self.norm(places.newest @ rows)).squeeze(1), *written, kept


def take_apart(network: Any, image: ImagePreprocessing, context_length: int, *, where: str) -> Parts:
    """The network's parts.

    Args:
        network: transformers' `IdeficsForVisionText2Text`.
        image: Size and normalisation of the pixels.
        context_length: Positions that the state holds.
        where: The config's file, for errors.

    Raises:
        CheckpointError: fewer positions than asked for.
    """
    model, config = network.model, network.config
    table, head = _table_and_head(network)
    encode_image = EncodeImage(model, image)
    decode = Decoder(model, head, context_length, where=where)
    _, heads, _, size = decode.state[0].shape
    image_token_id = int(config.image_token_id)  # which `TalkingFamily.image_token` is

    def original_embed_tokens(token_ids: Tensor) -> Tensor:
        mark = (token_ids == image_token_id).float()[..., None]
        return torch.cat([model.embed_tokens(token_ids), mark], -1)

    return Parts(
        encode_image=encode_image,
        seen=keys_and_values_of_picture(len(decode.gated), (1, heads, encode_image.rows, size)),
        embed_tokens=table,
        decode=decode,
        original={"encode_image": _original_encode_image(model, image), "embed_tokens": original_embed_tokens},
        original_decode=_original_decode(network, encode_image.rows),
        image_token_id=image_token_id,
        pieces=Pieces(),
        begin_ids=(),
        end_ids=(),
        talks=False,
        describe="Describe this picture.",
        asked=_asked,
        behind_words=1,
        marked_token_id=image_token_id,
        longest=_LONGEST,
    )


def _table_and_head(network: Any) -> tuple[nn.Embedding, nn.Linear]:
    """Tables of words and of the tokens that were added to them, as one; likewise the head, tied or not."""
    words, head = network.model.embed_tokens, network.lm_head
    if words.num_additional_embeddings:
        rows = nn.Parameter(torch.cat([words.weight, words.additional_embedding.weight]), requires_grad=False)
        answers = nn.Parameter(torch.cat([head.weight, head.additional_fc.weight]), requires_grad=False)
    else:
        rows, answers = words.weight, head.weight
    table = nn.Embedding(len(rows), rows.shape[1], device="meta")
    linear = nn.Linear(rows.shape[1], len(answers), bias=False, device="meta")
    table.weight, linear.weight = rows, rows if head.weight is words.weight else answers
    return table, linear


def _original_encode_image(model: Any, image: ImagePreprocessing) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """transformers' own keys and values of a picture."""

    def original(pixels: Tensor) -> tuple[Tensor, ...]:
        rows = model.vision_model(normalised(pixels, image.rescale, image.mean, image.std)).last_hidden_state
        if model.config.use_resampler:
            rows = model.perceiver_resampler(rows)
        answers = []
        for layer in model.gated_cross_attn_layers:
            attention = layer.cross_attn
            for project in (attention.k_proj, attention.v_proj):
                answers.append(project(rows).view(1, rows.shape[1], attention.num_heads, -1).transpose(1, 2))
            if attention.qk_layer_norms:
                answers[-2] = attention.k_layer_norm(answers[-2])
        return tuple(answers)

    return original


def _original_decode(network: Any, count: int) -> Callable[..., Tensor]:
    """transformers' own run of the decoder, with keys and values of the picture as given."""
    model, width = network.model, network.config.hidden_size

    def decode(cache: Any, embeddings: Tensor, positions: Tensor, *picture: Tensor) -> Tensor:
        rows, mark = embeddings[..., :width], embeddings[0, :, width] > 0
        shown = [*getattr(cache, "shown", ())[: cache.get_seq_length()], *mark.tolist()]
        cache.shown = shown
        sees = [any(shown[: place + 1]) for place in positions[0].tolist()]
        instead = rows.new_zeros(1, count, model.config.vision_config.embed_dim)  # which nobody reads
        given = {"perceiver_embeddings" if model.config.use_resampler else "image_encoder_embeddings": instead}
        hooks = _with_keys(model.gated_cross_attn_layers, picture)
        try:
            found = network(
                inputs_embeds=rows,
                position_ids=positions,
                image_attention_mask=torch.tensor(sees).long().reshape(1, -1, 1),
                cache=cache,
                use_cache=True,
                **given,
            )
        finally:
            for hook in hooks:
                hook.remove()
        return found.logits[:, -1]  # type: ignore[no-any-return]

    return decode


def _with_keys(layers: Sequence[Any], picture: Sequence[Tensor]) -> list[Any]:
    """Has attentions take keys and values as given, rather than what they make of rows; until the hooks are removed."""
    hooks = []
    for layer, keys, values in zip(layers, picture[::2], picture[1::2], strict=True):
        attention = layer.cross_attn
        flat_keys, flat_values = (each.transpose(1, 2).flatten(2) for each in (keys, values))
        hooks.append(attention.v_proj.register_forward_hook(lambda *_, own=flat_values: own))
        if attention.qk_layer_norms:
            hooks.append(attention.k_layer_norm.register_forward_hook(lambda *_, own=keys: own))
        else:
            hooks.append(attention.k_proj.register_forward_hook(lambda *_, own=flat_keys: own))
    return hooks


def _asked(token: str, tokenizer: Any) -> Chat:
    """As the paper's instructed models are asked; those that know no end of an utterance, by lines alone."""
    begin = str(tokenizer.bos_token)
    end = (_END if _END in tokenizer.get_vocab() else "") + "\n"
    return Chat(
        begin=begin,
        system=None,
        user=Turn("User:", end),
        user_with_picture=Turn(f"User:{_AROUND}{token}{_AROUND}", end),
        assistant=Turn("Assistant:", end),
        ask="Assistant:",
    )
