"""LLaVA-NeXT (Liu et al., 2024, https://llava-vl.github.io/blog/2024-01-30-llava-next), made ready for export.

A picture has one of the sizes that the checkpoint was trained with: the whole, as small as a tile, and the tiles go
through LLaVA's tower and projector together. The tiles' rows then stand as in one picture, a learned row behind each of
its lines.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from edgevlm.bundle.spec import ImagePreprocessing
from edgevlm.inputs.resampling import columns_first, weights
from edgevlm.models.generators import llava
from edgevlm.models.generators.parts import Parts, normalised


class Tiles(nn.Module):
    """Pixels [1, 3, H, W] in 0..255 -> the whole as small as a tile, and the tiles, row by row, [1 + T, 3, S, S].

    The whole is scaled as Pillow scales it: by a matrix along each axis, to whole numbers behind each. They are the
    same but for sums half way between two, which Pillow's integers round another way: less than one in five hundred.

    Args:
        image: H and W, multiples of the side of a tile, and Pillow's filter.
        side: S.
    """

    down: Tensor
    across: Tensor

    def __init__(self, image: ImagePreprocessing, side: int) -> None:
        super().__init__()
        self.side, self.rows, self.columns = side, image.height // side, image.width // side
        self.columns_first = columns_first(image.height, image.width, side, side)
        for name, size in (("down", image.height), ("across", image.width)):
            matrix = torch.from_numpy(weights(size, side, image.resample)).float()
            self.register_buffer(name, matrix if name == "down" else matrix.T.contiguous())

    def forward(self, pixels: Tensor) -> Tensor:
        steps = [lambda whole: self.down @ whole, lambda whole: whole @ self.across]
        whole = pixels
        for step in steps if self.columns_first else reversed(steps):
            whole = (step(whole) + 0.5).floor().clamp(0, 255)
        tiles = pixels.reshape(3, self.rows, self.side, self.columns, self.side).permute(1, 3, 0, 2, 4)
        return torch.cat([whole, tiles.reshape(-1, 3, self.side, self.side)])


class EncodeImage(nn.Module):
    """Pixels float32 [1, 3, H, W] in 0..255 -> features float32 [1, P, W], rows like those of a text's tokens.

    Args:
        model: transformers' `LlavaNextModel`.
        image: Size and normalisation of the pixels.
        where: The config's file, for errors.

    Raises:
        CheckpointError: a tower or layers that LLaVA's `EncodeImage` does not take.
    """

    newline: Tensor

    def __init__(self, model: Any, image: ImagePreprocessing, *, where: str) -> None:
        super().__init__()
        side = model.config.vision_config.image_size
        self.tiles = Tiles(image, side)
        self.encode = llava.EncodeImage(model, replace(image, height=side, width=side), where=where)
        self.register_buffer("newline", model.image_newline.detach()[None, None])
        self.side = side // model.config.vision_config.patch_size

    def forward(self, pixels: Tensor) -> Tensor:
        whole, tiles = self.encode(self.tiles(pixels)).split([1, self.tiles.rows * self.tiles.columns])
        grid = tiles.reshape(self.tiles.rows, self.tiles.columns, self.side, self.side, -1).transpose(1, 2)
        grid = grid.reshape(self.tiles.rows * self.side, self.tiles.columns * self.side, -1)
        grid = torch.cat([grid, self.newline.expand(len(grid), 1, -1)], 1)
        return torch.cat([whole, grid.flatten(0, 1)[None]], 1)

    @property
    def positions(self) -> int:
        """P."""
        height, width = self.tiles.rows * self.side, self.tiles.columns * self.side
        return int(self.side**2 + height * (width + 1))


def take_apart(network: Any, image: ImagePreprocessing, context_length: int, *, where: str) -> Parts:
    """The network's parts.

    Args:
        network: transformers' `LlavaNextForConditionalGeneration`.
        image: Size and normalisation of the pixels.
        context_length: Positions that the state holds.
        where: The config's file, for errors.

    Raises:
        CheckpointError: a tower or a decoder that is not carried; see `EncodeImage` and `llava.assemble`.
    """
    model, config = network.model, network.config
    encode_image = EncodeImage(model, image, where=where)

    def original(pixels: Tensor) -> Tensor:
        tiles = normalised(encode_image.tiles(pixels), image.rescale, image.mean, image.std)
        found = model.get_image_features(
            tiles[None],
            torch.tensor([[image.height, image.width]]),
            vision_feature_layer=config.vision_feature_layer,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
        )
        return found.pooler_output[0][None]  # type: ignore[no-any-return]

    return llava.assemble(network, encode_image, encode_image.positions, original, context_length, where=where)
