"""BLIP's captioner (Li et al., 2022, arXiv 2201.12086), made ready for export.

A vision transformer, and BERT as a decoder that looks at the picture from every layer. Keys and values of the picture
do not change while a caption grows, so they are what `encode_image` answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from edgevlm.bundle.spec import ImagePreprocessing, TensorSpec
from edgevlm.errors import CheckpointError
from edgevlm.models.encoders.positions import image_positions
from edgevlm.models.generators.decoder import Places
from edgevlm.models.generators.parts import (
    Parts,
    Pieces,
    check_context,
    keys_and_values,
    keys_and_values_of_picture,
    normalised,
)
from edgevlm.models.generators.post_norm import Layer, of_bert
from edgevlm.models.layers import PixelNormalisation, attend


class VisionBlock(nn.Module):
    """A pre-norm block whose query, key and value are one linear layer, [1, T, C] -> [1, T, C].

    Args:
        layer: transformers' `BlipEncoderLayer`, whose weights are taken.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.heads: int = layer.self_attn.num_heads
        self.attention_norm: nn.LayerNorm = layer.layer_norm1
        self.together: nn.Linear = layer.self_attn.qkv
        self.out: nn.Linear = layer.self_attn.projection
        self.mlp_norm: nn.LayerNorm = layer.layer_norm2
        self.mlp: nn.Module = layer.mlp

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.together(self.attention_norm(tokens)).chunk(3, -1)
        tokens = tokens + self.out(attend(query, key, value, self.heads))
        return tokens + self.mlp(self.mlp_norm(tokens))  # type: ignore[no-any-return]


