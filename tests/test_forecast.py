"""What `edgevlm convert --dry-run` says, beside what conversions come to."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import library
import pytest
import torch
from click.testing import CliRunner, Result
from torch.utils.flop_counter import FlopCounterMode

from edgevlm.benchmarks.forecast import measure_memory
from edgevlm.bundle.manifest import Labels
from edgevlm.bundle.recipe import BUILTIN, Recipe
from edgevlm.cli import main
from edgevlm.compression.compression import compress
from edgevlm.compression.layers import find_layers
from edgevlm.conversion import forecast, pipeline
from edgevlm.errors import LabelError, RecipeError, UnsupportedError
from edgevlm.graphs.capture import unlifted
from edgevlm.graphs.outline import distinct, outline
from edgevlm.graphs.program import Programs
from edgevlm.models import builtin, catalogue
from edgevlm.process.progress import silent
from edgevlm.targets import registry

TARGETS = tuple(registry.CONVERTERS)
FLOATS = ("fp32", "fp16")
"""Precisions of which the library has bundles of towers, and none of layers."""
REFUSED = {
    *(("executorch", recipe) for recipe in ("int8-weights", "palette-6", "palette-4")),
    *(("tflite", recipe) for recipe in ("palette-6", "palette-4")),
}
# ExecuTorch's versions depend on whether there is float16 arithmetic alone, and to LiteRT zeros are numbers; the
# benchmark lowers all the others too.
TAKEN = [
    pytest.param(target, recipe, marks=() if (target, recipe) in library.QUICK else pytest.mark.slow)
    for target in TARGETS
    for recipe in (("int8",) if target == "executorch" else BUILTIN)
    if target == "coreml" or not recipe.startswith("prune")
    if recipe not in FLOATS and (target, recipe) not in REFUSED
]


def dry_run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["convert", *arguments, "--dry-run"])


@pytest.fixture(scope="module")
def foreseen() -> dict[tuple[str, str], forecast.Forecast]:
    """Of small components of every kind of layer: those of the library's bundles."""
    lowered = {name: library.layers()[name] for name in library.LOWERED}
    return {(each.target, each.recipe): each for each in forecast.forecast(lowered, TARGETS, tuple(BUILTIN.values()))}


@pytest.fixture(scope="module")
def students() -> dict[tuple[str, str], forecast.Forecast]:
    found = forecast.forecast(forecast.components(catalogue.load(builtin.STUDENT)), TARGETS, tuple(BUILTIN.values()))
    return {(each.target, each.recipe): each for each in found}


def test_what_is_refused_is_refused_for_the_converters_own_reason(
    foreseen: dict[tuple[str, str], forecast.Forecast],
) -> None:
    assert {key for key, each in foreseen.items() if each.refused} == REFUSED
    for (target, recipe), each in foreseen.items():
        assert each.refused == registry.converter(target).unsupported({}, BUILTIN[recipe])
        assert (each.footprint is None) == bool(each.refused)


@pytest.mark.parametrize(("target", "recipe"), TAKEN)
def test_the_least_system_is_the_one_that_the_artefact_needs(
    target: str, recipe: str, foreseen: dict[tuple[str, str], forecast.Forecast]
) -> None:
    expected = foreseen[target, recipe].footprint
    assert expected is not None
    made = library.layer_bundle(target, recipe)
    assert dict(expected.requires) == dict(made.manifest.requires)
    assert abs(expected.size_bytes - made.artefact_bytes) < 100_000


@pytest.mark.parametrize(
    ("target", "precision"),
    [
        pytest.param(target, precision, marks=pytest.mark.slow if target != "coreml" and precision == "fp16" else ())
        for target in TARGETS
        for precision in FLOATS
    ],
)
def test_so_is_that_of_an_artefact_without_integers(target: str, precision: str) -> None:
    (found,) = forecast.forecast(library.towers(), (target,), (BUILTIN[precision],))
    made = library.tower_bundle(target, precision)
    assert found.footprint is not None
    assert dict(found.footprint.requires) == dict(made.manifest.requires)
    assert abs(found.footprint.size_bytes - made.artefact_bytes) < 100_000


