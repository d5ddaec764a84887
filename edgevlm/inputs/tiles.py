"""How a picture is cut into tiles, equal to the bit to transformers' processors on Pillow.

By its longer side, as Idefics3's and SmolVLM's do, or to a grid, as GOT-OCR's does, which InternVL has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgevlm.bundle.dialogue import LONGEST_EDGE, Grid, Tiling
from edgevlm.inputs.pictures import Picture, decode, scale


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
    if tiling.grid is None:
        height, width = _longest_edge(picture.height, picture.width, tiling.longest_edge)
        picture = scale(picture, height, width, tiling.resample)
        rows, columns = _whole_tiles(height, width, side)
    else:
        rows, columns = _nearest(picture.height, picture.width, side, tiling.grid)
    if not tiling.cuts:
        return Tiles(_stack([scale(picture, side, side, tiling.resample)]), 0, 0)
    scaled = scale(picture, rows * side, columns * side, tiling.resample)
    if rows * columns == 1:
        return Tiles(_stack([scaled]), 0, 0)
    corners = ((side * row, side * column) for row in range(rows) for column in range(columns))
    cut = [scaled.crop((left, top, left + side, top + side)) for top, left in corners]
    whole = scaled if tiling.grid is None else picture
    return Tiles(_stack([*cut, scale(whole, side, side, tiling.resample)]), rows, columns)


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
    if width >= height and width > LONGEST_EDGE:
        width, height = LONGEST_EDGE, int(LONGEST_EDGE / ratio)
    elif height > width and height > LONGEST_EDGE:
        height, width = LONGEST_EDGE, int(LONGEST_EDGE * ratio)
    return max(height, 1), max(width, 1)


def _whole_tiles(height: int, width: int, side: int) -> tuple[int, int]:
    """Rows and columns of tiles that hold a picture; the longer side decides, the other one in proportion."""
    ratio = width / height
    if width >= height:
        columns = math.ceil(width / side)
        return math.ceil(int(columns * side / ratio) / side), columns
    rows = math.ceil(height / side)
    return rows, math.ceil(int(rows * side * ratio) / side)


def _nearest(height: int, width: int, side: int, grid: Grid) -> tuple[int, int]:
    """Rows and columns of the grid whose proportions are nearest; see `Grid`."""
    sizes = [(rows, columns) for columns in range(1, grid.most + 1) for rows in range(1, grid.most + 1)]
    sizes = sorted((each for each in sizes if grid.least <= each[0] * each[1] <= grid.most), key=math.prod)
    found, least = (1, 1), math.inf
    for rows, columns in sizes:
        off = abs(width / height - columns / rows)
        if off < least or (off == least and width * height > 0.5 * side * side * rows * columns):
            found, least = (rows, columns), off
    return found
