"""A hundred classes with names that mean nothing, each one exact combination of attributes; half are never trained on.

Their pictures, the scenes in which a teacher meets their names, and what is said about them: the truth, a part of
it, the truth with mistakes, and the truth about another class.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgevlm.data.captions import caption
from edgevlm.data.dataset import Example
from edgevlm.data.drawing import draw
from edgevlm.data.fingerprints import fingerprint
from edgevlm.data.rendered import RENDERER_VERSION, SIZE
from edgevlm.data.scene import (
    ATTRIBUTES,
    BACKGROUNDS,
    CELLS,
    COUNTS,
    STYLES,
    UNSEEN_BACKGROUNDS,
    UNSEEN_STYLES,
    Group,
    Scene,
    uniforms,
)

CLASSES = 100
WRONG_SHARE = 0.15
Telling = Literal["right", "partial", "wrong", "shuffled"]
_TOLD = ("shape", "colour", "texture", "finish", "count")
_OPTIONAL = ("colour", "texture", "finish")
_DRAWN_AT_ONCE = 128
_STREAMS = 0x6F6F6400000000
_SYLLABLES = "ba de fo gi ku la me no pu ri sa te vo wi zu bel dor fin gam hul kem lop mun nar pel".split()  # noqa: SIM905


@dataclass(frozen=True)
class StudyClass:
    """One class: a name, and what all of its pictures show; their size, place, style and background vary."""

    name: str
    group: Group


def make_classes(count: int = CLASSES) -> tuple[StudyClass, ...]:
    """The first `count` classes, at most `CLASSES`; the same ones every time."""
    draws = random.Random("classes")
    names = draws.sample(_words(), CLASSES)
    groups: dict[Group, None] = {}
    while len(groups) < CLASSES:
        values = {name: draws.choice(ATTRIBUTES[name]) for name in ("shape", "colour", "texture", "finish")}
        groups[Group(**values, size=None, count=draws.choice(COUNTS))] = None
    return tuple(map(StudyClass, names[:count], groups))


def other_names() -> tuple[str, ...]:
    """Names of the same making that no class has."""
    taken = {told.name for told in make_classes()}
    return tuple(word for word in _words() if word not in taken)


def _words() -> list[str]:
    return [a + b for a in _SYLLABLES for b in _SYLLABLES if a != b]


def describe(classes: Sequence[StudyClass], telling: Telling = "right") -> dict[str, str]:
    """Name -> a sentence about it.

    Args:
        classes: Which; with `shuffled` they exchange their sentences.
        telling: `right`: all five attributes. `partial`: shape, count and one or two of the other three. `wrong`:
            each attribute has another value with a chance of `WRONG_SHARE`. `shuffled`: each class has the right
            sentence of the next one, as a control.
    """
    groups = [told.group for told in classes]
    if telling == "shuffled":
        groups = groups[1:] + groups[:1]
    draws = [random.Random(f"describe {telling} {told.name}") for told in classes]
    return {
        told.name: caption(Scene((_distort(group, telling, draw),)))
        for told, group, draw in zip(classes, groups, draws, strict=True)
    }


def _distort(group: Group, telling: Telling, draws: random.Random) -> Group:
    changes: dict[str, object] = {}
    if telling == "wrong":
        for name in _TOLD:
            if draws.random() < WRONG_SHARE:
                values: tuple[object, ...] = COUNTS if name == "count" else ATTRIBUTES[name]
                changes[name] = draws.choice([value for value in values if value != getattr(group, name)])
    if telling == "partial":
        kept = draws.sample(_OPTIONAL, draws.randint(1, 2))
        changes = {name: None for name in _OPTIONAL if name not in kept}
    return replace(group, **changes)  # type: ignore[arg-type]


class ClassPictures:
    """Pictures of classes, drawn once and kept in memory: a dataset of `edgevlm.data.dataset`'s kind.

    Args:
        classes: Which.
        each: Pictures of every class.
        seed: Of their sizes, places, styles and noise.
        unseen_styles: Whether they are drawn in styles and on backgrounds that are used for nothing else.
    """

    def __init__(self, classes: Sequence[StudyClass], each: int, seed: int, *, unseen_styles: bool = False) -> None:
        self.name = (
            f"{each} pictures of {len(classes)} classes{', unseen styles' if unseen_styles else ''}, seed {seed}"
        )
        self.labels = tuple(sorted(told.name for told in classes))
        rows = [(told.name, *map(str, vars(told.group).values())) for told in classes]
        self.fingerprint = fingerprint(self.name, f"{self.name}, renderer {RENDERER_VERSION}", rows)
        members = [told for told in classes for _ in range(each)]
        self._labels = [self.labels.index(told.name) for told in members]
        draws = random.Random(f"place {seed}")
        scenes = [place(told.group, draws, unseen_styles=unseen_styles) for told in members]
        self._pixels = draw_scenes(scenes, seed)

    def __len__(self) -> int:
        return len(self._labels)

    def example(self, index: int) -> Example:
        """The class of a picture."""
        return Example(f"{index:06d}", self._labels[index])

    def picture(self, index: int) -> Image.Image:
        """The picture."""
        return Image.fromarray(self._pixels[index])


def place(group: Group, draws: random.Random, *, unseen_styles: bool = False) -> Scene:
    """A scene of the group alone; what it leaves open, and all that no caption mentions, is drawn."""
    return Scene(
        groups=(replace(group, size=group.size or draws.choice(ATTRIBUTES["size"])),),
        cell=draws.choice(CELLS) if group.count == 1 else None,
        style=draws.choice(UNSEEN_STYLES if unseen_styles else STYLES),
        background=draws.choice(UNSEEN_BACKGROUNDS if unseen_styles else BACKGROUNDS),
    )


def draw_scenes(scenes: Sequence[Scene], seed: int) -> NDArray[np.uint8]:
    """uint8 [N, SIZE, SIZE, 3]; what is random about a picture depends on the seed and its number."""
    pixels = np.empty((len(scenes), SIZE, SIZE, 3), np.uint8)
    for start in range(0, len(scenes), _DRAWN_AT_ONCE):
        some = scenes[start : start + _DRAWN_AT_ONCE]
        # Streams of small seeds belong to other datasets of rendered scenes.
        noise = uniforms(np.uint64(seed + _STREAMS), np.arange(start, start + len(some), dtype=np.uint64), 64)
        pixels[start : start + len(some)] = draw(some, noise, SIZE)
    return pixels