class Tower(nn.Module):
    """Pixels float32 [1, 3, H, W] in 0..255 -> rows of the picture, float32 [1, P, C].

    Args:
        vision: transformers' `BlipVisionModel` or `Blip2VisionModel`, whose weights are taken.
        image: Size and normalisation of the pixels.
    """

    class_token: Tensor
    positions: Tensor

    def __init__(self, vision: Any, image: ImagePreprocessing) -> None:
        super().__init__()
        positions = image_positions(vision.embeddings, image, extra=1)
        self.normalise = PixelNormalisation(image.rescale, image.mean, image.std)
        self.patch_embedding: nn.Conv2d = vision.embeddings.patch_embedding
        self.register_buffer("class_token", vision.embeddings.class_embedding.detach() + positions[:, :1])
        self.register_buffer("positions", positions[:, 1:])
        self.blocks = nn.ModuleList(VisionBlock(layer) for layer in vision.encoder.layers)
        self.last_norm: nn.LayerNorm = vision.post_layernorm

    @property
    def rows(self) -> int:
        """P, patches and the class token."""
        return self.positions.shape[1] + 1

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embedding(self.normalise(pixels)).flatten(2).transpose(1, 2) + self.positions
        tokens = torch.cat([self.class_token, patches], 1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.last_norm(tokens)  # type: ignore[no-any-return]


class EncodeImage(nn.Module):
    """Pixels float32 [1, 3, H, W] in 0..255 -> keys and values of each layer in turn, float32 [1, heads, P, D].

    Args:
        vision: transformers' `BlipVisionModel`.
        layers: Of the transformer that looks at the picture.
        image: Size and normalisation of the pixels.
    """

    def __init__(self, vision: Any, layers: Any, image: ImagePreprocessing) -> None:
        super().__init__()
        self.tower = Tower(vision, image)
        self.heads: int = layers[0].crossattention.self.num_attention_heads
        self.keys = nn.ModuleList(layer.crossattention.self.key for layer in layers)
        self.values = nn.ModuleList(layer.crossattention.self.value for layer in layers)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        tokens, answers = self.tower(pixels), []
        for key, value in zip(self.keys, self.values, strict=True):
            answers += [self._split(key(tokens)), self._split(value(tokens))]
        return tuple(answers)

    def _split(self, rows: Tensor) -> Tensor:
        """[1, P, heads * D] -> [1, heads, P, D]"""
        return rows.reshape(1, rows.shape[1], self.heads, -1).transpose(1, 2)


class Decoder(nn.Module):
    """Embeddings float32 [1, T, W], positions int32 [1, T], the picture's keys and values, state -> logits, state.

    Keys and values of the picture are those of `EncodeImage`. The state is keys and values of the text, of each layer
    in turn, float32 [1, heads, S, D], zeros at first. Logits are float32 [1, V], of the last row.

    Args:
        decoder: transformers' `BlipTextLMHeadModel`.
        context_length: S, the positions that the state holds.
        where: The text config's place, for errors.

    Raises:
        CheckpointError: fewer positions than asked for, or a decoder that does not look at pictures.
    """

    slots: Tensor
    positions: Tensor

    def __init__(self, decoder: Any, context_length: int, *, where: str) -> None:
        super().__init__()
        config = decoder.config
        check_context(context_length, config.max_position_embeddings, where)
        if not config.is_decoder:
            raise CheckpointError(f"{where}.is_decoder: expected true, got false: it would not look at pictures")
        embeddings = decoder.bert.embeddings
        self.register_buffer("positions", embeddings.position_embeddings.weight.detach()[:context_length])
        self.register_buffer("slots", torch.arange(context_length, dtype=torch.int32))
        self.first_norm: nn.LayerNorm = embeddings.LayerNorm
        self.layers = nn.ModuleList(of_bert(layer, looks=False) for layer in decoder.bert.encoder.layer)
        self.head: nn.Module = decoder.cls

    @property
    def state(self) -> tuple[TensorSpec, ...]:
        """Keys and values of each layer in turn, [1, heads, S, D]."""
        layer: Layer = self.layers[0]  # type: ignore[assignment]
        return keys_and_values(len(self.layers), (1, layer.own.heads, len(self.slots), layer.own.size))

    def forward(self, embeddings: Tensor, positions: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        places = Places(positions, self.slots, groups=1)
        picture, state = given[: 2 * len(self.layers)], given[2 * len(self.layers) :]
        rows = embeddings + nn.functional.embedding(places.looked_up, self.positions)
        rows, written = self.first_norm(rows), []
        for number, layer in enumerate(self.layers):
            two = slice(2 * number, 2 * number + 2)
            rows, keys, values = layer(rows, places, picture[two], *state[two])
            written += [keys, values]
        return self.head(places.newest @ rows).squeeze(1), *written


def take_apart(network: Any, image: ImagePreprocessing, context_length: int, *, where: str) -> Parts:
    """The network's parts.

    Args:
        network: transformers' `BlipForConditionalGeneration`.
        image: Size and normalisation of the pixels.
        context_length: Positions that the state holds.
        where: The config's file, for errors.

    Raises:
        CheckpointError: a decoder that is not carried; see `Decoder`.
    """
    text, decoder = network.config.text_config, network.text_decoder
    layers = decoder.bert.encoder.layer
    encode_image = EncodeImage(network.vision_model, layers, image)
    decode = Decoder(decoder, context_length, where=f"{where}: text_config")
    _, heads, _, size = decode.state[0].shape
    rows = encode_image.tower.rows

    return Parts(
        encode_image=encode_image,
        seen=keys_and_values_of_picture(len(layers), (1, heads, rows, size)),
        embed_tokens=decoder.bert.embeddings.word_embeddings,
        decode=decode,
        original={
            "encode_image": looked_at(network.vision_model, layers, image),
            "embed_tokens": decoder.bert.embeddings.word_embeddings,
        },
        original_decode=_original_decode(decoder),
        image_token_id=None,
        pieces=Pieces(),
        begin_ids=(text.bos_token_id,),
        end_ids=(text.sep_token_id,),
        talks=False,
        describe="",
    )


def looked_at(vision: Any, layers: Any, image: ImagePreprocessing) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """transformers' own keys and values of a picture; see `EncodeImage`."""
    heads = layers[0].crossattention.self.num_attention_heads

    def original(pixels: Tensor) -> tuple[Tensor, ...]:
        looked = vision(normalised(pixels, image.rescale, image.mean, image.std)).last_hidden_state
        answers = []
        for layer in layers:
            for project in (layer.crossattention.self.key, layer.crossattention.self.value):
                answers.append(project(looked).view(1, looked.shape[1], heads, -1).transpose(1, 2))
        return tuple(answers)

    return original


def with_given(cache: Any, picture: tuple[Tensor, ...]) -> Any:
    """A cache of a text, and beside it a picture's keys and values as they are given."""
    from transformers import DynamicCache, EncoderDecoderCache

    given = DynamicCache()
    for layer, (keys, values) in enumerate(zip(picture[::2], picture[1::2], strict=True)):
        given.update(keys, values, layer)
    both = EncoderDecoderCache(cache, given)
    both.is_updated = dict.fromkeys(range(len(picture) // 2), True)
    return both


def _original_decode(decoder: Any) -> Any:
    """transformers' own run of the decoder, on new rows behind those of a cache, with the picture's keys as given."""

    def decode(cache: Any, embeddings: Tensor, positions: Tensor, *picture: Tensor) -> Tensor:
        found = decoder.bert(
            inputs_embeds=embeddings.clone(),  # to which the class adds positions in place
            position_ids=positions,
            encoder_hidden_states=picture[0].new_zeros(1, 1, decoder.config.encoder_hidden_size),  # asked for, not read
            cache=with_given(cache, picture),
            use_cache=True,
            is_decoder=True,
        )
        return decoder.cls(found.last_hidden_state[:, -1:]).squeeze(1)  # type: ignore[no-any-return]

    return decode
