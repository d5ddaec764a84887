"""CLIP (Radford et al., 2021, arXiv 2103.00020), made ready for export from transformers' `CLIPModel`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from edgevlm.bundle.spec import ImagePreprocessing, TextPreprocessing
from edgevlm.errors import CheckpointError
from edgevlm.models.encoders.positions import image_positions
from edgevlm.models.layers import Block, EndOfText, PixelNormalisation, causal_mask, unit_norm

if TYPE_CHECKING:
    from edgevlm.models.network import Network

# The `eos_token_id` of configs written before transformers 4.31, whatever the tokenizer's was: such a model pools at
# the highest id instead (https://github.com/huggingface/transformers/pull/24773).
_LEGACY_EOT_ID = 2


class ImageTower(nn.Module):
    """Pixels float32 [1, 3, H, W] in 0..255 -> unit vector float32 [1, D]."""

    class_token: Tensor
    positions: Tensor

    def __init__(self, network: Network, image: ImagePreprocessing) -> None:
        super().__init__()
        vision = network.vision_model
        positions = image_positions(vision.embeddings, image, extra=1)
        self.normalise = PixelNormalisation(image.rescale, image.mean, image.std)
        self.patch_embedding = vision.embeddings.patch_embedding
        self.register_buffer("class_token", vision.embeddings.class_embedding.detach() + positions[:, :1])
        self.register_buffer("positions", positions[:, 1:])
        self.first_norm = vision.pre_layrnorm
        self.blocks = nn.ModuleList(Block(layer) for layer in vision.encoder.layers)
        self.last_norm = vision.post_layernorm
        self.projection = network.visual_projection

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embedding(self.normalise(pixels)).flatten(2).transpose(1, 2) + self.positions
        tokens = self.first_norm(torch.cat([self.class_token, patches], 1))
        *blocks, last_block = self.blocks
        for block in blocks:
            tokens = block(tokens)
        pooled = last_block(tokens, queried=tokens[:, :1]).squeeze(1)
        return unit_norm(self.projection(self.last_norm(pooled)))


class TextTower(nn.Module):
    """Token ids int32 [1, L] -> unit vector float32 [1, D]."""

    positions: Tensor
    mask: Tensor

    def __init__(self, network: Network, text: TextPreprocessing) -> None:
        super().__init__()
        model, length = network.text_model, text.context_length
        eot_id = model.config.eos_token_id
        self.token_embedding = model.embeddings.token_embedding
        self.register_buffer("positions", model.embeddings.position_embedding.weight.detach()[None, :length])
        self.register_buffer("mask", causal_mask(length))
        self.blocks = nn.ModuleList(Block(layer) for layer in model.encoder.layers)
        self.end_of_text = EndOfText(None if eot_id == _LEGACY_EOT_ID else eot_id, length)
        self.last_norm = model.final_layer_norm
        self.projection = network.text_projection

    def forward(self, token_ids: Tensor) -> Tensor:
        tokens = self.token_embedding(token_ids) + self.positions
        *blocks, last_block = self.blocks
        for block in blocks:
            tokens = block(tokens, self.mask)
        row = self.end_of_text(token_ids)
        pooled = last_block(tokens, row @ self.mask[0], queried=row @ tokens).squeeze(1)
        return unit_norm(self.projection(self.last_norm(pooled)))


def build_towers(
    network: Network, image: ImagePreprocessing, text: TextPreprocessing, *, where: str
) -> tuple[nn.Module, nn.Module, int]:
    """The two programs' modules, which share the network's weights, and the length of an embedding.

    Args:
        network: transformers' `CLIPModel`, float32.
        image, text: Sizes of what the modules take, and the pixels' normalisation.
        where: The config's file, for errors.

    Raises:
        CheckpointError: the config pools at another token than the tokenizer ends with.
    """
    text_tower, embedding_dim = build_text_tower(network, text, where=f"{where}: text_config")
    return ImageTower(network, image), text_tower, embedding_dim


def build_text_tower(network: Network, text: TextPreprocessing, *, where: str) -> tuple[nn.Module, int]:
    """The text program's module, which shares the network's weights, and the length of an embedding.

    Args:
        network: transformers' `CLIPModel`, or its text half (`edgevlm.models.network.build_text_half`), float32.
        text: Sizes of what the module takes.
        where: The text config's place, for errors.

    Raises:
        CheckpointError: the config pools at another token than the tokenizer ends with.
    """
    eot_id = network.text_model.config.eos_token_id
    if eot_id not in (_LEGACY_EOT_ID, text.eot_id):
        raise CheckpointError(
            f"{where}.eos_token_id: expected the tokenizer's end of text, {text.eot_id}, got {eot_id!r}",
            hint="every text would be pooled at its first token; set eos_token_id to the tokenizer's",
        )
    return TextTower(network, text), network.text_projection.out_features
