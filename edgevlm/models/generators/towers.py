"""A vision transformer up to one of its layers, as models that talk read pictures with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgevlm.bundle.spec import ImagePreprocessing
from edgevlm.models.encoders.positions import image_positions
from edgevlm.models.layers import Block, PixelNormalisation


class Tower(nn.Module):
    """Pixels float32 [N, 3, H, W] in 0..255 -> the rows after some of the layers, float32 [N, P, C] each.

    Args:
        vision: transformers' CLIP or SigLIP vision transformer, whose blocks are taken.
        image: Size and normalisation of the pixels.
        layers: After how many blocks rows are taken, ascending; 0 is what goes into the first.
    """

    class_token: Tensor
    positions: Tensor

    def __init__(self, vision: Any, image: ImagePreprocessing, layers: tuple[int, ...]) -> None:
        super().__init__()
        embeddings = vision.embeddings
        class_token = getattr(embeddings, "class_embedding", None)
        positions = image_positions(embeddings, image, extra=0 if class_token is None else 1)
        self.normalise = PixelNormalisation(image.rescale, image.mean, image.std)
        self.patch_embedding: nn.Conv2d = embeddings.patch_embedding
        self.has_class_token = class_token is not None
        if class_token is not None:
            self.register_buffer("class_token", class_token.detach().reshape(1, 1, -1) + positions[:, :1])
            positions = positions[:, 1:]
        self.register_buffer("positions", positions)
        self.first_norm: nn.Module = getattr(vision, "pre_layrnorm", None) or nn.Identity()
        self.blocks = nn.ModuleList(Block(layer) for layer in vision.encoder.layers[: max(layers)])
        self.taken = layers

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        rows = self.patch_embedding(self.normalise(pixels)).flatten(2).transpose(1, 2) + self.positions
        if self.has_class_token:
            token = self.class_token if len(rows) == 1 else self.class_token.expand(len(rows), -1, -1)
            rows = torch.cat([token, rows], 1)
        rows = self.first_norm(rows)
        passed = [rows]
        for block in self.blocks:
            passed.append(block(passed[-1]))
        return tuple(passed[layer] for layer in self.taken)
