from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from edgevlm import schema
from edgevlm.bundle.recipe import (
    BUILTIN,
    Activations,
    Calibration,
    ParityLimits,
    Recipe,
    Weights,
    resolve,
)
from edgevlm.cli import main
from edgevlm.distillation import recipe as distillation
from edgevlm.errors import RecipeError


def test_a_name_and_a_file_give_a_recipe(tmp_path: Path) -> None:
    assert resolve("fp16") is BUILTIN["fp16"]
    path = tmp_path / "strict.yaml"
    path.write_text("precision: fp16\nparity:\n  min_cosine: 0.99995\n")
    assert resolve(path) == Recipe("strict", "fp16", "", ParityLimits(min_cosine=0.99995))


def test_places_are_globs_on_component_and_module() -> None:
    recipe = replace(BUILTIN["fp16"], float32_ops=("encode_image/blocks.3.mlp.*", "encode_text"))
    kept = ("encode_image/blocks.3.mlp.fc1", "encode_image/blocks.3.mlp.act.0", "encode_text")
    assert all(map(recipe.keeps_float32, kept))
    others = (
        "encode_image/blocks.3.mlp",
        "encode_image/blocks.30.mlp.fc1",
        "classify/blocks.3.mlp.fc1",
        "encode_text/x",
    )
    assert not any(map(recipe.keeps_float32, others))


