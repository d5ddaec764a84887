"""Rendered scenes as datasets: no file is read, and a picture is drawn when it is asked for.

    scenes:SPLIT:COUNT[:SEED][:held-out]     any scene, with captions
    objects:SPLIT:COUNT[:SEED][:held-out]    one group of like objects, labelled "FINISH COLOUR TEXTURE SHAPE"; captions

SPLIT is one of `edgevlm.data.scenes`. Pictures are numbered, and a number's picture depends on form, split and seed
alone: COUNT counts from number 0, or with `held-out` from 2^40, which no training reaches.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from itertools import product
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgevlm.data.captions import caption, leave_open
from edgevlm.data.dataset import Dataset, Example
from edgevlm.data.drawing import draw
from edgevlm.data.fingerprints import fingerprint
from edgevlm.data.scene import (
    ATTRIBUTES,
    BACKGROUNDS,
    CELLS,
    STYLES,
    UNSEEN_BACKGROUNDS,
    UNSEEN_STYLES,
    Group,
    Scene,
    Split,
    is_held_out,
    uniforms,
)
from edgevlm.data.scenes import Scenes
from edgevlm.errors import DataError

HELD_OUT_START = 1 << 40
# To be raised when a picture or a caption of some number changes: what was computed from the old ones is then stale.
# 2: a picture depends on its number alone; chalk, halos and, rarely, outlines had depended on what was drawn with it.
RENDERER_VERSION = 2
SIZE = 64  # side of the pictures in pixels

SPLITS: tuple[Split, ...] = get_args(Split)
_HELD_OUT = "held-out"
_WORDINGS = 3
# A group has one, two or three members as often as among the scenes with one group: 40 to 12 to 8.
_COUNT_EDGES = (40 / 60, 52 / 60)


@dataclass(frozen=True)
class RenderedSpec:
    """A spec, taken apart: see the module's text."""

    split: Split
    count: int
    seed: int = 0
    held_out: bool = False

    @property
    def numbers(self) -> range:
        """The pictures' numbers."""
        start = HELD_OUT_START if self.held_out else 0
        return range(start, start + self.count)


class RenderedScenes:
    """Scenes with captions, without labels."""

    labels: tuple[str, ...] = ()

    def __init__(self, name: str, spec: RenderedSpec) -> None:
        self.name = name
        self.spec = spec
        kind = f"{type(self).__name__} {RENDERER_VERSION}"
        self.fingerprint = fingerprint(name, kind, [(spec.split, spec.count, spec.seed, spec.held_out)])
        self._scenes = Scenes(spec.seed, spec.split, SIZE)

    def __len__(self) -> int:
        return self.spec.count

    def example(self, index: int) -> Example:
        """The canonical caption, then up to three other wordings, which may leave attributes open."""
        number = self.spec.numbers[index]
        key = f"{self.spec.split}-{self.spec.seed}-{number}"
        return Example(key, self._label(number), _captions(self._scene(number), random.Random(key)))

    def picture(self, index: int) -> Image.Image:
        """The picture, `SIZE` pixels square."""
        number = self.spec.numbers[index]
        return Image.fromarray(self._pixels(number))

    def scene(self, index: int) -> tuple[int, Scene]:
        """The picture's number, and what is in it."""
        number = self.spec.numbers[index]
        return number, self._scene(number)

    def _scene(self, number: int) -> Scene:
        return self._scenes.scene(number)

    def _label(self, number: int) -> int | None:
        return None

    def _pixels(self, number: int) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = self._scenes[number][1]
        return pixels


