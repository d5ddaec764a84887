"""Planted faults are blamed on the layer in which they were planted, in every target's file."""

from __future__ import annotations

import json
from pathlib import Path

import library
import numpy as np
import pytest
from click.testing import CliRunner
from coremltools.converters.mil import Builder as mb
from mlprograms import write_program

from edgevlm.benchmarks.blame.plants import PLANTS, Plant, blamed, programs, sample
from edgevlm.blame.blame import Blame, Step, blame
from edgevlm.blame.matching import Matcher, unmasked
from edgevlm.blame.page import verdict, write_page
from edgevlm.blame.reference import Expected, expected_values
from edgevlm.bundle.recipe import BUILTIN
from edgevlm.cli import main
from edgevlm.conversion.proof import fixtures
from edgevlm.inputs.texts import Tokenizer
from edgevlm.parity.comparison import ask
from edgevlm.targets import registry
from edgevlm.targets.runtime import TracedOp

# ExecuTorch and TFLite convert slowly: no faults of fp32, but for one on TFLite. The benchmark `blame` plants all.
FAULTS = [
    pytest.param(
        target,
        plant,
        id=f"{target}-{plant.name}",
        marks=() if target == "coreml" and plant == PLANTS[0] else pytest.mark.slow,
    )
    for target in registry.CONVERTERS
    for plant in PLANTS
    if target == "coreml" or plant.recipe != "fp32" or (target == "tflite" and plant == PLANTS[0])
]


@pytest.mark.parametrize(("target", "plant"), FAULTS)
def test_a_planted_fault_is_found(target: str, plant: Plant, tmp_path: Path) -> None:
    found = blamed(plant, target, tmp_path / "b.edgevlm")
    assert found.culprit is not None
    assert found.culprit.layer == plant.place
    before = [step.error for step in found.steps[: found.first] if step.error is not None]
    assert np.median(before) < found.limit / 4


@pytest.mark.parametrize("component", ["encode_image", "encode_text"])
@pytest.mark.parametrize(
    ("target", "precision"),
    [
        *((target, "fp32") for target in registry.CONVERTERS),
        ("coreml", "fp16"),
        pytest.param("executorch", "fp16", marks=pytest.mark.slow),
    ],
)
def test_a_sound_file_is_not_blamed(target: str, precision: str, component: str) -> None:
    bundle = library.tower_bundle(target, precision)
    (taken,) = bundle.components[component].spec.inputs
    inputs = {taken.name: library.tower_samples(taken.name, 1)[0]}
    ops = registry.runtime(target).trace(bundle, component, inputs)
    found = blame(library.towers()[component], ops, inputs, BUILTIN[precision])
    assert found.culprit is None
    assert found.steps[-1].error is not None
    assert found.steps[-1].error < found.limit


def expected(name: str, value: np.ndarray, *reads: str) -> Expected:
    return Expected(f"encode_image/{name}", "linear", name, reads, value.astype(np.float32))


def test_values_are_recognised_in_any_layout() -> None:
    value = np.random.default_rng(0).standard_normal((1, 3, 4, 5)).astype(np.float32)
    other = value + 1
    matcher = Matcher([expected("a", value), expected("b", other)])
    for arranged in (value.transpose(0, 2, 3, 1), value.reshape(12, 5), value.transpose(3, 1, 0, 2).reshape(5, 12)):
        match = matcher.closest(np.ascontiguousarray(arranged))
        assert match is not None
        assert (match.expected.name, match.error) == ("a", 0)
    assert matcher.closest(value[:, :2]) is None
    assert matcher.closest(np.zeros(2, np.float32)) is None


def test_nearly_constant_values_are_not_taken_for_each_other() -> None:
    rng = np.random.default_rng(0)
    ones, others = (1 + 0.01 * rng.standard_normal(64).astype(np.float32) for _ in range(2))
    match = Matcher([expected("a", ones)]).closest(others)
    assert match is not None
    assert match.error > 1


def test_what_a_mask_made_huge_hides_no_error() -> None:
    scores = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    for mask in (-1e4, -65504.0, -np.inf):
        masked = scores + np.triu(np.full((8, 8), mask, np.float32), 1)
        assert np.abs(unmasked(masked)).max() == np.abs(np.tril(scores)).max()
        matcher = Matcher([expected("scores", masked)])
        wrong = masked + np.float32(0.5) * np.eye(8, dtype=np.float32)
        (right, off) = (matcher.closest(each) for each in (masked, wrong))
        assert right is not None
        assert off is not None
        assert right.error == 0
        assert off.error > 0.05
    outliers = np.array([1.0, 900.0, 2000.0, 4.0], np.float32)  # such as some transformers have
    np.testing.assert_array_equal(unmasked(outliers), outliers)


