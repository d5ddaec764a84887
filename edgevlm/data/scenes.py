"""Scenes with exact attributes: what is in a picture, before it is drawn and before it is put into words.

A scene has one to three groups of like objects, at most three objects in all. A group has a shape, colour,
finish, texture, size and count; a lone object has a place in the frame, several groups have an order along an
axis. The drawing style and the background are nuisances that no caption mentions.

A description is a scene with some attributes left open (`None`): `describes` says whether it is true of a
scene, `caption` in `edgevlm.data.captions` puts it into words, `variants` changes it in one attribute.

`Scenes(seed, split)` is an endless, random-access dataset: scene `i` of a seed and split is always the same,
whatever was drawn before it. The splits are made for measuring generalisation:

    train         seen combinations of (shape, colour, texture, finish), seen styles and backgrounds
    combinations  every group is a combination that `train` never shows (one in five is held out)
    styles        seen combinations, drawn in styles and on backgrounds that `train` never shows
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgevlm.data.scene import (
    _HELD_OUT,
    _LAYOUTS,
    ATTRIBUTES,
    AXES,
    BACKGROUNDS,
    CELLS,
    STYLES,
    UNSEEN_BACKGROUNDS,
    UNSEEN_STYLES,
    Group,
    Scene,
    Split,
    uniforms,
)


@dataclass(frozen=True)
class SceneBatch:
    """Scenes with their pictures.

    Attributes:
        scenes: N scene graphs.
        pixels: uint8 [N, size, size, 3], RGB.
    """

    scenes: tuple[Scene, ...]
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class Scenes:
    """The endless dataset of rendered scenes of one seed and split.

    Args:
        seed: Any integer; scene `i` and its picture depend on the seed, the split, the size and `i` alone.
        split: `train`, `combinations` or `styles` (see the module's text).
        size: Side of the square pictures in pixels, at least 64.
    """

    seed: int = 0
    split: Split = "train"
    size: int = 64

    def __post_init__(self) -> None:
        if self.size < 64:
            raise ValueError(f"size: expected at least 64 pixels (textures vanish below), got {self.size}")

    def batch(self, start: int, count: int) -> SceneBatch:
        """Scenes `start` to `start + count - 1` with their pictures."""
        from edgevlm.data.drawing import draw

        scenes: list[Scene] = []
        pixels = np.empty((count, self.size, self.size, 3), np.uint8)
        for first in range(0, count, _DRAWN_AT_ONCE):
            indices = np.arange(start + first, start + min(first + _DRAWN_AT_ONCE, count), dtype=np.uint64)
            chunk = tuple(self._scenes(indices))
            pixels[first : first + len(chunk)] = draw(chunk, self._uniforms(indices, 64, 1), self.size)
            scenes += chunk
        return SceneBatch(tuple(scenes), pixels)

    def scene(self, index: int) -> Scene:
        """Scene `index` without its picture, which takes twenty times as long."""
        return next(self._scenes(np.array([index], np.uint64)))

    def __getitem__(self, index: int) -> tuple[Scene, NDArray[np.uint8]]:
        batch = self.batch(index, 1)
        return batch.scenes[0], batch.pixels[0]

    def _uniforms(self, indices: NDArray[np.uint64], channels: int, stream: int) -> NDArray[np.float64]:
        split = ("train", "combinations", "styles").index(self.split)
        key = np.uint64((self.seed * 8 + split * 2 + stream) & 0xFFFFFFFFFFFFFFFF)
        return uniforms(key, indices, channels)

    def _scenes(self, indices: NDArray[np.uint64]) -> Iterator[Scene]:
        draws = self._uniforms(indices, 64, 0)
        layouts = np.searchsorted(_LAYOUT_EDGES, draws[:, 0], side="right")
        allowed = _HELD_OUT_COMBINATIONS if self.split == "combinations" else _SEEN_COMBINATIONS
        styles, backgrounds = (UNSEEN_STYLES, UNSEEN_BACKGROUNDS) if self.split == "styles" else (STYLES, BACKGROUNDS)
        combinations = allowed[(draws[:, 1:4] * len(allowed)).astype(np.intp)]
        for row, layout, combination in zip(draws.tolist(), layouts.tolist(), combinations.tolist(), strict=True):
            counts = _LAYOUTS[layout][0]
            groups = tuple(
                Group(
                    shape=ATTRIBUTES["shape"][shape],
                    colour=ATTRIBUTES["colour"][colour],
                    finish=ATTRIBUTES["finish"][finish],
                    texture=ATTRIBUTES["texture"][texture],
                    size=ATTRIBUTES["size"][int(row[4 + slot] * 2)],
                    count=count,
                )
                for slot, (count, (shape, colour, texture, finish)) in enumerate(zip(counts, combination, strict=False))
            )
            yield Scene(
                groups=groups,
                cell=CELLS[int(row[7] * 9)] if counts == (1,) else None,
                axis=AXES[int(row[8] * 2)] if len(counts) > 1 else None,
                style=styles[int(row[9] * len(styles))],
                background=backgrounds[int(row[10] * len(backgrounds))],
            )


_SEEN_COMBINATIONS = np.argwhere(~_HELD_OUT)
_HELD_OUT_COMBINATIONS = np.argwhere(_HELD_OUT)
_DRAWN_AT_ONCE = 128  # larger chunks fall out of the cache and draw at a quarter of the speed
_LAYOUT_EDGES = np.cumsum([share for _, share in _LAYOUTS])[:-1]
