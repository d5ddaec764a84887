"""SmolVLM (Marafioti et al., 2025, arXiv 2504.05299) and Idefics3, made ready for export.

A tile at a time: a SigLIP tower, pixel shuffle, one linear layer, and a decoder of Llama's kind.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from edgevlm.bundle.spec import ImagePreprocessing
from edgevlm.errors import CheckpointError
from edgevlm.models.layers import Block, PixelNormalisation


class EncodeImage(nn.Module):
    """Pixels of a tile, float32 [1, 3, S, S] in 0..255 -> features float32 [1, P, W], rows like those of tokens.

    Args:
        model: transformers' `Idefics3Model` or `SmolVLMModel`.
        image: Size and normalisation of the pixels; tiles are square, of the size that the tower was trained with.
        where: The config's file, for errors.

    Raises:
        CheckpointError: tiles of another size, or patches that do not divide into the squares that become one row.
    """

    positions: Tensor

    def __init__(self, model: Any, image: ImagePreprocessing, *, where: str) -> None:
        super().__init__()
        embeddings, vision = model.vision_model.embeddings, model.config.vision_config
        side = vision.image_size // vision.patch_size
        self.scale: int = model.connector.scale_factor
        if (image.height, image.width) != (vision.image_size, vision.image_size):
            raise CheckpointError(
                f"{where}: expected tiles of vision_config.image_size, {vision.image_size} x {vision.image_size} "
                f"pixels, got {image.height} x {image.width} from the processor"
            )
        if side % self.scale:
            raise CheckpointError(
                f"{where}: expected a scale_factor that divides the {side} patches of a side, got {self.scale}"
            )
        self.normalise = PixelNormalisation(image.rescale, image.mean, image.std)
        self.patch_embedding: nn.Conv2d = embeddings.patch_embedding
        self.register_buffer("positions", embeddings.position_embedding.weight.detach()[None])
        self.blocks = nn.ModuleList(Block(layer) for layer in model.vision_model.encoder.layers)
        self.last_norm: nn.LayerNorm = model.vision_model.post_layernorm
        self.projection: nn.Linear = model.connector.modality_projection.proj
        self.side = side

    def forward(self, pixels: Tensor) -> Tensor:
        rows = self.patch_embedding(self.normalise(pixels)).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            rows = block(rows)
        return self.projection(self._shuffle(self.last_norm(rows)))  # type: ignore[no-any-return]

    def _shuffle(self, rows: Tensor) -> Tensor:
        """[1, P, C] -> [1, P / scale^2, C * scale^2]: patches of a square of `scale` become one row."""
        width, side, scale = rows.shape[-1], self.side, self.scale
        rows = rows.reshape(side // scale, scale, side // scale, scale * width)
        return rows.transpose(1, 2).reshape(1, (side // scale) ** 2, scale * scale * width)
