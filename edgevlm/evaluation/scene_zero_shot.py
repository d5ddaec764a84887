"""Zero-shot classification of rendered scenes by full description, with the error of each attribute told apart."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgevlm.bundle.spec import F32
from edgevlm.data.captions import caption
from edgevlm.data.scene import ATTRIBUTES, Scene, variants

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
        by_attribute: Among the true description and every one that differs in just this attribute of one group, over
            the scenes in which it can differ.
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
    images: F32,
    scenes: Sequence[tuple[int, Scene]],
    encode_texts: Callable[[Sequence[str]], F32],
    step: Callable[[float], None] = lambda share: None,
) -> SceneAccuracy:
    """Measures how well pictures are told from wrong descriptions of them; some 100 texts a scene are encoded.

    Args:
        images: Embeddings of the scenes' pictures, float32 [N, D], unit norm.
        scenes: Each picture's number and scene, see `edgevlm.data.rendered`; the number draws its 49 descriptions, so
            that every model is asked the same. Take scenes that training has not seen.
        encode_texts: T texts -> float32 [T, D], unit norm.
        step: Told the share that is done, 0..1.
    """
    right: dict[str, list[bool]] = {name: [] for name in ("all", "one", *VARIED)}
    chance: dict[str, list[float]] = {name: [] for name in VARIED}
    groups: dict[str, list[bool]] = {}
    for done, (image, (number, scene)) in enumerate(zip(images, scenes, strict=True), 1):
        options = {name: others for name in VARIED if (others := variants(scene, name))}
        for name, others in options.items():
            chance[name].append(1 / (1 + len(others)))
        found = _tell_apart(
            image, scene, options | {"all": distractors(scene, CANDIDATES - 1, random.Random(number))}, encode_texts
        )
        for name, is_right in found.items():
            right[name].append(is_right)
        right["one"].append(all(found[name] for name in options))
        groups.setdefault(str(len(scene.groups)), []).append(found["all"])
        step(done / len(scenes))
    return SceneAccuracy(
        scenes=len(scenes),
        top1=float(np.mean(right["all"])),
        top1_by_groups={number: float(np.mean(hits)) for number, hits in sorted(groups.items())},
        top1_one_attribute=float(np.mean(right["one"])),
        by_attribute={name: float(np.mean(right[name])) for name in VARIED if right[name]},
        chance={name: float(np.mean(shares)) for name, shares in chance.items() if shares},
    )


def _tell_apart(
    image: F32, scene: Scene, options: Mapping[str, Sequence[Scene]], encode_texts: Callable[[Sequence[str]], F32]
) -> dict[str, bool]:
    """For each list of other descriptions, whether the true one scores higher than all of them."""
    texts = {name: [caption(other) for other in others] for name, others in options.items()}
    different = list(dict.fromkeys([caption(scene), *(text for several in texts.values() for text in several)]))
    scores = dict(zip(different, (encode_texts(different) @ image).tolist(), strict=True))
    own = scores[caption(scene)]
    return {name: own > max(scores[text] for text in several) for name, several in texts.items()}
