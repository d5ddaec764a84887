from __future__ import annotations

import random
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevlm.data.captions import caption, leave_open, vocabulary
from edgevlm.data.scene import (
    ATTRIBUTES,
    BACKGROUNDS,
    STYLES,
    UNSEEN_BACKGROUNDS,
    UNSEEN_STYLES,
    Group,
    Scene,
    Split,
    describes,
    is_held_out,
    variants,
)
from edgevlm.data.scenes import Scenes

RED_CIRCLE = Group("circle", "red", "matte", "plain", "large")
BLUE_STARS = Group("star", "blue", "glossy", "striped", "small", 2)


def test_a_scene_depends_on_seed_split_and_index() -> None:
    scene, pixels = Scenes(3)[217]
    assert scene == Scenes(3).scene(217)
    assert not np.array_equal(Scenes(4)[217][1], pixels)
    assert not np.array_equal(Scenes(3, "styles")[217][1], pixels)


@pytest.mark.parametrize("split", get_args(Split))
@pytest.mark.parametrize("size", [64, 97])
@given(seed=st.integers(0, 1 << 20), start=st.integers(0, 1 << 41), count=st.integers(1, 150))
@settings(max_examples=5, deadline=None)
def test_a_scene_depends_on_nothing_drawn_with_it(split: Split, size: int, seed: int, start: int, count: int) -> None:
    scenes = Scenes(seed, split, size)
    batch = scenes.batch(start, count)
    for offset in range(count):
        scene, pixels = scenes[start + offset]
        assert scene == batch.scenes[offset]
        assert np.array_equal(pixels, batch.pixels[offset])


@pytest.mark.parametrize("style", [*STYLES, *UNSEEN_STYLES])
def test_a_picture_is_the_same_beside_larger_objects(style: str) -> None:
    from edgevlm.data.drawing import draw

    # Black dotted objects, whose outline is now bright and now dark, and stars, whose blur reaches far.
    groups = [
        Group(shape, "black", "matte", "dotted", size) for shape in ATTRIBUTES["shape"] for size in ("small", "large")
    ]
    scenes = [
        Scene((group,), cell=cell, style=style) for group in groups for cell in ("top left", "middle centre")
    ] * 10
    numbers = np.random.default_rng(0).random((len(scenes), 64))
    alone = [draw([scene], numbers[index : index + 1], 64)[0] for index, scene in enumerate(scenes)]
    assert np.array_equal(draw(scenes, numbers, 64), np.stack(alone))


def test_indices_far_out_are_scenes_too() -> None:
    assert Scenes(0).batch(1 << 40, 2).pixels.shape == (2, 64, 64, 3)


def test_scenes_do_not_change_between_releases() -> None:
    # The shipped student's figures name scenes by seed and index.
    captions = [caption(scene) for scene in Scenes(0).batch(0, 3).scenes]
    assert captions == [
        "a small glossy dotted white circle at the bottom",
        "a large metallic dotted white triangle at the top",
        "a large metallic checked pink diamond , a large matte striped white diamond and a large matte striped pink "
        "cross from left to right",
    ]


@pytest.mark.parametrize("size", [64, 97, 128])
def test_any_size_from_64_shows_the_same_scenes(size: int) -> None:
    batch = Scenes(0, size=size).batch(0, 16)
    assert batch.pixels.shape == (16, size, size, 3)
    assert batch.scenes == Scenes(0).batch(0, 16).scenes


def test_smaller_than_64_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 64"):
        Scenes(size=63)


def _combinations(split: Split) -> set[tuple[str | None, ...]]:
    scenes = Scenes(0, split).batch(0, 2000).scenes
    return {(g.shape, g.colour, g.texture, g.finish) for scene in scenes for g in scene.groups}


def test_held_out_combinations_never_appear_in_training() -> None:
    seen, unseen = _combinations("train"), _combinations("combinations")
    assert not seen & unseen
    assert not any(is_held_out(*combination) for combination in seen)  # type: ignore[arg-type]
    assert all(is_held_out(*combination) for combination in unseen)  # type: ignore[arg-type]
    for name, position in (("shape", 0), ("colour", 1), ("texture", 2), ("finish", 3)):
        assert {combination[position] for combination in unseen} == set(ATTRIBUTES[name])


