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
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "combinations", "styles"]
Axis = Literal["left to right", "top to bottom"]

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": ("circle", "square", "triangle", "star", "ring", "cross", "diamond", "crescent", "heart"),
    "colour": ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "white", "black"),
    "finish": ("matte", "glossy", "metallic"),
    "texture": ("plain", "striped", "dotted", "checked"),
    "size": ("small", "large"),
}
COUNTS = (1, 2, 3)
CELLS = tuple(f"{row} {column}" for row in ("top", "middle", "bottom") for column in ("left", "centre", "right"))
AXES: tuple[Axis, ...] = ("left to right", "top to bottom")
STYLES = ("flat", "outlined", "shadowed", "soft")
BACKGROUNDS = ("plain", "gradient", "grainy", "banded", "split")
UNSEEN_STYLES = ("chalk", "haloed")
UNSEEN_BACKGROUNDS = ("tiled", "vignette")

# Layouts: counts of the groups, and how often each layout is drawn.
_LAYOUTS: tuple[tuple[tuple[int, ...], float], ...] = (
    ((1,), 0.40),
    ((2,), 0.12),
    ((3,), 0.08),
    ((1, 1), 0.18),
    ((1, 2), 0.05),
    ((2, 1), 0.05),
    ((1, 1, 1), 0.12),
)


@dataclass(frozen=True)
class Group:
    """One to three like objects. In a description any attribute but the count may be open (`None`)."""

    shape: str | None
    colour: str | None
    finish: str | None
    texture: str | None
    size: str | None
    count: int = 1


@dataclass(frozen=True)
class Scene:
    """A scene graph, or a description of one.

    Attributes:
        groups: In spatial order along `axis`.
        cell: Where a lone object is, one of `CELLS`; None for other layouts, or left open.
        axis: How several groups are ordered; None for a lone group, or left open.
        style, background: How it is drawn; no part of any description.
    """

    groups: tuple[Group, ...]
    cell: str | None = None
    axis: Axis | None = None
    style: str = "flat"
    background: str = "plain"


def is_held_out(shape: str, colour: str, texture: str, finish: str) -> bool:
    """Whether a combination of attributes is kept from the `train` split (one in five is)."""
    index = [
        ATTRIBUTES[name].index(value)
        for name, value in (("shape", shape), ("colour", colour), ("texture", texture), ("finish", finish))
    ]
    return bool(_HELD_OUT[tuple(index)])


def describes(description: Scene, scene: Scene) -> bool:
    """Whether everything that the description says is true of the scene, and it names every group."""
    if len(description.groups) != len(scene.groups):
        return False
    if description.cell is not None and description.cell != scene.cell:
        return False
    if description.axis is not None and description.axis != scene.axis:
        return False
    orders = [scene.groups] if description.axis is not None else _orders(scene.groups)
    return any(all(map(_group_describes, description.groups, groups)) for groups in orders)


def variants(scene: Scene, attribute: str) -> tuple[Scene, ...]:
    """Every scene or description that differs from this one in exactly that attribute of one group.

    Args:
        scene: What to vary; attributes left open stay open.
        attribute: A key of `ATTRIBUTES`, `count` or `position`.
    """
    if attribute == "position":
        return _moved(scene)
    found = []
    for index, group in enumerate(scene.groups):
        if attribute == "count":
            others: tuple[object, ...] = tuple(
                count
                for count in COUNTS
                if count != group.count and sum(g.count for g in scene.groups) - group.count + count <= 3
            )
        else:
            value = getattr(group, attribute)
            others = tuple(other for other in ATTRIBUTES[attribute] if other != value) if value is not None else ()
        for other in others:
            groups = list(scene.groups)
            groups[index] = replace(group, **{attribute: other})  # type: ignore[arg-type]
            cell = None if attribute == "count" else scene.cell
            found.append(replace(scene, groups=tuple(groups), cell=cell))
    return tuple(found)


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


def uniforms(key: np.uint64, indices: NDArray[np.uint64], channels: int) -> NDArray[np.float64]:
    """Counter-based random numbers: the same key, index and channel always give the same number.

    The finaliser is SplitMix64's (Steele, Lea and Flood, OOPSLA 2014).

    Args:
        key: Seed of the stream.
        indices: uint64 [N], one counter a row.
        channels: Numbers a row.

    Returns:
        float64 [N, channels] in [0, 1).
    """
    with np.errstate(over="ignore"):
        column = np.arange(1, channels + 1, dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03)
        state = (indices * np.uint64(0x9E3779B97F4A7C15) + _mix(np.array([key])))[:, None] + column
        return (_mix(_mix(state)) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def _group_describes(description: Group, group: Group) -> bool:
    return description.count == group.count and all(
        getattr(description, name) in (None, getattr(group, name)) for name in ATTRIBUTES
    )


def _orders(groups: tuple[Group, ...]) -> list[tuple[Group, ...]]:
    from itertools import permutations

    return list(permutations(groups))


def _moved(scene: Scene) -> tuple[Scene, ...]:
    if scene.cell is not None:
        return tuple(replace(scene, cell=cell) for cell in CELLS if cell != scene.cell)
    if scene.axis is None:
        return ()
    other = AXES[1 - AXES.index(scene.axis)]
    turned = replace(scene, axis=other)
    moved = [turned, *(replace(scene, groups=groups) for groups in _orders(scene.groups) if groups != scene.groups)]
    return tuple(dict.fromkeys(moved))


def _held_out_table() -> NDArray[np.bool_]:
    names = ("shape", "colour", "texture", "finish")
    table = np.indices([len(ATTRIBUTES[name]) for name in names]).reshape(4, -1).T
    codes = (table @ np.array([1, 100, 10_000, 1_000_000])).astype(np.uint64)
    held_out = uniforms(np.uint64(20260), codes, 1)[:, 0] < 0.2
    return held_out.reshape([len(ATTRIBUTES[name]) for name in names])


_HELD_OUT = _held_out_table()
_SEEN_COMBINATIONS = np.argwhere(~_HELD_OUT)
_HELD_OUT_COMBINATIONS = np.argwhere(_HELD_OUT)
_DRAWN_AT_ONCE = 128  # larger chunks fall out of the cache and draw at a quarter of the speed
_LAYOUT_EDGES = np.cumsum([share for _, share in _LAYOUTS])[:-1]