@pytest.mark.parametrize(
    ("target", "recipe"),
    [
        ("coreml", "fp16"),
        pytest.param("coreml", "int8", marks=pytest.mark.slow),
        pytest.param("tflite", "int8", marks=pytest.mark.slow),
    ],
)
def test_real_conversions_are_what_was_foreseen(
    target: str, recipe: str, students: dict[tuple[str, str], forecast.Forecast]
) -> None:
    bundle, expected = library.student(target, recipe), students[target, recipe].footprint
    assert expected is not None
    assert expected.size_bytes == pytest.approx(bundle.artefact_bytes, rel=0.01)
    assert dict(expected.requires) == dict(bundle.manifest.requires)
    assert bundle.manifest.estimated_peak_memory_bytes == expected.peak_memory_bytes
    assert bundle.manifest.multiply_adds == {"encode_image": 21_809_152, "encode_text": 55_784_448}
    if target == "tflite" and sys.platform == "linux":
        assert expected.peak_memory_bytes == pytest.approx(measure_memory(bundle), rel=0.3)


@pytest.mark.parametrize(
    ("kind", "target", "recipe"),
    [("blip", "tflite", "fp32"), *(pytest.param(*each, marks=pytest.mark.slow) for each in library.TALKERS)],
)
def test_so_is_that_of_a_model_that_talks(kind: str, target: str, recipe: str) -> None:
    made = library.talker(kind, target, recipe)
    assert made.manifest.dialogue is not None
    context = made.manifest.dialogue.context_length
    model = forecast.components(catalogue.load_any(library.talker_checkpoint(kind), **library.talker_options(kind)))
    (found,) = forecast.forecast(model, (target,), (BUILTIN[recipe],))
    assert found.footprint is not None
    assert dict(found.footprint.requires) == dict(made.manifest.requires)
    assert abs(found.footprint.size_bytes - made.artefact_bytes) < 100_000
    assert found.footprint.peak_memory_bytes == made.manifest.estimated_peak_memory_bytes
    assert found.context_length == context
    kept = [each.shape for each in made.components["decode"].spec.state]
    assert found.state_bytes == sum(4 * math.prod(shape) for shape in kept)


@pytest.mark.parametrize("target", TARGETS)
def test_a_longer_context_takes_the_memory_of_its_state(target: str) -> None:
    (short, long) = (
        forecast.forecast(
            forecast.components(catalogue.load_any(library.talker_checkpoint("llava"), context_length=context)),
            (target,),
            (BUILTIN["fp32"],),
        )[0]
        for context in (512, 1024)
    )
    assert long.state_bytes == 2 * short.state_bytes
    assert short.footprint is not None
    assert long.footprint is not None
    tables = 512 * 4 * (16 + 16 + 1)  # of sines, of cosines, and of places
    assert long.footprint.size_bytes == short.footprint.size_bytes + tables
    assert long.footprint.peak_memory_bytes - short.footprint.peak_memory_bytes > 2 * short.state_bytes


def test_the_table_of_a_model_that_talks_says_what_its_state_takes() -> None:
    model = str(library.talker_checkpoint("blip"))
    shown = dry_run(model, "--target", "all", "--recipe", "fp32", "--recipe", "palette-6", "--context", "48")
    assert shown.exit_code == 0, shown.output
    assert re.search(r"A dialogue's state is 0\.0 MB in float32, of a context of 48 positions: --context", shown.stdout)
    assert "iOS 18, macOS 15" in shown.stdout
    assert "litert-lm 0.18" in shown.stdout
    assert "refused: models that talk have no measured ranges, palettes or pruning as yet" in shown.stdout
    refused = {
        ("--image-only",): "labels and image_only are a dual encoder's",
        ("--context", "4096"): "max_position_embeddings",
        ("--lengths", "1"): "lengths: expected another one beside 1",
    }
    for arguments, said in refused.items():
        shown = dry_run(model, "--target", "tflite", "--recipe", "fp32", *arguments)
        assert shown.exit_code in (2, UnsupportedError.exit_code)
        assert said in shown.output
    shown = dry_run("--target", "tflite", "--context", "48")
    assert shown.exit_code == 2
    assert "a context, lengths and a size of pictures are" in shown.output


def test_memory_is_held_against_that_of_devices() -> None:
    devices = ("--device", "raspberry-pi-4", "--device", "pixel-3a")
    wanted = ("--target", "executorch", "--recipe", "fp32", "--recipe", "palette-6", "--image-only", *devices)
    taken, refused = json.loads(dry_run(*wanted, "--json").stdout)["forecasts"]
    assert taken["of_devices"]["raspberry-pi-4"] == taken["peak_memory_bytes"] / (4096 << 20)
    assert refused["of_devices"] == dict.fromkeys(("raspberry-pi-4", "pixel-3a"))
    shown = dry_run(*wanted).stdout
    assert "of raspberry-pi-4" in shown
    assert "its system and other apps take of it too" in shown
    for arguments, said in (
        (("--dry-run", "--device", "raspberry-pi-44"), "no device 'raspberry-pi-44'"),
        (("--dry-run", "--device", "host"), "expected a device whose memory is known"),
        (("--device", "pixel-3a"), "--device needs --dry-run"),
    ):
        refusal = CliRunner().invoke(main, ["convert", "--target", "coreml", *arguments])
        assert refusal.exit_code == 2
        assert said in refusal.output


