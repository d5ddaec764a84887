"""Florence-2 (Xiao et al., 2023, arXiv 2311.06242), as Hugging Face has it, made ready for export.

DaViT (Ding et al., 2022, arXiv 2204.03645), whose blocks attend within windows and among channels, and BART: an encoder
of picture and question, and a decoder of the answer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgevlm.bundle.dialogue import Chat, Turn
from edgevlm.bundle.spec import ImagePreprocessing
from edgevlm.errors import CheckpointError
from edgevlm.models.generators.asking import Decoder, Reader, original_decode
from edgevlm.models.generators.parts import Parts, Pieces, check_context, features, normalised, token_of
from edgevlm.models.generators.post_norm import of_bart
from edgevlm.models.layers import PixelNormalisation, attend


class WindowAttention(nn.Module):
    """Attention within squares of a grid, [1, h * w, C] -> [1, h * w, C].

    Args:
        attention: transformers' `Florence2VisionWindowAttention`, whose weights are taken.
        grid: h and w. A grid that squares do not divide is filled up with zeros, which are attended to as well.
    """

    def __init__(self, attention: Any, grid: tuple[int, int]) -> None:
        super().__init__()
        self.side, self.heads, self.grid = int(attention.window_size), int(attention.num_heads), grid
        self.together: nn.Linear = attention.qkv
        self.out: nn.Linear = attention.proj

    def forward(self, rows: Tensor) -> Tensor:
        (height, width), side, channels = self.grid, self.side, rows.shape[-1]
        below, beside = -height % side, -width % side
        filled = rows.reshape(height, width, channels)
        if below or beside:
            filled = nn.functional.pad(filled, (0, 0, 0, beside, 0, below))
        down, across = (height + below) // side, (width + beside) // side
        windows = filled.reshape(down, side, across, side, channels).transpose(1, 2).reshape(-1, side**2, channels)
        query, key, value = self.together(windows).chunk(3, -1)
        mixed = self.out(attend(query, key, value, self.heads))
        back: Tensor = (
            mixed.reshape(down, across, side, side, channels).transpose(1, 2).reshape(down * side, -1, channels)
        )
        return back[:height, :width].reshape(1, height * width, channels)


class ChannelAttention(nn.Module):
    """Attention among the channels of each group, [1, N, C] -> [1, N, C].

    Args:
        attention: transformers' `Florence2VisionChannelAttention`, whose weights are taken.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.groups = int(attention.groups)
        self.together: nn.Linear = attention.qkv
        self.out: nn.Linear = attention.proj

    def forward(self, rows: Tensor) -> Tensor:
        count = rows.shape[1]
        query, key, value = (
            each.reshape(count, self.groups, -1).permute(1, 2, 0) for each in self.together(rows).chunk(3, -1)
        )
        mixed = (query * count**-0.5 @ key.transpose(1, 2)).softmax(-1) @ value
        return self.out(mixed.permute(2, 0, 1).reshape(rows.shape))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A convolution of each channel and an attention, a convolution and an MLP, [1, C, h, w] -> [1, C, h, w].

    Args:
        block: transformers' `Florence2VisionSpatialBlock` or `Florence2VisionChannelBlock`, whose weights are taken.
        grid: h and w.
    """

    def __init__(self, block: Any, grid: tuple[int, int]) -> None:
        super().__init__()
        windowed = hasattr(block, "window_attn")
        self.attention = WindowAttention(block.window_attn, grid) if windowed else ChannelAttention(block.channel_attn)
        self.conv1, self.conv2 = block.conv1, block.conv2
        self.attention_norm, self.mlp_norm = block.norm1, block.norm2
        self.mlp: nn.Module = block.ffn

    def forward(self, grid: Tensor) -> Tensor:
        shape = grid.shape
        rows = (self.conv1(grid) + grid).flatten(2).transpose(1, 2)
        rows = rows + self.attention(self.attention_norm(rows))
        grid = rows.transpose(1, 2).reshape(shape)
        rows = (self.conv2(grid) + grid).flatten(2).transpose(1, 2)
        rows = rows + self.mlp(self.mlp_norm(rows))
        return rows.transpose(1, 2).reshape(shape)  # type: ignore[no-any-return]


class Embed(nn.Module):
    """The convolution that a stage begins with, under a norm before it or behind, [1, C, H, W] -> [1, D, h, w].

    Args:
        embed: transformers' `Florence2VisionConvEmbed`, whose weights are taken.
    """

    def __init__(self, embed: Any) -> None:
        super().__init__()
        self.conv: nn.Conv2d = embed.conv
        self.norm: nn.LayerNorm = embed.norm
        self.before = bool(embed.pre_norm)

    def forward(self, grid: Tensor) -> Tensor:
        return self.conv(self._normed(grid)) if self.before else self._normed(self.conv(grid))

    def _normed(self, grid: Tensor) -> Tensor:
        return self.norm(grid.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]

    def size(self, grid: tuple[int, int]) -> tuple[int, int]:
        """h and w, by H and W."""
        with torch.device("meta"):
            there = torch.nn.functional.conv2d(
                torch.empty(1, self.conv.in_channels, *grid),
                torch.empty(self.conv.weight.shape),
                stride=self.conv.stride,
                padding=self.conv.padding,
            )
        return there.shape[2], there.shape[3]


class EncodeImage(nn.Module):
    """Pixels float32 [1, 3, H, W] in 0..255 -> features float32 [1, 1 + P, W]: the mean of the grid, and the grid.

    Args:
        model: transformers' `Florence2Model`.
        image: Size and normalisation of the pixels.
        where: The config's file, for errors.

    Raises:
        CheckpointError: pictures of more rows or columns than there are positions for.
    """

    places: Tensor

    def __init__(self, model: Any, image: ImagePreprocessing, *, where: str) -> None:
        super().__init__()
        tower, projector = model.vision_tower, model.multi_modal_projector
        self.normalise = PixelNormalisation(image.rescale, image.mean, image.std)
        grid, stages = (image.height, image.width), []
        for conv, blocks in zip(tower.convs, tower.blocks, strict=True):
            embed = Embed(conv)
            grid = embed.size(grid)
            parts = [part for block in blocks for part in (block.spatial_block, block.channel_block)]
            stages.append(nn.Sequential(embed, *(Block(part, grid) for part in parts)))
        self.stages = nn.Sequential(*stages)
        most = model.config.vision_config.max_position_embeddings
        if max(grid) > most:
            raise CheckpointError(
                f"{where}: vision_config.max_position_embeddings: expected at least {max(grid)}, for pictures of "
                f"{image.height} x {image.width} pixels, got {most}"
            )
        with torch.no_grad():
            nothing = torch.zeros(1, tower.embed_dim[-1], *grid)
            rows = projector.image_position_embed(nothing).flatten(2).transpose(1, 2)
            self.register_buffer("places", rows + projector.visual_temporal_embed(rows[:, :1])[None])
        self.projection: nn.Linear = projector.image_projection
        self.norm: nn.LayerNorm = projector.image_proj_norm

    def forward(self, pixels: Tensor) -> Tensor:
        rows = self.stages(self.normalise(pixels)).flatten(2).transpose(1, 2) + self.places
        return self.norm(self.projection(torch.cat([rows.mean(1, keepdim=True), rows], 1)))  # type: ignore[no-any-return]


def take_apart(network: Any, image: ImagePreprocessing, context_length: int, *, where: str) -> Parts:
    """The network's parts.

    Args:
        network: transformers' `Florence2ForConditionalGeneration`.
        image: Size and normalisation of the pixels.
        context_length: Positions that the state holds.
        where: The config's file, for errors.

    Raises:
        CheckpointError: another language model than BART, fewer positions than asked for, or a picture that there are
            too few positions for; see `EncodeImage`.
    """
    model, text, table = network.model, network.config.text_config, network.get_input_embeddings()
    if text.model_type != "bart":
        raise CheckpointError(f"{where}: text_config.model_type: expected bart, got {text.model_type!r}")
    if text.scale_embedding or model.language_model.decoder.embed_tokens.weight is not table.weight:
        raise CheckpointError(
            f"{where}: text_config: expected one table of words for questions and answers, tie_word_embeddings, and no "
            "scale_embedding, as Florence-2 has it"
        )
    check_context(context_length, text.max_position_embeddings, f"{where}: text_config")
    encode_image = EncodeImage(model, image, where=where)
    words = nn.Embedding(table.num_embeddings, table.embedding_dim, device="meta")
    words.weight = table.weight  # the head's as well
    sides = (model.language_model.encoder, model.language_model.decoder)
    asks, says = (
        Reader(side.embed_positions.weight[side.embed_positions.offset :][:context_length], side.layernorm_embedding)
        for side in sides
    )
    decode = Decoder(
        asks,
        map(of_bart, sides[0].layers),
        says,
        map(of_bart, sides[1].layers),
        table.weight[_first_ids(network)],
        network.lm_head,
    )

    def original(pixels: Tensor) -> Tensor:
        found = model.get_image_features(normalised(pixels, image.rescale, image.mean, image.std))
        return found.pooler_output  # type: ignore[no-any-return]

    return Parts(
        encode_image=encode_image,
        seen=(features(text.d_model, 1 + encode_image.places.shape[1]),),
        embed_tokens=words,
        decode=decode,
        original={"encode_image": original, "embed_tokens": words},
        original_decode=_original_decode(network),
        image_token_id=network.config.image_token_id,
        pieces=Pieces(),
        begin_ids=(),
        end_ids=(),
        talks=False,
        describe="What does the image describe?",
        asked=_asked,
    )


def _first_ids(network: Any) -> list[int]:
    """Those that begin every answer: the decoder's own, and what `generate` is told to put behind it."""
    forced = network.generation_config.forced_bos_token_id
    return [network.config.text_config.decoder_start_token_id, *([] if forced is None else [forced])]


def _asked(token: str, tokenizer: Any) -> Chat:
    """As transformers' `Florence2Processor` writes a picture and a question in the words that it has for a task."""
    begin, end = token_of(tokenizer, "bos_token"), token_of(tokenizer, "eos_token")
    return Chat(
        begin="",
        system=None,
        user=Turn(begin, end),
        user_with_picture=Turn(token + begin, end),
        assistant=None,
        ask="",
    )


def _original_decode(network: Any) -> Any:
    """transformers' own run of BART's two sides."""
    language = network.model.language_model

    def encode(rows: Tensor, positions: Tensor, picture: tuple[Tensor, ...]) -> Tensor:
        return language.encoder(inputs_embeds=rows).last_hidden_state  # type: ignore[no-any-return]

    def answer(rows: Tensor, places: Tensor, question: Tensor, cache: Any) -> Tensor:
        found = language.decoder(inputs_embeds=rows, encoder_hidden_states=question, cache=cache, use_cache=True)
        return network.lm_head(found.last_hidden_state[:, -1])  # type: ignore[no-any-return]

    first = network.get_input_embeddings().weight.detach()[_first_ids(network)]
    return original_decode(encode, answer, first[None])
