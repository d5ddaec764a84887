"""BLIP-2 (Li et al., 2023, arXiv 2301.12597) with a decoder of OPT's kind (arXiv 2205.01068), made ready for export.

A vision transformer, a Q-Former, whose queries look at the picture and become its rows, and a causal decoder whose
places are learned.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgevlm.bundle.dialogue import Chat, Turn
from edgevlm.bundle.spec import ImagePreprocessing, TensorSpec
from edgevlm.errors import CheckpointError
from edgevlm.models.generators.blip import Tower
from edgevlm.models.generators.decoder import Attention, Places
from edgevlm.models.generators.parts import (
    Parts,
    Pieces,
    causal_decode,
    check_context,
    features,
    keys_and_values,
    normalised,
)
from edgevlm.models.layers import attend


class QFormerLayer(nn.Module):
    """Queries look at each other, at the picture in some layers, and go through an MLP, [1, Q, C] -> [1, Q, C].

    Args:
        layer: transformers' `Blip2QFormerLayer`, whose weights are taken.
        first: The queries [1, Q, C] that the first layer begins with. What these make of each other, and ask the
            picture, is a constant then: converters would make it of weights that NNCF has decided on.
    """

    met: Tensor
    asked: Tensor

    def __init__(self, layer: Any, first: Tensor | None) -> None:
        super().__init__()
        own, cross = layer.attention, getattr(layer, "crossattention", None)
        self.heads: int = own.attention.num_attention_heads
        self.is_first = first is not None
        if first is None:
            self.query, self.key, self.value = own.attention.query, own.attention.key, own.attention.value
            self.out, self.norm = own.output.dense, own.output.LayerNorm
        self.looks = cross is not None
        if cross is not None:
            self.key_of_picture, self.value_of_picture = cross.attention.key, cross.attention.value
            self.cross_out, self.cross_norm = cross.output.dense, cross.output.LayerNorm
            if first is None:
                self.cross_query: nn.Linear = cross.attention.query
        if first is not None:
            with torch.no_grad():
                self.register_buffer("met", own(first))
                self.register_buffer("asked", layer.crossattention.attention.query(self.met))
        self.wide: nn.Module = layer.intermediate_query
        self.narrow, self.mlp_norm = layer.output_query.dense, layer.output_query.LayerNorm

    def forward(self, rows: Tensor, picture: Tensor) -> Tensor:
        if self.is_first:
            rows = self.met
        else:
            mixed = attend(self.query(rows), self.key(rows), self.value(rows), self.heads)
            rows = self.norm(self.out(mixed) + rows)
        if self.looks:
            query = self.asked if self.is_first else self.cross_query(rows)
            mixed = attend(query, self.key_of_picture(picture), self.value_of_picture(picture), self.heads)
            rows = self.cross_norm(self.cross_out(mixed) + rows)
        return self.mlp_norm(self.narrow(self.wide(rows)) + rows)  # type: ignore[no-any-return]


class EncodeImage(nn.Module):
    """Pixels float32 [1, 3, H, W] in 0..255 -> features float32 [1, Q, W], rows like those of a text's tokens.

    Args:
        network: transformers' `Blip2ForConditionalGeneration`.
        image: Size and normalisation of the pixels.
    """

    queries: Tensor

    def __init__(self, network: Any, image: ImagePreprocessing) -> None:
        super().__init__()
        self.tower = Tower(network.vision_model, image)
        with torch.no_grad():
            self.register_buffer("queries", network.qformer.layernorm(network.query_tokens))
        self.layers = nn.ModuleList(
            QFormerLayer(layer, None if number else self.queries)
            for number, layer in enumerate(network.qformer.encoder.layer)
        )
        self.projection: nn.Linear = network.language_projection

    def forward(self, pixels: Tensor) -> Tensor:
        picture, rows = self.tower(pixels), self.queries
        for layer in self.layers:
            rows = layer(rows, picture)
        return self.projection(rows)  # type: ignore[no-any-return]


class Layer(nn.Module):
    """Attention and an MLP, each beside its own input, with a norm before it, or behind both.

    Args:
        layer: transformers' `OPTDecoderLayer`, whose weights are taken.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.attention = Attention(layer.self_attn, None)
        self.before: bool = layer.do_layer_norm_before
        self.attention_norm: nn.LayerNorm = layer.self_attn_layer_norm
        self.mlp_norm: nn.LayerNorm = layer.final_layer_norm
        self.fc1, self.activation, self.fc2 = layer.fc1, layer.activation_fn, layer.fc2

    def forward(self, rows: Tensor, places: Places, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        asks = self.attention_norm(rows) if self.before else rows
        mixed, keys, values = self.attention(asks, places, None, keys, values)
        rows = rows + mixed
        rows = rows if self.before else self.attention_norm(rows)
        wide = self.activation(self.fc1(self.mlp_norm(rows) if self.before else rows))
        rows = rows + self.fc2(wide)
        return rows if self.before else self.mlp_norm(rows), keys, values


class Decoder(nn.Module):
    """Embeddings float32 [1, T, W], positions int32 [1, T], state -> logits float32 [1, V] of the last row, state.

    The state is keys and values of each layer in turn, float32 [1, H, S, D], zeros at first.

    Args:
        network: transformers' `OPTForCausalLM`.
        context_length: S, the positions that the state holds.
        where: The text config's place, for errors.

    Raises:
        CheckpointError: fewer positions than asked for, or rows of another width inside than outside.
    """

    slots: Tensor
    positions: Tensor

    def __init__(self, network: Any, context_length: int, *, where: str) -> None:
        super().__init__()
        config, model = network.config, network.model.decoder
        check_context(context_length, config.max_position_embeddings, where)
        if config.word_embed_proj_dim != config.hidden_size:
            raise CheckpointError(
                f"{where}.word_embed_proj_dim: expected hidden_size, {config.hidden_size}, the width of a picture's "
                f"rows, got {config.word_embed_proj_dim}"
            )
        offset = model.embed_positions.offset
        table = model.embed_positions.weight.detach()[offset : offset + context_length]
        self.register_buffer("positions", table)
        self.register_buffer("slots", torch.arange(context_length, dtype=torch.int32))
        self.layers = nn.ModuleList(Layer(layer) for layer in model.layers)
        self.norm: nn.Module = model.final_layer_norm or nn.Identity()
        self.head: nn.Linear = network.lm_head

    @property
    def state(self) -> tuple[TensorSpec, ...]:
        """Keys and values of each layer in turn, [1, H, S, D]."""
        attention: Attention = self.layers[0].attention  # type: ignore[assignment]
        return keys_and_values(len(self.layers), (1, attention.heads, len(self.slots), attention.size))

    def forward(self, embeddings: Tensor, positions: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        places = Places(positions, self.slots, groups=1)
        rows, written = embeddings + nn.functional.embedding(places.looked_up, self.positions), []
        for layer, keys, values in zip(self.layers, state[::2], state[1::2], strict=True):
            rows, keys, values = layer(rows, places, keys, values)
            written += [keys, values]
        return self.head(self.norm(places.newest @ rows)).squeeze(1), *written


def take_apart(network: Any, image: ImagePreprocessing, context_length: int, *, where: str) -> Parts:
    """The network's parts.

    Args:
        network: transformers' `Blip2ForConditionalGeneration`.
        image: Size and normalisation of the pixels.
        context_length: Positions that the state holds.
        where: The config's file, for errors.

    Raises:
        CheckpointError: a decoder that is not carried, such as T5's, or no token that stands for a picture.
    """
    config, language = network.config, network.language_model
    if config.text_config.model_type != "opt":
        raise CheckpointError(
            f"{where}: text_config.model_type: expected opt, got {config.text_config.model_type!r}",
            hint="of BLIP-2's checkpoints those with OPT are carried, such as Salesforce/blip2-opt-2.7b",
        )
    if config.image_token_id is None:
        raise CheckpointError(
            f"{where}: image_token_index: expected the id of the token that stands for a picture, got none",
            hint="take config.json and the tokenizer's files of the checkpoint's newest revision",
        )

    def original(pixels: Tensor) -> Tensor:
        found = network.get_image_features(normalised(pixels, image.rescale, image.mean, image.std))
        return found.pooler_output  # type: ignore[no-any-return]

    return Parts(
        encode_image=EncodeImage(network, image),
        seen=(features(config.text_config.hidden_size, config.num_query_tokens),),
        embed_tokens=language.get_input_embeddings(),
        decode=Decoder(language, context_length, where=f"{where}: text_config"),
        original={"encode_image": original, "embed_tokens": language.get_input_embeddings()},
        original_decode=causal_decode(language.model, language.lm_head),
        image_token_id=config.image_token_id,
        pieces=Pieces(),
        begin_ids=(),
        end_ids=(),
        talks=False,
        describe="a photo of",
        asked=_asked,
    )


def _asked(token: str, tokenizer: Any) -> Chat:
    """As transformers' `Blip2Processor` writes a picture, and a text that the model goes on from, which is as it is.

    What the tokenizer begins a text with stands behind the picture.
    """
    first, *_ = tokenizer("a")["input_ids"]
    begin = str(tokenizer.bos_token) if first == tokenizer.bos_token_id else ""
    return Chat(
        begin="",
        system=None,
        user=Turn(begin, ""),
        user_with_picture=Turn(token + begin, ""),
        assistant=None,
        ask="",
    )
