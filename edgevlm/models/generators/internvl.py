"""InternVL (Zhu et al., 2025, arXiv 2504.10479), as Hugging Face has it, made ready for export.

A tile at a time: a vision transformer with scaled branches, pixel shuffle, an MLP, and a decoder of Qwen2's, Qwen3's or
Llama's kind.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from edgevlm.bundle.dialogue import Turn
from edgevlm.bundle.spec import ImagePreprocessing
from edgevlm.errors import CheckpointError
from edgevlm.models.generators import llava
from edgevlm.models.generators.decoder import half_safe_norm
from edgevlm.models.generators.parts import Parts, Pieces, rows_of_layers, scaled, shuffled
from edgevlm.models.layers import PixelNormalisation, attend


class Block(nn.Module):
    """A pre-norm transformer block whose branches are scaled, a number a channel, [1, P, C] -> [1, P, C].

    Args:
        layer: transformers' `InternVLVisionLayer`, whose weights are taken; the scales go into the last linear of each
            branch.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        attention = layer.attention
        self.heads: int = attention.num_heads
        self.attention_norm = half_safe_norm(layer.layernorm_before)
        self.query: nn.Linear = attention.q_proj
        self.key: nn.Linear = attention.k_proj
        self.value: nn.Linear = attention.v_proj
        self.query_norm, self.key_norm = half_safe_norm(attention.q_norm), half_safe_norm(attention.k_norm)
        self.out = scaled(attention.projection_layer, layer.lambda_1)
        self.mlp_norm = half_safe_norm(layer.layernorm_after)
        self.fc1: nn.Linear = layer.mlp.fc1
        self.activation: nn.Module = layer.mlp.activation_fn
        self.fc2 = scaled(layer.mlp.fc2, layer.lambda_2)

    def forward(self, rows: Tensor) -> Tensor:
        normed = self.attention_norm(rows)
        query, key = self.query_norm(self.query(normed)), self.key_norm(self.key(normed))
        rows = rows + self.out(attend(query, key, self.value(normed), self.heads))
        return rows + self.fc2(self.activation(self.fc1(self.mlp_norm(rows))))  # type: ignore[no-any-return]


class EncodeImage(nn.Module):
    """Pixels of a tile, float32 [1, 3, S, S] in 0..255 -> features float32 [1, P, W], rows like those of tokens.

    Args:
        model: transformers' `InternVLModel`.
        image: Size and normalisation of the pixels; tiles are square, of the size that the tower was trained with.
        where: The config's file, for errors.

    Raises:
        CheckpointError: another tower, tiles of another size, patches that do not divide into the squares that become
            one row, or rows that are taken elsewhere than behind one layer.
    """

    class_token: Tensor
    positions: Tensor

    def __init__(self, model: Any, image: ImagePreprocessing, *, where: str) -> None:
        super().__init__()
        config, vision = model.config, model.config.vision_config
        if vision.model_type != "internvl_vision":
            raise CheckpointError(
                f"{where}: vision_config.model_type: expected internvl_vision, got {vision.model_type!r}"
            )
        size, patch = tuple(vision.image_size), tuple(vision.patch_size)
        if size != (image.height, image.width) or size[0] != size[1] or patch[0] != patch[1]:
            raise CheckpointError(
                f"{where}: expected square tiles and patches, and tiles of vision_config.image_size, {list(size)}, in "
                f"patches of {list(patch)}, got {[image.height, image.width]} from the processor"
            )
        layer, strategy = config.vision_feature_layer, config.vision_feature_select_strategy
        if type(layer) is not int or not -vision.num_hidden_layers <= layer < 0 or strategy != "default":
            raise CheckpointError(
                f"{where}: expected vision_feature_layer from -{vision.num_hidden_layers} to -1 and "
                f"vision_feature_select_strategy default, got {layer!r} and {strategy!r}"
            )
        self.side, self.scale = size[0] // patch[0], round(1 / config.downsample_ratio)
        if self.side % self.scale or self.scale * config.downsample_ratio != 1:
            raise CheckpointError(
                f"{where}: expected a downsample_ratio of one to a whole number that divides the {self.side} patches "
                f"of a side, got {config.downsample_ratio}"
            )
        tower = model.vision_tower
        embeddings = tower.embeddings
        self.normalise = PixelNormalisation(image.rescale, image.mean, image.std)
        self.patch_embedding: nn.Conv2d = embeddings.patch_embeddings.projection
        positions = embeddings.position_embeddings
        if positions is None:
            positions = torch.zeros(1, self.side**2 + 1, vision.hidden_size)
        self.register_buffer("class_token", embeddings.cls_token.detach() + positions.detach()[:, :1])
        self.register_buffer("positions", positions.detach()[:, 1:])
        count = vision.num_hidden_layers + 1 + layer
        self.blocks = nn.ModuleList(Block(each) for each in tower.encoder.layer[:count])
        self.last_norm: nn.Module = tower.layernorm if layer == -1 else nn.Identity()
        self.projector: nn.Module = model.multi_modal_projector

    def forward(self, pixels: Tensor) -> Tensor:
        rows = self.patch_embedding(self.normalise(pixels)).flatten(2).transpose(1, 2) + self.positions
        rows = torch.cat([self.class_token, rows], 1)
        for block in self.blocks:
            rows = block(rows)
        return self.projector(shuffled(self.last_norm(rows)[:, 1:], self.side, self.scale))  # type: ignore[no-any-return]


def take_apart(network: Any, image: ImagePreprocessing, context_length: int, *, where: str) -> Parts:
    """The network's parts.

    Args:
        network: transformers' `InternVLForConditionalGeneration`.
        image: Size and normalisation of a tile's pixels.
        context_length: Positions that the state holds.
        where: The config's file, for errors.

    Raises:
        CheckpointError: a tower or a decoder that is not carried; see `EncodeImage` and `llava.assemble`.
    """
    encode_image = EncodeImage(network.model, image, where=where)
    rows, original = (encode_image.side // encode_image.scale) ** 2, rows_of_layers(network.model, image)
    parts = llava.assemble(network, encode_image, rows, original, context_length, where=where)
    return replace(parts, pieces=Pieces(around=Turn("<img>", "</img>")), written=_written)


def _written(tokenizer: Any, rows: int, columns: int, positions: int) -> str:
    """What transformers' `InternVLProcessor` writes for a picture, by the names that the tokenizer has."""
    from transformers import InternVLProcessor

    tokens = {
        "start_image_token": getattr(tokenizer, "start_image_token", "<img>"),
        "end_image_token": getattr(tokenizer, "end_image_token", "</img>"),
        "image_token": getattr(tokenizer, "context_image_token", "<IMG_CONTEXT>"),
    }
    # Not a processor of its own: it needs a reader of videos.
    processor: Any = SimpleNamespace(**tokens, image_seq_length=positions)
    return str(InternVLProcessor.replace_image_token(processor, {"num_patches": [rows * columns + 1]}, 0))
