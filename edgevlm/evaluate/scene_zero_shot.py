"""Zero-shot classification of rendered scenes by full description, with the error of each attribute told apart."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgevlm.data.captions import caption
from edgevlm.data.scenes import ATTRIBUTES, Scene, Scenes, variants

EncodeImages = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
EncodeTexts = Callable[[Sequence[str]], NDArray[np.float32]]

VARIED = (*ATTRIBUTES, "count", "position")
CANDIDATES = 50


@dataclass(frozen=True)
class SceneAccuracy:
    """Zero-shot top-1 accuracy, in shares of one.

    Attributes:
        scenes: Number of scenes of the figure `top1`.
        top1: Among 50 descriptions, the true one and 49 that differ from it in one to four attributes.
        by_objects: The same, by number of groups in the scene.
        by_attribute: Among the true description and all that differ in just this attribute of one group.
        chance: What guessing would score in `by_attribute`.
    """

    scenes: int
    top1: float
    by_objects: dict[int, float]
    by_attribute: dict[str, float]
    chance: dict[str, float]


def distractors(scene: Scene, count: int, draws: random.Random) -> list[Scene]:
    """`count` different descriptions, none true of the scene, each one to four changes away from it."""
    found: dict[Scene, None] = {}
    while len(found) < count:
        changed = scene
        for _ in range(draws.choice((1, 1, 2, 2, 3, 4))):
            options = variants(changed, draws.choice(VARIED))
            changed = draws.choice(options) if options else changed
        if caption(changed) != caption(scene):
            found[changed] = None
    return list(found)


def measure(
    encode_images: EncodeImages, encode_texts: EncodeTexts, scenes: Scenes, start: int, count: int
) -> SceneAccuracy:
    """Measures a model on scenes `start` to `start + count - 1`.

    Args:
        encode_images: uint8 [N, H, W, 3] -> unit-norm float32 [N, D].
        encode_texts: N texts -> unit-norm float32 [N, D].
        scenes: The dataset; take a split or indices that training has not seen.
        start: First scene.
        count: How many.
    """
    batch = scenes.batch(start, count)
    images = encode_images(batch.pixels)
    right: dict[str, list[bool]] = {name: [] for name in ("all", *VARIED)}
    sizes: dict[str, list[float]] = {name: [] for name in VARIED}
    groups: dict[int, list[bool]] = {}
    for index, scene in enumerate(batch.scenes):
        draws = random.Random(start + index)
        choices = {"all": [scene, *distractors(scene, CANDIDATES - 1, draws)]}
        choices |= {name: [scene, *variants(scene, name)] for name in VARIED}
        choices = {name: options for name, options in choices.items() if len(options) > 1}
        texts = encode_texts([caption(option) for options in choices.values() for option in options])
        scores = np.split(texts @ images[index], np.cumsum([len(options) for options in choices.values()])[:-1])
        for (name, options), score in zip(choices.items(), scores, strict=True):
            right[name].append(bool(score.argmax() == 0))
            if name != "all":
                sizes[name].append(1 / len(options))
        groups.setdefault(len(scene.groups), []).append(right["all"][-1])
    return SceneAccuracy(
        scenes=count,
        top1=float(np.mean(right["all"])),
        by_objects={number: float(np.mean(hits)) for number, hits in sorted(groups.items())},
        by_attribute={name: float(np.mean(right[name])) for name in VARIED},
        chance={name: float(np.mean(sizes[name])) for name in VARIED},
    )
