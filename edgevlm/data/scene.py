"""What is in a picture: groups of like objects with exact attributes, and what describes them."""

from __future__ import annotations

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