@pytest.mark.parametrize("component", library.STUDENTS | {"clip_text": 0, "clip_image": 0, "siglip_image": 0})
def test_an_outline_has_the_layers_of_the_captured_graph(component: str) -> None:
    program = library.layers()[component]
    seen = outline(program)
    layers = find_layers(unlifted(program.module, program.example))
    assert {(each.layer, each.kind, each.shape) for each in seen.constants if each.kind != "other"} == {
        (layer.name, layer.kind, layer.shape) for layer in layers
    }
    tensors = dict(program.module.named_parameters()) | dict(program.module.named_buffers())
    assert sum(each.count for each in seen.constants) == sum(tensor.numel() for tensor in tensors.values())


@pytest.mark.parametrize(
    ("component", "calls", "activation_bytes", "weight_bytes", "multiply_adds"),
    [
        ("clip_text", 69, 11_232, 129_184, 24_192),
        ("siglip_image", 81, 52_224, 182_616, 553_728),
        ("hybrid", 72, 57_344, 83_872, 383_328),
        ("grid", 69, 49_152, 88_544, 601_088),
        ("encode_image", 101, 665_344, 1_556_496, 21_809_152),
        ("encode_text", 132, 709_824, 5_423_616, 55_784_448),
    ],
)
def test_one_look_tells_what_a_component_takes(
    component: str, calls: int, activation_bytes: int, weight_bytes: int, multiply_adds: int
) -> None:
    # As three passes over it had them, one for each kind of figure; the last two are the built-in student's.
    of_student = component.startswith("encode_")
    program = (forecast.components(catalogue.load(builtin.STUDENT)) if of_student else library.layers())[component]
    seen = outline(program)
    assert (seen.calls, seen.activation_bytes, seen.weight_bytes, seen.multiply_adds) == (
        *(calls, activation_bytes, weight_bytes),
        multiply_adds,
    )
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        program.module(*program.example)
    assert 2 * seen.multiply_adds == counter.get_total_flops()


def test_a_tower_that_two_components_share_is_stored_once_where_they_share_a_file() -> None:
    labels = Labels(("one", "two"), ("a {}",))
    both = forecast.components(catalogue.load(builtin.STUDENT), labels=labels)
    assert set(both) == {"encode_image", "encode_text", "classify"}
    outlines = {name: outline(program) for name, program in both.items()}
    held = sum(each.count for each in distinct(outlines.values()))
    alone = sum(each.count for name in ("encode_image", "encode_text") for each in outlines[name].constants)
    dim = next(iter(both.values())).spec.outputs[0].shape[1]
    assert held == alone + 2 * dim
    coreml, tflite = (
        each.footprint.size_bytes
        for each in forecast.forecast(both, ("coreml", "tflite"), (BUILTIN["fp32"],))
        if each.footprint
    )
    image = 4 * sum(each.count for each in outlines["encode_image"].constants)
    assert coreml - tflite == pytest.approx(image, rel=0.1)


def test_image_only_with_labels_is_the_classifier_alone() -> None:
    assert list(
        forecast.components(catalogue.load(builtin.STUDENT), labels=Labels(("one",), ("{}",)), image_only=True)
    ) == ["classify"]
    with pytest.raises(LabelError):
        forecast.components(catalogue.load(builtin.STUDENT), labels=Labels(("so many words " * 50,), ("{}",)))


@pytest.mark.parametrize(
    "change", ["group_size", *(pytest.param(each, marks=pytest.mark.slow) for each in ("float_layers", "int4_share"))]
)
def test_a_recipe_of_ones_own_counts(change: str, tmp_path: Path) -> None:
    lowered = {"clip_text": library.layers()["clip_text"]}
    all_int4 = BUILTIN["int4-weights"]
    weights = {
        "float_layers": replace(all_int4.weights, float_layers=("clip_text/blocks.*",)),
        "int4_share": replace(all_int4.weights, int4_share=0.3),
        "group_size": replace(all_int4.weights, group_size=64),
    }[change]
    changed = replace(all_int4, name="mine", weights=weights)
    sizes = [each.footprint.size_bytes for each in _both(lowered, all_int4, changed) if each.footprint]
    made = library.lower(
        "coreml",
        changed,
        compress(lowered, changed, {}, silent).programs,
        tmp_path / "bundle",
    )
    # Of a network as small as this, what each op takes weighs as much as the weights.
    assert abs(sizes[1] - made.artefact_bytes) < 0.06 * made.artefact_bytes
    assert sizes[0] != sizes[1]


