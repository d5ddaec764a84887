"""How a picture is cut into tiles, equal to the bit to transformers' Idefics3 and SmolVLM processors on Pillow."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgevlm.bundle.dialogue import Tiling
from edgevlm.inputs.pictures import Picture, decode, scale

_LONGEST = 4096
"""The processors' own limit on a scaled picture's longer side."""


@dataclass(frozen=True)
class Tiles:
    """A picture in tiles.

    Attributes:
        pixels: float32 [N, 3, S, S], RGB in 0..255: row by row, and the whole picture last.
        rows, columns: Of the tiles beside the whole; 0 where the picture was not cut.
    """

    pixels: NDArray[np.float32]
    rows: int
    columns: int


def cut(source: Picture, tiling: Tiling) -> Tiles:
    """Decodes a picture, scales it and cuts it into tiles.

    >>> cut(PIL.Image.new("RGB", (640, 480)), Tiling(longest_edge=1024, tile=512, resample="lanczos")).pixels.shape
    (5, 3, 512, 512)

    Raises:
        ImageError: see `edgevlm.inputs.pictures.decode`.
    """
    picture, side = decode(source), tiling.tile
    height, width = _longest_edge(picture.height, picture.width, tiling.longest_edge)
    picture = scale(picture, height, width, tiling.resample)
    if not tiling.cuts:
        return Tiles(_stack([scale(picture, side, side, tiling.resample)]), 0, 0)
    height, width = _whole_tiles(height, width, side)
    picture = scale(picture, height, width, tiling.resample)
    rows, columns = height // side, width // side
    if rows * columns == 1:
        return Tiles(_stack([picture]), 0, 0)
    corners = ((side * row, side * column) for row in range(rows) for column in range(columns))
    cut = [picture.crop((left, top, left + side, top + side)) for top, left in corners]
    return Tiles(_stack([*cut, scale(picture, side, side, tiling.resample)]), rows, columns)


def _stack(pictures: list[Image.Image]) -> NDArray[np.float32]:
    stacked = np.stack([np.asarray(picture, np.uint8) for picture in pictures])
    return np.ascontiguousarray(stacked.transpose(0, 3, 1, 2), np.float32)


def _longest_edge(height: int, width: int, longest: int) -> tuple[int, int]:
    """Sizes with a longer side of `longest`; the shorter one is even, rounded up."""
    ratio = width / height
    if width >= height:
        width, height = longest, int(longest / ratio)
        height = max(height + height % 2, 1)
    else:
        height, width = longest, int(longest * ratio)
        width = max(width + width % 2, 1)
    ratio = width / height
    if width >= height and width > _LONGEST:
        width, height = _LONGEST, int(_LONGEST / ratio)
    elif height > width and height > _LONGEST:
        height, width = _LONGEST, int(_LONGEST * ratio)
    return max(height, 1), max(width, 1)


def _whole_tiles(height: int, width: int, side: int) -> tuple[int, int]:
    """Sizes that are multiples of a tile's side, the longer one first, in proportion."""
    ratio = width / height
    if width >= height:
        width = math.ceil(width / side) * side
        height = math.ceil(int(width / ratio) / side) * side
    else:
        height = math.ceil(height / side) * side
        width = math.ceil(int(height * ratio) / side) * side
    return height, width
