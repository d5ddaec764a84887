from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgevlm import schema
from edgevlm.errors import RecipeError
from edgevlm.recipe import BUILTIN, ParityLimits, Recipe, resolve


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
