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
        scenes: Number of scenes that each figure is over.
        top1: Among 50 descriptions: the true one, and 49 that differ from it in one or more attributes (how many of
            the seven is drawn uniformly). Guessing would score 0.02.
        top1_by_groups: The same, by number of groups in the scene.
        top1_one_attribute: Among the true description and every one that differs in a single attribute of a single
            group, some 30 to 80 of them: the strictest question that a scene allows.
        by_attribute: Among the true description and every one that differs in just this attribute of one group.
        chance: What guessing would score in `by_attribute`.
    """

    scenes: int
    top1: float
    top1_by_groups: dict[str, float]
    top1_one_attribute: float
    by_attribute: dict[str, float]
    chance: dict[str, float]


def distractors(scene: Scene, count: int, draws: random.Random) -> list[Scene]:
    """`count` different descriptions of other scenes, each with one to seven attributes of this one changed."""
    found: dict[str, Scene] = {}
    while len(found) < count:
        changed = scene
        for name in draws.sample(VARIED, draws.randint(1, len(VARIED))):
            options = variants(changed, name)
            changed = draws.choice(options) if options else changed
        found.setdefault(caption(changed), changed)
        found.pop(caption(scene), None)
    return list(found.values())


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
    right: dict[str, list[bool]] = {name: [] for name in ("all", "one", *VARIED)}
    chance: dict[str, list[float]] = {name: [] for name in VARIED}
    groups: dict[str, list[bool]] = {}
    for index, scene in enumerate(batch.scenes):
        options = {name: variants(scene, name) for name in VARIED}
        options["all"] = tuple(distractors(scene, CANDIDATES - 1, random.Random(start + index)))
        options = {name: others for name, others in options.items() if others}
        texts = encode_texts([caption(scene), *(caption(other) for others in options.values() for other in others)])
        scores = texts @ images[index]
        ends = np.cumsum([len(others) for others in options.values()])[:-1]
        best_others = {name: part.max() for name, part in zip(options, np.split(scores[1:], ends), strict=True)}
        for name, best in best_others.items():
            right[name].append(bool(scores[0] > best))
        for name in options.keys() - {"all"}:
            chance[name].append(1 / (1 + len(options[name])))
        right["one"].append(all(scores[0] > best_others[name] for name in options.keys() - {"all"}))
        groups.setdefault(str(len(scene.groups)), []).append(right["all"][-1])
    return SceneAccuracy(
        scenes=count,
        top1=float(np.mean(right["all"])),
        top1_by_groups={number: float(np.mean(hits)) for number, hits in sorted(groups.items())},
        top1_one_attribute=float(np.mean(right["one"])),
        by_attribute={name: float(np.mean(right[name])) for name in VARIED},
        chance={name: float(np.mean(chance[name])) for name in VARIED},
    )