def test_limits_left_out_are_the_precisions_own(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("precision: fp32\n")
    assert resolve(path).parity == BUILTIN["fp32"].parity


@pytest.mark.parametrize("name", BUILTIN)
def test_what_is_written_reads_back(name: str) -> None:
    recipe = BUILTIN[name]
    assert schema.read(Recipe, schema.write(recipe), where="here", error=RecipeError) == recipe


EXAMPLES = Path(__file__).parent.parent / "examples"
FP16 = "precision: fp16\n"
STATIC = "weights: {dtype: int8}\nactivations:\n  ranges: static\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("precision: fp16\nprecison: fp32\n", "unknown key 'precison'"),
        ("precision: fp16\nparity:\n  cosine: 1\n", r"parity: unknown key 'cosine'"),
        ("precision: fp12\n", r"precision: expected one of 'fp32', 'fp16', got 'fp12'"),
        ("name: x\n", "'precision' is missing"),
        ("precision: fp16\nparity:\n  min_cosine: high\n", r"parity\.min_cosine: expected float, got 'high'"),
        ("precision: fp16\nparity:\n  min_cosine: 2\n", "from 0 to 1, got 2"),
        ("precision: fp16\nparity: 3\n", "parity: expected a mapping"),
        ("precision: fp32\nfloat32_ops: [auto]\n", "float32_ops: expected precision: fp16, got fp32"),
        ("precision: fp16\nfloat32_ops: auto\n", r"float32_ops: expected a list, got 'auto'"),
        (FP16 + "weights: {dtype: int3}\n", r"weights\.dtype: expected one of 'float', 'int8'"),
        (
            FP16 + "weights: {dtype: int4, int4_share: 1.5}\n",
            r"weights\.int4_share: expected a number from 0 to 1, got 1\.5",
        ),
        (FP16 + "weights: {sparsity: -0.1}\n", r"weights\.sparsity: expected a number from 0 to 1, got -0\.1"),
        (FP16 + "weights: {sparsity: .nan}\n", r"weights\.sparsity: expected a finite number, got nan"),
        (FP16 + "weights: {sparsity: 1.0}\n", r"weights\.sparsity: expected less than 1: nothing would be left"),
        (FP16 + "weights: {dtype: int4, sparsity: 0.5}\n", "sparsity goes with float or int8 weights, got int4"),
        (FP16 + "weights: {dtype: palette-6, sparsity: 0.5}\n", "float or int8 weights, got palette-6"),
        (FP16 + "weights: {dtype: int4, group_size: 0}\n", r"weights\.group_size: expected 1 or more, got 0"),
        (FP16 + "weights: {float_layers: stem.*}\n", r"weights\.float_layers: expected a list, got 'stem\.\*'"),
        (FP16 + "activations: {ranges: dynamic}\n", "dynamic needs integer weights, got weights.dtype: float"),
        (FP16 + "weights: {dtype: palette-4}\nactivations: {ranges: static}\n", "static needs integer weights"),
        (
            FP16 + "weights: {dtype: int4}\nactivations: {ranges: static}\n",
            "static needs weights.dtype: int8, got int4",
        ),
        (FP16 + STATIC + "  smooth_quant: 2\n", r"activations\.smooth_quant: expected a number from 0 to 1, got 2"),
        (
            FP16 + "weights: {dtype: int8}\nactivations: {smooth_quant: 0.5}\n",
            r"smooth_quant needs .* static, got float",
        ),
        (
            FP16 + "weights: {dtype: int8}\nactivations: {ranges: dynamic, bias_correction: true}\n",
            r"bias_correction needs activations\.ranges: static, got dynamic",
        ),
        (FP16 + STATIC + "calibration: {samples: 15}\n", r"calibration\.samples: expected 16 or more, got 15"),
        (FP16 + "calibration: {sample: 16}\n", r"calibration: unknown key 'sample'"),
        ("- fp16\n", "expected a mapping of keys"),
        ("precision: [\n", "not a readable YAML file"),
    ],
)
def test_a_wrong_file_is_refused_with_its_path(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        resolve(path)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(RecipeError, match="fp32, fp16"):
        resolve("fp8")


def test_every_key_of_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    path.write_text(
        FP16 + "name: mine\nsummary: of my own\n"
        "weights: {dtype: int8, group_size: 64, int4_share: 0.5, sparsity: 0.25, float_layers: ['*/stem.*']}\n"
        "activations: {ranges: static, smooth_quant: 0.4, bias_correction: true}\n"
        "calibration: {samples: 32, seed: 7}\nparity: {min_top1_agreement: 0.5}\n"
    )
    recipe = resolve(path)
    assert recipe == Recipe(
        "mine",
        "fp16",
        "of my own",
        ParityLimits(min_top1_agreement=0.5),
        Weights("int8", 64, 0.5, 0.25, ("*/stem.*",)),
        Activations("static", 0.4, True),
        Calibration(32, 7),
    )
    assert (recipe.quantises, recipe.needs_calibration) == (True, True)


@pytest.mark.parametrize(
    ("text", "like"),
    [
        ("", "fp16"),
        ("weights: {dtype: int8}\nactivations: {ranges: dynamic}\n", "int8"),
        ("weights: {dtype: int8, float_layers: ['*/projection']}\nactivations: {ranges: static}\n", "int8-static"),
        ("weights: {dtype: int8}\n", "int8-weights"),
        ("weights: {dtype: int4, group_size: 64}\n", "int4-weights"),
        ("weights: {sparsity: 0.3}\n", "prune-50"),
        ("weights: {dtype: int8, sparsity: 0.3}\nactivations: {ranges: dynamic}\n", "prune-50-int8"),
        ("weights: {dtype: palette-6}\n", "palette-6"),
        ("weights: {dtype: palette-4}\n", "palette-4"),
    ],
)
def test_limits_left_out_are_those_of_the_built_in_recipe_that_is_most_like_it(
    tmp_path: Path, text: str, like: str
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(FP16 + text)
    assert resolve(path).parity == BUILTIN[like].parity


@pytest.mark.parametrize("name", BUILTIN)
def test_a_built_in_recipe_keeps_its_own_demands(name: str, tmp_path: Path) -> None:
    path = tmp_path / "copy.yaml"
    path.write_text(json.dumps(schema.write(BUILTIN[name])))  # JSON is YAML
    assert resolve(path) == BUILTIN[name]


def test_the_example_has_every_key_and_is_read() -> None:
    path = EXAMPLES / "compression.yaml"
    given, every = yaml.safe_load(path.read_text()), schema.write(resolve(path))
    assert given.keys() == every.keys()
    for section in ("weights", "activations", "calibration"):
        assert given[section].keys() == every[section].keys()


@pytest.mark.parametrize("name", ["x/../../escaped", "../up", ".hidden", "two words", "a\nb", ""])
def test_a_name_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"precision: fp16\nname: {json.dumps(name)}\n")
    with pytest.raises(RecipeError, match="name: expected letters, digits"):
        resolve(path)


def test_a_built_in_name_is_not_taken_for_another_recipe(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("precision: fp16\nname: int8\n")
    with pytest.raises(RecipeError, match="'int8' is a built-in recipe's"):
        resolve(path)


def test_a_missing_file_is_called_so(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such file"):
        resolve(tmp_path / "nope.yaml")


COPIED = (*BUILTIN, *distillation.BUILTIN)


def _built_in(name: str) -> Recipe | distillation.DistillRecipe:
    return BUILTIN[name] if name in BUILTIN else distillation.resolve(name)


def _read_back(path: Path, name: str) -> Recipe | distillation.DistillRecipe:
    return resolve(path) if name in BUILTIN else distillation.resolve(path)


@pytest.mark.parametrize("name", COPIED)
def test_a_copy_is_the_recipe_under_the_name_of_its_file(name: str, tmp_path: Path) -> None:
    same, mine = tmp_path / f"{name}.yaml", tmp_path / "in" / "mine.yml"
    for path in (same, mine):
        assert _run("recipes", name, "--copy", path).exit_code == 0
    assert _read_back(same, name) == _built_in(name)
    assert _read_back(mine, name) == replace(_built_in(name), name="mine")
    printed = _run("recipes", name).stdout
    assert printed == same.read_text().replace(f"--recipe {same}", "--recipe FILE")


@pytest.mark.parametrize("name", ["int8-static", "mobileclip"])
def test_a_copy_says_above_each_key_what_it_means(name: str) -> None:
    lines = _run("recipes", name).stdout.splitlines()
    keys = [number for number, line in enumerate(lines) if re.match(r" *\w+:( |$)", line)]
    assert len(keys) > 15
    for number in keys:
        assert lines[number - 1].lstrip().startswith("# "), lines[number]
    assert max(map(len, lines)) <= 120
    assert not any("None" in line for line in lines if line.lstrip().startswith("#"))


def test_a_copy_can_be_edited_and_says_where_it_is_from(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    result = _run("recipes", "int8", "--copy", path)
    assert f"edgevlm convert --target TARGET --recipe {path}" in result.stderr
    path.write_text(path.read_text().replace("min_cosine: 0.99", "min_cosine: 0.9").replace("[]", '["encode_image/*"]'))
    found = resolve(path)
    assert (found.name, found.parity.min_cosine) == ("mine", 0.9)
    assert found.weights.float_layers == found.float32_ops == ("encode_image/*",)
    assert "arXiv 2311.17049" in _run("recipes", "mobileclip").stdout.partition("name:")[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("int3", "--copy", "mine.yaml"), "no built-in recipe 'int3': expected one of fp32, fp16, int8, "),
        (("int3",), "ood, tinyclip, clip-kd, mobileclip, recovery, labels-only"),
        (("--copy", "mine.yaml"), "edgevlm recipes NAME --copy mine.yaml"),
        (("int8", "--copy", "there.yaml"), "there.yaml exists already"),
        (("int8", "--copy", "mine"), "expected a file that ends in .yaml"),
        (("int8", "--copy", "fp16.yaml"), "'fp16' is another built-in recipe's name"),
        (("int8", "--copy", "my own.yaml"), "expected letters, digits and . _ + - only, got 'my own'"),
        (("int8", "--copy", "there.yaml/mine.yaml"), "cannot write there.yaml/mine.yaml"),
    ],
)
def test_what_cannot_be_copied_is_refused_and_nothing_written(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.yaml").write_text("mine")
    result = _run("recipes", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["there.yaml"]
    assert Path("there.yaml").read_text() == "mine"


def test_force_replaces_and_json_tells(tmp_path: Path) -> None:
    path = tmp_path / "there.yaml"
    path.write_text("mine")
    result = _run("recipes", "int8", "--copy", path, "--force", "--json")
    assert json.loads(result.stdout)["recipe"]["name"] == resolve(path).name == "there"
    assert json.loads(_run("recipes", "ood", "--json").stdout)["recipe"]["losses"][0]["loss"] == "classification"


def test_only_what_differs_can_be_written() -> None:
    text = schema.to_yaml(BUILTIN["int8"], {"weights": "Integers."}, changed_only=True)
    assert text == (
        f"name: int8\nprecision: fp16\nsummary: '{BUILTIN['int8'].summary}'\nparity:\n  min_cosine: 0.99\n"
        "  min_top1_agreement: 0.95\n# Integers.\nweights:\n  dtype: int8\nactivations:\n  ranges: dynamic\n"
    )


@pytest.mark.parametrize("name", ["1e3", "-.5e-2", "1.e+7", "0x1f", "yes", "null", "2026-11-28", "12:30"])
def test_a_text_that_looks_like_something_else_is_written_as_a_text(name: str) -> None:
    text = schema.to_yaml(replace(BUILTIN["int8"], name=name), {})
    data = schema.parse_yaml(text, where="x", error=RecipeError)
    assert schema.read(Recipe, data, where="x", error=RecipeError).name == name


def _run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])