def _both(lowered: Programs, *recipes: Recipe) -> tuple[forecast.Forecast, ...]:
    return forecast.forecast(lowered, ("coreml",), recipes)


def test_a_pattern_that_names_nothing_is_refused() -> None:
    lowered = {"clip_text": library.layers()["clip_text"]}
    wrong = replace(BUILTIN["int8"], weights=replace(BUILTIN["int8"].weights, float_layers=("clip_text/stem*",)))
    with pytest.raises(RecipeError, match=r"stem\*.*names no layer"):
        forecast.forecast(lowered, ("coreml",), (wrong,))


def test_a_target_that_does_not_say_is_listed_as_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        target = "silent"

        def unsupported(self, programs: object, recipe: object) -> tuple[()]:
            return ()

    monkeypatch.setattr(registry, "converter", lambda target: Silent())
    (found,) = forecast.forecast({"hybrid": library.layers()["hybrid"]}, ("silent",), (BUILTIN["fp32"],))
    assert found.footprint is None
    assert found.refused == ()


def test_a_target_that_is_not_installed_is_listed_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    lowered, find = {"hybrid": library.layers()["hybrid"]}, importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "executorch" else find(name))
    (found,) = forecast.forecast(lowered, ("executorch",), (BUILTIN["fp32"],))
    assert "executorch" in found.refused[0].what
    assert "pip install" in found.refused[0].instead


def test_the_table_compares_every_recipe_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline, "convert", lambda *_: pytest.fail("converted"))
    result = dry_run("--target", "all", "--recipe", "all", "--out", str(tmp_path / "dist"))
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines() if line.split()[:1] and line.split()[0] in TARGETS]
    assert [(line[0], line[1]) for line in lines] == [(target, recipe) for target in TARGETS for recipe in BUILTIN]
    assert "refused: XNNPACK has no palettes" in result.stdout
    assert "iOS 18, macOS 15" in result.stdout
    assert "Estimated" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_json_says_that_it_is_estimated(students: dict[tuple[str, str], forecast.Forecast]) -> None:
    arguments = ("--target", "executorch", "--recipe", "int8", "--recipe", "palette-6", "--recipe", "int8", "--json")
    result = dry_run(*arguments)
    assert result.exit_code == 0, result.output
    taken, refused = json.loads(result.stdout)["forecasts"]
    expected = students["executorch", "int8"].footprint
    assert expected is not None
    assert (taken["recipe"], taken["evidence"], taken["refused"]) == ("int8", "estimated", [])
    assert taken["size_bytes"] == expected.size_bytes
    assert taken["peak_memory_bytes"] == taken["anonymous_bytes"] + taken["mapped_bytes"] == expected.peak_memory_bytes
    assert taken["requires"] == dict(expected.requires)
    assert refused["size_bytes"] is None
    assert refused["refused"] == [{"what": "XNNPACK has no palettes", "instead": "--recipe int4-weights"}]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--target", "onnx"), "no target 'onnx'"),
        (("--target", "tflite", "--recipe", "int7"), "no recipe 'int7'"),
        (("/no/such/model", "--target", "tflite"), "expected a checkpoint's folder or a hub id"),
        (("--target", "tflite", "--template", "a {}"), "--template needs --labels"),
    ],
)
def test_bad_input_is_refused_as_elsewhere(arguments: tuple[str, ...], said: str) -> None:
    result = dry_run(*arguments)
    assert result.exit_code == 2
    assert said in result.output
    assert "Traceback" not in result.output


def test_nothing_but_refusals_is_a_failure() -> None:
    result = dry_run("--target", "tflite", "--recipe", "palette-4")
    assert result.exit_code == UnsupportedError.exit_code
    assert "refused: TFLite has no palettes" in result.output


@pytest.mark.parametrize("recipes", [("--recipe", "int8", "--recipe", "fp16"), ("--recipe", "all")])
def test_several_recipes_go_with_a_dry_run_only(recipes: tuple[str, ...], tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["convert", "--target", "tflite", *recipes, "--out", str(tmp_path / "dist")])
    assert result.exit_code == 2
    assert "--recipe: expected one" in result.output
    assert not (tmp_path / "dist").exists()
