"""Draws scenes: signed-distance shapes with textures and finishes, composed over a background, many at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgevlm.data.scene import ATTRIBUTES, CELLS, Group, Scene, uniforms

F32 = NDArray[np.float32]

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.10, 0.10),
    "orange": (0.97, 0.52, 0.05),
    "yellow": (0.97, 0.90, 0.12),
    "green": (0.10, 0.62, 0.18),
    "cyan": (0.10, 0.80, 0.85),
    "blue": (0.13, 0.25, 0.88),
    "purple": (0.52, 0.16, 0.70),
    "pink": (0.97, 0.50, 0.72),
    "white": (0.97, 0.97, 0.97),
    "black": (0.06, 0.06, 0.06),
}
_PALETTE = np.array([COLOURS[name] for name in ATTRIBUTES["colour"]], np.float32)
# The objects of a slot are painted in bands: the radii at which they end, of which the last is the slot's largest.
# A patch is as large as its band's end asks for, never its objects: halos, grain and an outline's brightness depend on
# where it ends, and would differ with what else is painted. Pictures depend on these figures: see `RENDERER_VERSION`.
_BANDS = ((0.125, 0.2, 0.22, 0.38), (0.125, 0.163), (0.125, 0.163))


@dataclass(frozen=True)
class _Objects:
    """The objects of a batch as columns; lengths in shares of the picture's side."""

    scene: NDArray[np.intp]
    slot: NDArray[np.intp]
    x: F32
    y: F32
    radius: F32
    shape: NDArray[np.intp]
    texture: NDArray[np.intp]
    finish: NDArray[np.intp]
    colour: F32
    style: NDArray[np.str_]
    draws: F32


