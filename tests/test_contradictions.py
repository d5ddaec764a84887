"""Manifests that contradict what else a bundle holds, their hashes repaired: opening or verifying tells."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import library
import pytest

from edgevlm.bundle.bundle import Bundle, seal, write_manifest
from edgevlm.bundle.embedding_space import check_embedding_space
from edgevlm.bundle.golden import GOLDEN
from edgevlm.bundle.manifest import CalibrationRecord, Labels, Manifest, ParityCheck
from edgevlm.bundle.recipe import ParityLimits
from edgevlm.conversion import pipeline
from edgevlm.errors import BundleError

LABELS = ("a red circle", "a blue star", "two green squares")


def changed(bundle: Bundle, folder: Path, **changes: Any) -> Path:
    """A copy with another manifest."""
    shutil.copytree(bundle.path, folder)
    write_manifest(folder, replace(bundle.manifest, **changes))
    return folder


@pytest.mark.parametrize(
    "names", [("a", "b"), ("a", "b", "c", "d"), ("a", "a", "b"), ("a", " ", "b")], ids=["few", "many", "twice", "empty"]
)
def test_labels_are_as_many_as_the_answers_and_each_another(names: tuple[str, ...], tmp_path: Path) -> None:
    path = changed(library.labelled_student(LABELS), tmp_path / "b.edgevlm", labels=Labels(names, ("{}",)))
    with pytest.raises(BundleError, match="labels: expected a name of its own for each of classify's answers, 3, got"):
        Bundle.open(path)


@pytest.mark.parametrize("changes", [{"labels": Labels(("a",), ("{}",))}, {"embedding_dim": 191}], ids=str)
def test_what_no_component_answers_is_refused(changes: Mapping[str, Any], tmp_path: Path) -> None:
    path = changed(library.student("tflite", "int8"), tmp_path / "b.edgevlm", **changes)
    with pytest.raises(BundleError, match="expected"):
        Bundle.open(path)


def test_a_shortest_edge_has_one_length(tmp_path: Path) -> None:
    bundle = library.student("tflite", "int8")
    image = replace(bundle.manifest.image, resize_width=bundle.manifest.image.resize_height + 1)
    assert image.resize == "shortest_edge"
    with pytest.raises(BundleError, match="image: expected one length for shortest_edge, got resize_height"):
        Bundle.open(changed(bundle, tmp_path / "b.edgevlm", image=image))


@pytest.mark.parametrize(
    ("part", "changes", "said"),
    [
        ("image", {"resize_height": 0, "resize_width": 0}, "image: expected resize_height and resize_width of 1 to"),
        ("image", {"resize": "exact", "resize_height": 10**6, "resize_width": 10**6}, "of 1 to 8,192 pixels"),
        ("image", {"height": 10**9, "width": 10**9}, "image.height and image.width: expected what encode_image takes"),
        ("text", {"context_length": 2**62}, "text.context_length: expected what encode_text takes, token_ids"),
    ],
    ids=str,
)
def test_sizes_are_those_of_the_components(part: str, changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    bundle = library.student("tflite", "int8")
    other = replace(getattr(bundle.manifest, part), **changes)
    with pytest.raises(BundleError, match=said):
        Bundle.open(changed(bundle, tmp_path / "b.edgevlm", **{part: other}))


def test_labels_in_another_order_are_not_what_classify_answers(tmp_path: Path) -> None:
    bundle = library.labelled_student(LABELS)
    assert bundle.manifest.labels is not None
    swapped = replace(bundle.manifest.labels, names=(LABELS[1], LABELS[0], LABELS[2]))
    path = changed(bundle, tmp_path / "b.edgevlm", labels=swapped)
    with pytest.raises(BundleError, match=r"labels: 'a (red circle|blue star)' is not what classify answers"):
        pipeline.verify(Bundle.open(path))


@pytest.mark.parametrize("proved", ["nothing", "no digests", "one component"])
def test_every_component_of_integers_is_proved(proved: str, tmp_path: Path) -> None:
    bundle = library.student("tflite", "int8")
    first, *others = bundle.manifest.weights
    assert others
    weights = {"nothing": (), "no digests": (replace(first, digests=()), *others), "one component": (first,)}[proved]
    path = changed(bundle, tmp_path / "b.edgevlm", weights=weights)
    assert all(proof.identical == proof.decided > 0 for proof in pipeline.verify_weights(bundle))
    with pytest.raises(BundleError, match="weights: expected a proof of each integer weight of encode_"):
        pipeline.verify_weights(Bundle.open(path))


def test_integers_that_a_float_recipe_denies_are_found(tmp_path: Path) -> None:
    bundle = library.student("tflite", "int8")
    weights = replace(bundle.manifest.recipe.weights, dtype="float")
    denied = replace(bundle.manifest.recipe, weights=weights)
    path = changed(bundle, tmp_path / "b.edgevlm", recipe=denied, weights=())
    with pytest.raises(BundleError, match=r"weights: expected a proof of each integer weight of encode_\w+, got none"):
        pipeline.verify_weights(Bundle.open(path))
    assert pipeline.verify_weights(library.student("coreml", "fp16")) == ()


EDITS: dict[str, Callable[[Manifest], Manifest]] = {
    "the id": lambda m: replace(m, embedding_space_id="sha256:0"),
    "the model": lambda m: replace(m, source=replace(m.source, fingerprint="0" * 64)),
    "the picture's mean": lambda m: replace(m, image=replace(m.image, mean=(0.5, 0.5, 0.51))),
    "the weights": lambda m: replace(m, recipe=replace(m.recipe, weights=replace(m.recipe.weights, group_size=64))),
    "the calibration": lambda m: replace(m, calibration=CalibrationRecord("photos", None, 200, 0, "0" * 64)),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_the_embedding_space_is_that_of_the_rest(edit: Callable[[Manifest], Manifest], tmp_path: Path) -> None:
    bundle = library.student("tflite", "int8")
    check_embedding_space(bundle)
    edited = write_manifest(shutil.copytree(bundle.path, tmp_path / "b.edgevlm"), edit(bundle.manifest))
    with pytest.raises(BundleError, match=r"embedding_space_id: expected sha256:\w{64}, the hash of .*, got sha256:\w"):
        pipeline.verify(Bundle.open(edited.path))


def test_a_bundle_of_this_format_names_the_model_that_its_embeddings_are_of(tmp_path: Path) -> None:
    bundle = library.student("tflite", "int8")
    nameless = replace(bundle.manifest, source=replace(bundle.manifest.source, fingerprint=None))
    with pytest.raises(BundleError, match=r"source\.fingerprint: expected one, as since format 1\.5, got none"):
        check_embedding_space(replace(bundle, manifest=nameless))
    check_embedding_space(replace(bundle, manifest=replace(nameless, format_version="1.4")))
    newer = replace(bundle.manifest, format_version="1.99", embedding_space_id="sha256:of more than is known here")
    check_embedding_space(replace(bundle, manifest=newer))


@pytest.mark.parametrize(
    ("measure", "changes", "said"),
    [
        ("min_cosine", {"value": 0.5, "limit": 0.99}, "limit 0.99: expected passed: False, got True"),
        ("max_abs_error", {"value": 2.0, "limit": 0.1}, "limit 0.1: expected passed: False, got True"),
        ("finite", {"passed": False}, "limit 1.0: expected passed: True, got False"),
        ("finite", {"value": math.nan}, "limit 1.0: expected passed: False, got True"),
        ("finite", {"value": 0.5, "limit": 0.4}, "passed: expected the limit of recipe strict, 1.0, got 0.4"),
        ("min_cosine", {"limit": 0.98}, "passed: expected the limit of recipe strict, 0.99, got 0.98"),
        ("min_cosine", {"value": 0.5, "limit": None}, "passed: expected the limit of recipe strict, 0.99, got None"),
        ("max_abs_error", {"value": 2.0, "limit": 30.0}, "passed: expected the limit of recipe strict, 0.1"),
        ("top1_agreement", {"value": 0.0, "limit": 0.0}, "passed: expected the limit of recipe strict, 0.9, got 0.0"),
    ],
)
def test_a_comparison_is_within_its_limit_and_the_recipes(
    measure: str, changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    bundle = library.student("tflite", "int8")
    recipe = replace(bundle.manifest.recipe, name="strict", parity=ParityLimits(0.1, 0.99, 0.9))
    report = bundle.manifest.parity
    assert report is not None
    assert measure in {check.measure for check in report.checks}
    limits = {"max_abs_error": 0.1, "min_cosine": 0.99, "top1_agreement": 0.9}
    held = [replace(each, limit=limits.get(each.measure, each.limit)) for each in report.checks]
    checks = tuple(replace(each, **changes) if each.measure == measure else each for each in held)
    path = changed(bundle, tmp_path / "b.edgevlm", recipe=recipe, parity=replace(report, checks=checks))
    with pytest.raises(BundleError, match=f"{measure} of .*{re.escape(said)}"):
        Bundle.open(path)


def test_a_recipe_is_no_looser_than_the_limits_that_its_comparisons_were_held_to(tmp_path: Path) -> None:
    bundle = library.student("tflite", "int8")
    looser = replace(bundle.manifest.recipe, parity=replace(bundle.manifest.recipe.parity, min_top1_agreement=0.5))
    with pytest.raises(
        BundleError, match=r"top1_agreement of 0.\d+ passed: expected the limit of recipe int8, 0\.5, got"
    ):
        Bundle.open(changed(bundle, tmp_path / "b.edgevlm", recipe=looser))


def test_measures_of_another_package_are_its_own_to_judge(tmp_path: Path) -> None:
    bundle = library.student("tflite", "int8")
    report = bundle.manifest.parity
    assert report is not None
    other = replace(report, checks=(*report.checks, ParityCheck("encode_image", "flicker", 2.0, 1.0, passed=True)))
    assert Bundle.open(changed(bundle, tmp_path / "b.edgevlm", parity=other)).manifest.parity == other


def test_a_bundle_of_this_format_has_tolerances(tmp_path: Path) -> None:
    bundle = library.student("tflite", "int8")
    shutil.copytree(bundle.path, tmp_path / "b.edgevlm")
    path = tmp_path / "b.edgevlm" / GOLDEN
    found = json.loads(path.read_text(encoding="utf-8"))
    del found["tolerances"]
    for sample in [*found["pictures"], *found["texts"]]:
        del sample["shipped"]
    path.write_text(json.dumps(found), encoding="utf-8")
    with pytest.raises(BundleError, match=r"tolerances: expected those of each stage, as since format 1\.4, got none"):
        pipeline.verify(seal(tmp_path / "b.edgevlm", bundle.manifest))
    older = seal(tmp_path / "b.edgevlm", replace(bundle.manifest, format_version="1.3"))
    assert pipeline.verify(older).passed