def test_what_is_not_finite_is_blamed() -> None:
    reference = expected_values(programs()["encode_image"], sample())
    by_name = {each.name: each.value for each in reference}
    good, bad = by_name["conv2d"], by_name["conv2d"].copy()
    bad[0, 0] = np.nan
    ops = (TracedOp("x", "sub", (), by_name["div_1"]), TracedOp("y", "conv", ("x",), bad))
    found = blame(programs()["encode_image"], ops, sample(), BUILTIN["fp32"])
    assert found.first == 1
    assert found.culprit is not None
    assert found.culprit.nan == bad[0, 0].size
    assert f"in {bad[0, 0].size} places not a number" in verdict(found)
    sound = blame(programs()["encode_image"], (ops[0], TracedOp("y", "conv", ("x",), good)), sample(), BUILTIN["fp32"])
    assert sound.first is None


def test_the_page_names_the_op_and_escapes_names(tmp_path: Path) -> None:
    steps = (
        Step("a", "conv", "encode_image/stem", "conv2d", 1e-7),
        Step("<b>", "softmax", "encode_image/blocks.0", "", None),
    )
    found = Blame("encode_image", 3, 1e-5, steps, 1)
    assert verdict(found) == (
        "encode_image: first differs at softmax '<b>', of the layer encode_image/blocks.0: like no op of the model "
        "(limit 1e-05)"
    )
    write_page([found, Blame("encode_text", 0, 1e-5, steps[:1], None)], "t & u", tmp_path / "p.html")
    page = (tmp_path / "p.html").read_text()
    assert "t &amp; u" in page
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert page.count("<svg") == 2
    assert 'class="first"' in page
    assert "src=" not in page


@pytest.mark.slow
def test_verify_blames_by_command(tmp_path: Path) -> None:
    made = CliRunner().invoke(
        main, ["convert", "--target", "tflite", "--recipe", "prune-50", "--image-only", "--out", str(tmp_path)]
    )
    assert made.exit_code == 1, made.output
    (bundle,) = tmp_path.glob("*.failed-parity.edgevlm")
    page = tmp_path / "page.html"
    arguments = ["verify", str(bundle), "--blame", "--out", str(page), "--json"]
    found = json.loads(CliRunner().invoke(main, arguments).stdout)
    (blamed_component,) = found["blame"]
    culprit = blamed_component["steps"][blamed_component["first"]]
    assert culprit["layer"].startswith("encode_image/stem")
    assert culprit["error"] > blamed_component["limit"]
    assert "encode_image/stem" in page.read_text()


def test_verify_compares_on_the_sample_that_is_answered_worst(tmp_path: Path) -> None:
    bundle, page = library.student("tflite", "int8"), tmp_path / "page.html"
    shown = CliRunner().invoke(main, ["verify", str(bundle.path), "--blame", "--out", str(page), "--json"])
    assert shown.exit_code == 0, shown.output
    blames = json.loads(shown.stdout)["blame"]
    assert [each["component"] for each in blames] == ["encode_image", "encode_text"]
    with registry.runtime("tflite").open(bundle, threads=1) as session:
        samples, reference = fixtures(bundle, Tokenizer.of_bundle(bundle))
        specs = [component.spec for component in bundle.components.values()]
        answers = ask(session, specs, samples)
    for each in blames:
        rows = reference[each["component"]]["embedding"] - answers[each["component"]]["embedding"]
        assert each["sample"] == np.abs(rows).max(1).argmax()
        assert each["first"] is None or each["steps"][each["first"]]["error"] > each["limit"]
        assert each["component"] in page.read_text()


def test_another_model_is_refused() -> None:
    bundle = library.student("coreml", "fp16")
    result = CliRunner().invoke(main, ["verify", str(bundle.path), "--blame", "--model", "edgevlm-teacher"])
    assert result.exit_code == 2
    assert "is not the model that the bundle was made of" in result.output


def test_what_cannot_be_blamed_is_said_before_the_work(tmp_path: Path) -> None:
    package = write_program(tmp_path / "p.mlpackage", {"x": np.ones(3, np.float32)}, lambda x: mb.relu(x=x))
    refused = CliRunner().invoke(main, ["verify", str(package), "--blame"])
    assert refused.exit_code == 2
    assert "expected a bundle, got a package" in refused.stderr
    refused = CliRunner().invoke(main, ["verify", str(tmp_path), "--blame", "--out", str(tmp_path)])
    assert refused.exit_code == 2
    assert "expected a file that can be written" in refused.stderr