def test_held_out_styles_never_appear_in_training() -> None:
    drawn = {split: Scenes(0, split).batch(0, 500).scenes for split in ("train", "styles")}
    assert {scene.style for scene in drawn["train"]} == set(STYLES)
    assert {scene.background for scene in drawn["train"]} == set(BACKGROUNDS)
    assert {scene.style for scene in drawn["styles"]} == set(UNSEEN_STYLES)
    assert {scene.background for scene in drawn["styles"]} == set(UNSEEN_BACKGROUNDS)


@pytest.mark.parametrize("attribute", [*ATTRIBUTES, "count", "position"])
def test_a_variant_draws_another_picture_and_another_caption(attribute: str) -> None:
    from edgevlm.data.drawing import draw

    numbers = np.random.default_rng(0).random((1, 64))
    for scene in Scenes(5).batch(0, 12).scenes:
        pixels = draw([scene], numbers, 64)
        for variant in variants(scene, attribute):
            assert caption(variant) != caption(scene)
            assert not describes(variant, scene)
            if variant.cell == scene.cell:  # a lone object that became two has no place until it is given one
                assert np.abs(draw([variant], numbers, 64).astype(int) - pixels).max() > 20


def test_objects_are_where_their_cell_says() -> None:
    from edgevlm.data.drawing import draw

    for row, vertical in enumerate(("top", "middle", "bottom")):
        for column, horizontal in enumerate(("left", "centre", "right")):
            scene = Scene((Group("square", "red", "matte", "plain", "large"),), cell=f"{vertical} {horizontal}")
            pixels = draw([scene], np.full((1, 64), 0.5), 64)[0].astype(int)
            red = (pixels[..., 0] - pixels[..., 1]) > 100
            y, x = np.argwhere(red).mean(0) / 64
            assert (round((y - 0.5) / 0.26) + 1, round((x - 0.5) / 0.26) + 1) == (row, column)


@pytest.mark.parametrize(
    ("scene", "words"),
    [
        (Scene((RED_CIRCLE,), cell="top left"), "a large matte plain red circle in the top left"),
        (Scene((RED_CIRCLE,), cell="middle centre"), "a large matte plain red circle in the centre"),
        (Scene((BLUE_STARS,)), "two small glossy striped blue stars"),
        (
            Scene((RED_CIRCLE, BLUE_STARS), axis="left to right"),
            "a large matte plain red circle to the left of two small glossy striped blue stars",
        ),
        (Scene((Group("cross", "orange", None, None, None),)), "an orange cross"),
        (Scene((Group(None, "red", None, None, None, 3),)), "three red objects"),
    ],
)
def test_canonical_captions(scene: Scene, words: str) -> None:
    assert caption(scene) == words


def test_wordings_differ_and_stay_true() -> None:
    scene = Scene((RED_CIRCLE, BLUE_STARS), axis="top to bottom")
    wordings = {caption(scene, random.Random(seed)) for seed in range(60)}
    assert len(wordings) > 40
    known = set(" ".join(vocabulary()).split())
    assert all(set(text.split()) <= known for text in wordings)


def test_a_description_with_attributes_left_open_is_true_of_its_scene() -> None:
    draws = random.Random(0)
    scenes = Scenes(1).batch(0, 200).scenes
    assert all(describes(leave_open(scene, draws, 0.5), scene) for scene in scenes)
    assert not any(describes(scene, other) for scene, other in pairwise(scenes))


def test_descriptions_of_several_groups_keep_their_order() -> None:
    scene = Scene((RED_CIRCLE, BLUE_STARS), axis="left to right")
    assert not describes(Scene((BLUE_STARS, RED_CIRCLE), axis="left to right"), scene)
    assert describes(Scene((BLUE_STARS, RED_CIRCLE), axis=None), scene)
    assert not describes(Scene((RED_CIRCLE,)), scene)
