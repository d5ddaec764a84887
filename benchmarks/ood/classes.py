"""A hundred classes with names that mean nothing, each one exact combination of attributes; half are never trained on.

Their pictures, the scenes in which a teacher meets their names, and what is said about them: the truth, a part of
it, the truth with mistakes, and the truth about another class.
"""

from __future__ import annotations

import hashlib
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
from edgevlm.data.scenes import ATTRIBUTES, CELLS, COUNTS, Group, Scene, Scenes, Split, uniforms

CLASSES = 100
SEEN = 50
Telling = Literal["right", "partial", "wrong", "shuffled"]
_TOLD = ("shape", "colour", "texture", "finish", "count")
_WRONG_SHARE = 0.15
_SYLLABLES = "ba de fo gi ku la me no pu ri sa te vo wi zu bel dor fin gam hul kem lop mun nar pel".split()


@dataclass(frozen=True)
class StudyClass:
    """One class: a name, and what all of its pictures show; their size, place, style and background vary."""

    name: str
    group: Group


def make_classes() -> tuple[StudyClass, ...]:
    """The classes; the first `SEEN` are trained on. The same ones every time."""
    draws = random.Random("classes")
    names = draws.sample([a + b for a in _SYLLABLES for b in _SYLLABLES if a != b], CLASSES)
    groups: dict[tuple[str, ...], Group] = {}
    while len(groups) < CLASSES:
        values = {name: draws.choice(ATTRIBUTES[name]) for name in ("shape", "colour", "texture", "finish")}
        group = Group(**values, size=None, count=draws.choice(COUNTS))
        groups[(*values.values(), str(group.count))] = group
    return tuple(StudyClass(name, group) for name, group in zip(names, groups.values(), strict=True))


def describe(classes: Sequence[StudyClass], telling: Telling = "right") -> dict[str, str]:
    """Name -> a sentence about it.

    Args:
        classes: All of them.
        telling: `right`: all five attributes. `partial`: the shape and one or two more. `wrong`: 15 % of the
            attributes have another value. `shuffled`: each class has another one's sentence, as a control.
    """
    draws = random.Random(f"describe {telling}")
    groups = [told.group for told in classes]
    if telling == "shuffled":
        groups = groups[1:] + groups[:1]
    return {told.name: _sentence(group, telling, draws) for told, group in zip(classes, groups, strict=True)}


def _sentence(group: Group, telling: Telling, draws: random.Random) -> str:
    if telling == "wrong":
        for name in _TOLD:
            if draws.random() < _WRONG_SHARE:
                values: tuple[object, ...] = COUNTS if name == "count" else ATTRIBUTES[name]
                other = draws.choice([value for value in values if value != getattr(group, name)])
                group = replace(group, **{name: other})  # type: ignore[arg-type]
    if telling == "partial":
        kept = draws.sample(("colour", "texture", "finish"), draws.randint(1, 2))
        group = replace(group, **{name: None for name in ("colour", "texture", "finish") if name not in kept})
    return caption(Scene((group,)))


class ClassPictures:
    """Pictures of classes, drawn once and kept in memory: a dataset of `edgevlm.data.dataset`'s kind.

    Args:
        classes: Which.
        each: Pictures of every class.
        seed: Of their sizes, places, styles and noise.
        split: `train` or `styles`, which has styles and backgrounds that `train` never shows.
    """

    def __init__(self, classes: Sequence[StudyClass], each: int, seed: int, split: Split = "train") -> None:
        self.name = f"classes:{split}:{len(classes)}x{each}:{seed}"
        self.labels = tuple(sorted(told.name for told in classes))
        self.fingerprint = hashlib.sha256(f"{self.name} {sorted(map(repr, classes))}".encode()).hexdigest()
        members = [told for told in classes for _ in range(each)]
        self._labels = [self.labels.index(told.name) for told in members]
        self.scenes = _place(members, seed, split)
        self.pixels = _draw(self.scenes, seed)

    def __len__(self) -> int:
        return len(self._labels)

    def example(self, index: int) -> Example:
        """The class of a picture."""
        return Example(f"{index:06d}", self._labels[index])

    def picture(self, index: int) -> Image.Image:
        """The picture."""
        return Image.fromarray(self.pixels[index])


def _place(members: Sequence[StudyClass], seed: int, split: Split) -> tuple[Scene, ...]:
    """A scene for each, with its class's group; all else is as the split draws it."""
    drawn = Scenes(seed, split).batch(0, len(members)).scenes
    scenes = []
    for index, (told, scene) in enumerate(zip(members, drawn, strict=True)):
        draws = random.Random(f"place {seed} {index}")
        group = replace(told.group, size=draws.choice(ATTRIBUTES["size"]))
        cell = draws.choice(CELLS) if group.count == 1 else None
        scenes.append(replace(scene, groups=(group,), cell=cell, axis=None))
    return tuple(scenes)


def _draw(scenes: tuple[Scene, ...], seed: int) -> NDArray[np.uint8]:
    pixels = np.empty((len(scenes), 64, 64, 3), np.uint8)
    for start in range(0, len(scenes), 128):
        some = scenes[start : start + 128]
        noise = uniforms(np.uint64(seed), np.arange(start, start + len(some), dtype=np.uint64), 64)
        pixels[start : start + len(some)] = draw(some, noise, 64)
    return pixels