class RenderedObjects(RenderedScenes):
    """Scenes of one group, labelled by the combination that it shows.

    The labels take turns, in an order that the seed shuffles: of `n` labels, any `n` pictures in a row show each one
    once. `train` and `styles` have the combinations that `train` shows, `combinations` has those that it never does.
    """

    def __init__(self, name: str, spec: RenderedSpec) -> None:
        super().__init__(name, spec)
        self.labels = _labels(spec.split)
        self._turns = list(range(len(self.labels)))
        random.Random(f"objects/{spec.seed}").shuffle(self._turns)

    def _label(self, number: int) -> int:
        return self._turns[number % len(self._turns)]

    def _scene(self, number: int) -> Scene:
        row = self._uniforms(number, 5, 0)[0].tolist()
        finish, colour, texture, shape = self.labels[self._label(number)].split()
        count = int(np.searchsorted(_COUNT_EDGES, row[0], side="right")) + 1
        group = Group(shape, colour, finish, texture, _pick(ATTRIBUTES["size"], row[1]), count)
        unseen = self.spec.split == "styles"
        return Scene(
            groups=(group,),
            cell=_pick(CELLS, row[2]) if count == 1 else None,
            style=_pick(UNSEEN_STYLES if unseen else STYLES, row[3]),
            background=_pick(UNSEEN_BACKGROUNDS if unseen else BACKGROUNDS, row[4]),
        )

    def _pixels(self, number: int) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = draw([self._scene(number)], self._uniforms(number, 64, 1), SIZE)[0]
        return pixels

    def _uniforms(self, number: int, channels: int, stream: int) -> NDArray[np.float64]:
        # `Scenes` has its streams at eight times the seed; the constant keeps these apart from them.
        key = (self.spec.seed * 8 + SPLITS.index(self.spec.split) * 2 + stream) ^ 0x6F626A6563747300
        return uniforms(np.uint64(key), np.array([number], np.uint64), channels)


_DATASETS: dict[str, type[RenderedScenes]] = {"scenes": RenderedScenes, "objects": RenderedObjects}


def is_rendered(spec: str) -> bool:
    """Whether the spec asks for rendered pictures, rightly or wrongly written."""
    return spec.partition(":")[0] in _DATASETS and ":" in spec


def open_rendered(spec: str) -> Dataset:
    """The dataset that a spec of this module's forms asks for.

    Raises:
        DataError: an unknown split, or a count or seed that is not one.
    """
    form, *fields = spec.split(":")
    held_out = fields[-1] == _HELD_OUT
    fields = fields[:-1] if held_out else fields
    if not 2 <= len(fields) <= 3:
        raise DataError(
            f"{spec}: expected {form}:SPLIT:COUNT[:SEED][:{_HELD_OUT}]",
            hint=f"e.g. {form}:train:2000, or {form}:combinations:500:1:{_HELD_OUT}",
        )
    split, count, seed = *fields, *["0"][: 3 - len(fields)]
    if split not in SPLITS:
        raise DataError(f"{spec}: expected one of the splits {', '.join(SPLITS)}, got {split!r}")
    asked = RenderedSpec(split, _whole(count, 1, "count", spec), _whole(seed, 0, "seed", spec), held_out)
    return _DATASETS[form](spec, asked)


def _whole(text: str, least: int, meaning: str, spec: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) < least:
        raise DataError(f"{spec}: expected a whole number from {least} to 999999999 as the {meaning}, got {text!r}")
    return int(text)


def _captions(scene: Scene, draws: random.Random) -> tuple[str, ...]:
    told = [leave_open(scene, draws, draws.choice((0.0, 0.0, 0.3, 0.6))) for _ in range(_WORDINGS)]
    worded = [caption(description, draws) for description in told]
    return tuple(dict.fromkeys([caption(scene), *worded]))


def _labels(split: Split) -> tuple[str, ...]:
    held_out = split == "combinations"
    combinations = product(*(ATTRIBUTES[name] for name in ("finish", "colour", "texture", "shape")))
    return tuple(
        sorted(
            f"{finish} {colour} {texture} {shape}"
            for finish, colour, texture, shape in combinations
            if is_held_out(shape, colour, texture, finish) == held_out
        )
    )


def _pick(values: tuple[str, ...], number: float) -> str:
    return values[int(number * len(values))]