def draw(scenes: Sequence[Scene], draws: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    """Draws the scenes, each as if it were alone.

    Args:
        scenes: N scene graphs, every attribute set.
        draws: float64 [N, 64] in [0, 1): all that is random about a picture.
        size: Side of the pictures in pixels.

    Returns:
        uint8 [N, size, size, 3], RGB.
    """
    numbers = draws.astype(np.float32)
    margin = size // 2
    canvas = np.zeros((len(scenes), size + 2 * margin, size + 2 * margin, 3), np.float32)
    inner = canvas[:, margin:-margin, margin:-margin]
    inner[...] = _backgrounds(scenes, numbers, size)
    objects = _place(scenes, numbers)
    for slot, ends in enumerate(_BANDS):
        bands = np.searchsorted(ends[:-1], objects.radius)
        for band, end in enumerate(ends):
            chosen = np.flatnonzero((objects.slot == slot) & (bands == band))
            if chosen.size:
                _paint(canvas, objects, chosen, end, size, margin)
    pixels = np.clip(inner, 0.0, 1.0)
    pixels *= 255.0
    pixels += 0.5
    return pixels.astype(np.uint8)


def _backgrounds(scenes: Sequence[Scene], draws: F32, size: int) -> F32:
    """float32 [N, size, size, 3]: colours that differ from every object's, then a pattern on them."""
    count = len(scenes)
    colours = draws[:, 40:52].reshape(count, 4, 3).copy()
    greys = draws[:, 52] < 0.4
    colours[greys] = np.round(colours[greys, :, :1] * 1.6 - 0.3, 1).clip(0.0, 1.0)
    used = np.array([[ATTRIBUTES["colour"].index(g.colour or "red") for g in _padded(s)] for s in scenes])
    contrast = np.abs(colours[:, :, None] - _PALETTE[used][:, None]).max(3).min(2)
    base = colours[np.arange(count), contrast.argmax(1)]
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    kind = np.array([scene.background for scene in scenes])
    tone = np.zeros((count, size, size), np.float32)
    amount = (0.06 + 0.1 * draws[:, 53])[:, None, None]
    angle = 2 * np.pi * draws[:, 54]
    along = np.cos(angle)[:, None, None] * axis[None, None, :] + np.sin(angle)[:, None, None] * axis[None, :, None]
    pitch = (14 + 22 * draws[:, 55])[:, None, None]
    for name, pattern in (
        ("gradient", lambda m: 2.2 * amount[m] * along[m]),
        ("banded", lambda m: amount[m] * np.sin(pitch[m] * along[m]) * 0.6),
        ("split", lambda m: amount[m] * np.sign(along[m] + 0.2 * (draws[m, 56, None, None] - 0.5))),
        ("tiled", lambda m: amount[m] * np.sign(np.sin(pitch[m] * axis[:, None]) * np.sin(pitch[m] * axis[None, :]))),
        ("vignette", lambda m: amount[m] * (1 - 8 * (axis[:, None] ** 2 + axis[None, :] ** 2))),
    ):
        rows = np.flatnonzero(kind == name)
        if rows.size:
            tone[rows] = pattern(rows)
    rows = np.flatnonzero(kind == "grainy")
    if rows.size:
        tone[rows] = (_noise(draws[rows, 57], size) - 0.5) * amount[rows] * 2.0
    background: F32 = base[:, None, None, :] + tone[..., None]
    return background


def _noise(keys: F32, size: int) -> F32:
    """float32 [N, size, size] in [0, 1), a function of each key alone."""
    return (
        uniforms(np.uint64(7), (keys * 2.0**24).astype(np.uint64), size * size)
        .astype(np.float32)
        .reshape(-1, size, size)
    )


def _padded(scene: Scene) -> list[Group]:
    return [scene.groups[min(slot, len(scene.groups) - 1)] for slot in range(3)]


def _place(scenes: Sequence[Scene], draws: F32) -> _Objects:
    rows: list[tuple[float, ...]] = []
    numbers = draws.tolist()
    for index, scene in enumerate(scenes):
        slot = 0
        for group_index, group in enumerate(scene.groups):
            attributes = [
                ATTRIBUTES[name].index(getattr(group, name)) for name in ("shape", "texture", "finish", "colour")
            ]
            for x, y, radius in _positions(scene, group_index, numbers[index]):
                rows.append((index, slot, x, y, radius, *attributes))
                slot += 1
    columns = list(zip(*rows, strict=True))
    scene_index, slots = np.array(columns[0], np.intp), np.array(columns[1], np.intp)
    own = draws[scene_index[:, None], (slots * 6)[:, None] + np.arange(6)[None, :]]
    colour = _PALETTE[np.array(columns[8], np.intp)] + (own[:, :3] - 0.5) * 0.12
    return _Objects(
        scene=scene_index,
        slot=slots,
        x=np.array(columns[2], np.float32),
        y=np.array(columns[3], np.float32),
        radius=np.array(columns[4], np.float32),
        shape=np.array(columns[5], np.intp),
        texture=np.array(columns[6], np.intp),
        finish=np.array(columns[7], np.intp),
        colour=colour.clip(0.0, 1.0).astype(np.float32),
        style=np.array([scene.style for scene in scenes])[scene_index],
        draws=own,
    )


def _positions(scene: Scene, group_index: int, draws: list[float]) -> list[tuple[float, float, float]]:
    """Centre x, y and radius of every object of a group, in shares of the picture's side."""
    group = scene.groups[group_index]
    spread = draws[20 + group_index]
    small = 0.105 + 0.02 * spread
    jitter = [(value - 0.5) * 0.06 for value in draws[24 + 4 * group_index : 28 + 4 * group_index]]
    if scene.cell is not None:
        row, column = divmod(CELLS.index(scene.cell), 3)
        reach = 0.22 if scene.cell == "middle centre" else 0.06
        radius = small if group.size == "small" else 0.16 + reach * spread
        return [(0.24 + 0.26 * column + jitter[0], 0.24 + 0.26 * row + jitter[1], radius)]
    radius = small if group.size == "small" else 0.148 + 0.015 * spread
    if len(scene.groups) == 1:
        if group.count == 3 and draws[23] > 0.6:
            offsets = [(-0.2, 0.17), (0.2, 0.17), (0.0, -0.2)]
        else:
            line = [-0.21, 0.21] if group.count == 2 else [-0.32, 0.0, 0.32]
            offsets = [(step, 0.0) if draws[23] < 0.3 else (0.0, step) for step in line]
        shift = [(value - 0.5) * 0.02 for value in draws[36:38]]
        return [
            (0.5 + dx + shift[0] + jitter[i] * 0.25, 0.5 + dy + shift[1] + jitter[3 - i] * 0.25, radius)
            for i, (dx, dy) in enumerate(offsets)
        ]
    along = {2: (0.27, 0.73), 3: (0.175, 0.5, 0.825)}[len(scene.groups)][group_index]
    across = [0.5 + (draws[36 + group_index] - 0.5) * 0.36] if group.count == 1 else [0.29, 0.71]
    return [
        (along + jitter[i] * 0.3, place + jitter[i + 2] * 0.3, radius)
        if scene.axis == "left to right"
        else (place + jitter[i + 2] * 0.3, along + jitter[i] * 0.3, radius)
        for i, place in enumerate(across)
    ]


def _paint(canvas: F32, objects: _Objects, chosen: NDArray[np.intp], end: float, size: int, margin: int) -> None:
    """Composes one object of the band up to `end` on each of some pictures; no picture comes twice in `chosen`."""
    radius = objects.radius[chosen]
    side = int(np.ceil(end * size * 2.7)) + 2
    centre = np.stack([objects.y[chosen], objects.x[chosen]], 1) * size + margin
    corner = np.floor(centre - side / 2).astype(np.intp)
    step = np.arange(side)
    scale = (radius * size)[:, None]
    rows, columns = corner[:, :1] + step, corner[:, 1:] + step
    dy = ((rows + 0.5 - centre[:, :1]) / scale).astype(np.float32)[:, :, None]
    dx = ((columns + 0.5 - centre[:, 1:]) / scale).astype(np.float32)[:, None, :]
    angle = (objects.draws[chosen, 3] - 0.5) * 0.5
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    x, y = cos * dx + sin * dy, cos * dy - sin * dx
    distance = _distances(objects.shape[chosen], x, y)
    style = objects.style[chosen]
    softness = np.where(style == "soft", 0.35, 1.0).astype(np.float32)[:, None, None]
    cover = np.clip(0.5 - distance * scale[:, :, None] * softness, 0.0, 1.0)
    colour = _surface(objects, chosen, x, y, dy)
    where = (objects.scene[chosen][:, None, None], rows[:, :, None], columns[:, None, :])
    patch = canvas[where]
    _decorate(patch, colour, cover, distance, style, objects, chosen, (dx, dy, scale[:, :, None]))
    patch += cover[..., None] * (colour - patch)
    canvas[where] = patch


def _decorate(
    patch: F32,
    colour: F32,
    cover: F32,
    distance: F32,
    style: NDArray[np.str_],
    objects: _Objects,
    chosen: NDArray[np.intp],
    local: tuple[F32, F32, F32],
) -> None:
    """What a drawing style adds: to the picture under the object (`patch`), its colour, or its cover."""
    dx, dy, scale = local
    outlined = np.flatnonzero(style == "outlined")
    if outlined.size:
        line = np.clip((distance[outlined] + 0.16) * scale[outlined] + 0.5, 0.0, 1.0)[..., None]
        bright = colour[outlined].mean((1, 2, 3)) < 0.18
        colour[outlined] += line * (np.where(bright, 0.75, 0.05)[:, None, None, None] - colour[outlined])
    shadowed = np.flatnonzero(style == "shadowed")
    if shadowed.size:
        distance_below = _distances(objects.shape[chosen][shadowed], dx[shadowed] - 0.16, dy[shadowed] - 0.2)
        patch[shadowed] *= 1.0 - 0.45 * np.clip(0.5 - distance_below * scale[shadowed] * 0.5, 0.0, 1.0)[..., None]
    chalk = np.flatnonzero(style == "chalk")
    if chalk.size:
        grain = _noise(objects.draws[chosen[chalk], 4], distance.shape[1])
        cover[chalk] *= 0.6 + 0.4 * (grain > 0.3)
    haloed = np.flatnonzero(style == "haloed")
    if haloed.size:
        glow = np.exp(-12.0 * np.clip(distance[haloed], 0.0, None))[..., None]
        patch[haloed] += 0.6 * glow * (1.0 - patch[haloed].round() - patch[haloed])


def _surface(objects: _Objects, chosen: NDArray[np.intp], x: F32, y: F32, dy: F32) -> F32:
    """float32 [M, side, side, 3]: the object's colour, with its texture and finish."""
    base = objects.colour[chosen]
    dark = base.mean(1, keepdims=True) < 0.3
    second = np.where(dark, base * 0.45 + 0.5, base * 0.35)
    phase = objects.draws[chosen, 5][:, None, None] * 2.0 - 1.0
    marks = _marks(objects.texture[chosen], x, y, phase)
    colour: F32 = base[:, None, None, :] + marks[..., None] * (second - base)[:, None, None, :]
    finish = objects.finish[chosen]
    rows = np.flatnonzero(finish == ATTRIBUTES["finish"].index("glossy"))
    if rows.size:
        shine = np.exp(-((x[rows] + 0.28) ** 2 + (y[rows] + 0.3) ** 2) * 14.0)[..., None]
        light = np.where(base[rows].min(1) > 0.8, 0.55, 1.0)[:, None, None, None]
        colour[rows] += np.clip(1.6 * shine, 0, 1) * (light - colour[rows])
    rows = np.flatnonzero(finish == ATTRIBUTES["finish"].index("metallic"))
    if rows.size:
        band = np.tanh(9.0 * (dy[rows] - 0.05)) * np.exp(-1.2 * np.abs(dy[rows] - 0.05))
        colour[rows] *= 1.0 - 0.5 * band[..., None].clip(0, 1)
        colour[rows] += 0.55 * (-band)[..., None].clip(0, 1) * (1.0 - colour[rows])
    return colour


def _marks(texture: NDArray[np.intp], x: F32, y: F32, phase: F32) -> F32:
    """float32 [M, side, side] in 0..1: where a texture's second colour goes."""
    marks = np.zeros(x.shape, np.float32)
    names = ATTRIBUTES["texture"]
    rows = np.flatnonzero(texture == names.index("striped"))
    if rows.size:
        marks[rows] = np.clip(np.sin(8.5 * (0.8 * x[rows] + 0.6 * y[rows]) + 3 * phase[rows]) * 3 + 0.5, 0, 1)
    rows = np.flatnonzero(texture == names.index("dotted"))
    if rows.size:
        dots = np.cos(8.0 * x[rows] + phase[rows]) + np.cos(8.0 * y[rows] - phase[rows])
        marks[rows] = np.clip((dots - 0.75) * 3 + 0.5, 0, 1)
    rows = np.flatnonzero(texture == names.index("checked"))
    if rows.size:
        squares = np.sin(5.2 * x[rows] + phase[rows]) * np.sin(5.2 * y[rows] - phase[rows])
        marks[rows] = np.clip(squares * 5 + 0.5, 0, 1)
    return marks


def _distances(shape: NDArray[np.intp], x: F32, y: F32) -> F32:
    """float32 [M, side, side]: signed distance to each shape's edge in radii, negative inside."""
    result = np.empty(np.broadcast_shapes(x.shape, y.shape), np.float32)
    for index, name in enumerate(ATTRIBUTES["shape"]):
        rows = np.flatnonzero(shape == index)
        if rows.size:
            result[rows] = _DISTANCE[name](x[rows], y[rows])
    return result


def _crescent(x: F32, y: F32) -> F32:
    distance: F32 = np.maximum(np.hypot(x, y) - 0.95, 0.72 - np.hypot(x - 0.42, y))
    return distance


def _cross(x: F32, y: F32) -> F32:
    across, up = np.abs(x), np.abs(y)
    distance: F32 = np.minimum(np.maximum(across - 0.29, up - 0.95), np.maximum(up - 0.29, across - 0.95))
    return distance


def _star(x: F32, y: F32) -> F32:
    # Folded into one tenth of a turn, a five-pointed star is one straight edge from tip to notch.
    turn, angle = np.float32(2 * np.pi / 5), np.arctan2(x, -y)
    folded = np.abs(angle - turn * np.round(angle / turn))
    radius = np.hypot(x, y)
    tip, notch = np.array([1.02, 0.0]), 0.44 * np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)])
    normal = np.array([notch[1], tip[0] - notch[0]], np.float32)
    normal /= np.hypot(*normal)
    distance: F32 = (radius * np.cos(folded) - np.float32(tip[0])) * normal[0] + radius * np.sin(folded) * normal[1]
    return distance


def _heart(x: F32, y: F32) -> F32:
    # Two discs and the square between them, turned by 45 degrees.
    across = np.abs(x)
    lobes = np.hypot(across - 0.43, y + 0.33) - 0.5
    tip = np.maximum((across + (y + 0.02)) * 0.7071 - 0.62, -(y + 0.33))
    distance: F32 = np.minimum(lobes, np.maximum(tip, across - 0.93))
    return distance


_DISTANCE = {
    "circle": lambda x, y: np.hypot(x, y) - 0.92,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) - 0.8,
    "triangle": lambda x, y: np.maximum(np.abs(x) * 0.866 - (y + 0.1) * 0.5, y - 0.2 - 0.4) - 0.35 + 0.1,
    "star": _star,
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.7) - 0.24,
    "cross": _cross,
    "diamond": lambda x, y: (np.abs(x) * 1.25 + np.abs(y) - 1.0) * 0.65,
    "crescent": _crescent,
    "heart": _heart,
}
