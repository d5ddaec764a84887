"""Golden's two sides, the reference and the shipped file's own answers, and how near a device must come to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import library
import numpy as np
import pytest

from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.golden import Golden, GoldenPicture, Side
from edgevlm.bundle.recipe import BUILTIN, ParityLimits, Recipe
from edgevlm.errors import BundleError
from edgevlm.inputs.texts import Tokenizer
from edgevlm.parity import comparison, golden
from edgevlm.parity.comparison import Answers
from edgevlm.parity.tolerances import exceeded, tolerances
from edgevlm.targets import registry
from edgevlm.testing import FakeModel

_PICTURE = GoldenPicture("golden/a.png", "golden/a.rgb", "small", {})
_SMALL = Golden(2, (_PICTURE, _PICTURE), (), ((), ()), ())
_MODEL = FakeModel(labels=("a", "b"), image_only=True)
_EMBEDDING = "encode_image.embedding"


def _turned(degrees: float) -> Answers:
    """Two embeddings, the second of which is turned in the plane of both."""
    angle = np.deg2rad(degrees)
    rows = np.array([[1, 0], [np.sin(angle), np.cos(angle)]], np.float32)
    return {"encode_image": {"embedding": rows}}


def _limits(
    recipe: Recipe, sides: Mapping[Side, Answers], *, logit_scale: float = 1.0
) -> dict[tuple[str, str, str], float]:
    manifest = replace(_MODEL.bundle.manifest, recipe=recipe, logit_scale=logit_scale)
    return {(each.stage, each.beside, each.measure): each.limit for each in tolerances(_SMALL, manifest, sides)}


def test_pixels_are_equal_but_for_what_decoders_of_jpeg_do() -> None:
    found = _limits(BUILTIN["fp32"], {"reference": _turned(0), "shipped": _turned(0)})
    assert found["png", "reference", "max_abs_error"] == 0
    assert found["jpeg", "reference", "mean_abs_error"] == 4
    assert not any(stage in ("token_ids", "scores") for stage, _, _ in found)  # there is no text


@pytest.mark.parametrize(
    ("recipe", "cosine", "error"), [("fp32", 0.999999, 1e-5), ("fp16", 0.9999, 5e-3), ("int8", 0.995, 2e-2)]
)
def test_beside_the_files_own_answers_only_arithmetic_counts(recipe: str, cosine: float, error: float) -> None:
    for degrees in (0, 3):
        found = _limits(BUILTIN[recipe], {"reference": _turned(0), "shipped": _turned(degrees)})
        assert found[_EMBEDDING, "shipped", "min_cosine"] == cosine
        assert found[_EMBEDDING, "shipped", "max_abs_error"] == error


def test_beside_the_reference_the_recipe_counts_until_the_file_itself_is_farther() -> None:
    near = _limits(BUILTIN["int8"], {"reference": _turned(0), "shipped": _turned(0)})
    assert near[_EMBEDDING, "reference", "min_cosine"] == BUILTIN["int8"].parity.min_cosine == 0.99
    far = _limits(BUILTIN["int8"], {"reference": _turned(0), "shipped": _turned(10)})
    expected = np.cos(np.deg2rad(10) + np.arccos(0.995))
    assert far[_EMBEDDING, "reference", "min_cosine"] == pytest.approx(expected, abs=1e-6)
    assert far[_EMBEDDING, "reference", "max_abs_error"] == pytest.approx(np.sin(np.deg2rad(10)) + 2e-2, abs=1e-6)


def test_scores_and_logits_may_be_off_as_much_more_as_their_factor_makes_of_an_embeddings_error() -> None:
    answers: Answers = {"classify": {name: np.array([[0.7, 0.3]] * 2, np.float32) for name in ("scores", "logits")}}
    sides: Mapping[Side, Answers] = {"reference": answers, "shipped": answers}
    looser = replace(BUILTIN["fp32"], parity=ParityLimits(max_abs_error=1e-4))
    found = _limits(looser, sides, logit_scale=100.0)
    assert found["classify.scores", "shipped", "max_abs_error"] == pytest.approx(50 * 1e-5)
    assert found["classify.logits", "shipped", "max_abs_error"] == pytest.approx(100 * 1e-5)
    assert found["classify.logits", "reference", "max_abs_error"] == pytest.approx(100 * 1e-4)
    assert not any(measure == "min_cosine" for _, _, measure in found)


def test_what_is_near_enough_to_the_files_answers_is_near_enough_to_the_references() -> None:
    for recipe in ("fp32", "fp16", "int8"):
        for degrees in (0.0, 0.01, 1.0, 20.0):
            sides: Mapping[Side, Answers] = {"reference": _turned(0), "shipped": _turned(degrees)}
            manifest = replace(_MODEL.bundle.manifest, recipe=BUILTIN[recipe])
            allowed = tolerances(_SMALL, manifest, sides)
            step = np.rad2deg(np.arccos({"fp32": 0.999999, "fp16": 0.9999, "int8": 0.995}[recipe]))
            step = min(step, np.rad2deg({"fp32": 1e-5, "fp16": 5e-3, "int8": 2e-2}[recipe]))
            for more, holds in ((0.9, True), (-0.9, True), (3.0, False)):
                answer = _turned(degrees + more * step)
                assert (not list(exceeded(allowed, "shipped", sides["shipped"], answer))) == holds
                if holds:
                    assert not list(exceeded(allowed, "reference", sides["reference"], answer))


def test_an_answer_that_is_no_number_is_exceeded() -> None:
    sides: Mapping[Side, Answers] = {"reference": _turned(0), "shipped": _turned(0)}
    allowed = tolerances(_SMALL, _MODEL.bundle.manifest, sides)
    nothing: Answers = {"encode_image": {"embedding": np.full((2, 2), np.nan, np.float32)}}
    assert len(list(exceeded(allowed, "shipped", _turned(0), nothing))) == 2


# Of a bundle


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return library.student("coreml", "fp16")


@pytest.fixture(scope="module")
def stored(bundle: Bundle) -> Golden:
    return golden.read(bundle.path)[0]


@pytest.fixture(scope="module")
def answers(bundle: Bundle, stored: Golden) -> Answers:
    """The file's own, of now."""
    rows = golden.sample_rows(bundle.path, stored, bundle.manifest.image)
    with registry.runtime_of(bundle).open(bundle, threads=1) as session:
        return comparison.ask(session, [each.spec for each in bundle.components.values()], rows)


def test_a_bundle_holds_what_its_file_answers_here_and_the_reference_beside_it(
    bundle: Bundle, stored: Golden, answers: Answers
) -> None:
    expected = golden.check(bundle, stored, Tokenizer.of_bundle(bundle))
    assert expected.keys() == {"reference", "shipped"}
    for component, outputs in answers.items():
        for output, rows in outputs.items():
            np.testing.assert_array_equal(rows, expected["shipped"][component][output])
            assert (rows != expected["reference"][component][output]).any()
    assert [each.stage for each in stored.tolerances][:3] == ["png", "jpeg", "token_ids"]
    assert {each.stage for each in stored.tolerances} >= {_EMBEDDING, "encode_text.embedding", "scores"}
    golden.hold(bundle, stored, expected, answers)


def test_answers_of_its_own_that_the_file_does_not_give_are_refused(
    bundle: Bundle, stored: Golden, answers: Answers
) -> None:
    """Everything else fits these: the tolerances too, and by the reference nothing is amiss."""
    own = {name: dict(outputs) for name, outputs in answers.items()}
    turned = own["encode_text"]["embedding"].copy()
    turned[0] = turned[0] + np.float32(0.05) * turned[1]
    own["encode_text"]["embedding"] = turned / np.linalg.norm(turned, axis=1, keepdims=True)
    changed = golden.with_shipped(stored, bundle, own)
    expected = golden.check(bundle, changed, Tokenizer.of_bundle(bundle))
    with pytest.raises(BundleError) as found:
        golden.hold(bundle, changed, expected, answers)
    assert "encode_text.embedding: min_cosine is 0.99" in found.value.message
    assert "the tolerance beside the shipped file's answers is 0.9999" in found.value.message
    assert "beside the reference's" not in found.value.message


def test_a_bundle_of_before_is_held_by_its_recipe(bundle: Bundle, stored: Golden, answers: Answers) -> None:
    before = replace(
        stored,
        pictures=tuple(replace(each, shipped={}) for each in stored.pictures),
        texts=tuple(replace(each, shipped={}) for each in stored.texts),
        tolerances=(),
    )
    with pytest.raises(BundleError, match=r"tolerances: expected those of each stage, as since format 1\.4, got none"):
        golden.check(bundle, before, Tokenizer.of_bundle(bundle))
    bundle = replace(bundle, manifest=replace(bundle.manifest, format_version="1.3"))
    expected = golden.check(bundle, before, Tokenizer.of_bundle(bundle))
    assert expected.keys() == {"reference"}
    golden.hold(bundle, before, expected, answers)
    for factor, word in ((-1.0, "min_cosine is -"), (np.nan, "finite is 0")):
        wrong = {name: {output: rows * factor for output, rows in each.items()} for name, each in answers.items()}
        with pytest.raises(BundleError, match=word):
            golden.hold(bundle, before, expected, wrong)


def test_what_a_conversion_finds_far_off_on_goldens_samples_is_a_failed_check(bundle: Bundle, stored: Golden) -> None:
    reference = golden.sides(bundle, stored)["reference"]
    assert golden.far_off(bundle.manifest, reference, reference) == ()
    opposite = {name: {output: -rows for output, rows in each.items()} for name, each in reference.items()}
    failed = golden.far_off(bundle.manifest, reference, opposite)
    assert {(each.component, each.measure) for each in failed} == {
        ("encode_image", "min_cosine"),
        ("encode_text", "min_cosine"),
    }
    assert all(not each.passed and each.limit == pytest.approx(0.999) for each in failed)


def test_pixels_and_ids_are_asked_about_as_they_are_stored(bundle: Bundle, stored: Golden) -> None:
    image = bundle.manifest.image
    rows = golden.sample_rows(bundle.path, stored, image)
    assert rows["pixels"].shape == (len(stored.pictures), 3, image.height, image.width)
    first = Path(bundle.path, stored.pictures[0].pixels).read_bytes()
    assert rows["pixels"][0, :, 0, 1].tolist() == list(first[3:6])
    assert rows["token_ids"].dtype == np.int32
    assert tuple(rows["token_ids"][1].tolist()) == stored.texts[1].token_ids
