"""How a model is compressed: a built-in name or a small strict YAML file.

    name: fp16
    precision: fp16
    parity:
      min_cosine: 0.9999
      min_top1_agreement: 0.99
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from edgevlm.errors import RecipeError

Precision = Literal["fp32", "fp16"]


@dataclass(frozen=True)
class ParityLimits:
    """How far an artefact's unit-norm embeddings and answers may be from the float reference's.

    Attributes:
        max_abs_error: Largest absolute difference of any embedding component; None leaves it unlimited.
      min_cosine: Least cosine between an embedding and its reference.
      min_top1_agreement: Least share of samples whose zero-shot answer is the reference's, 0..1.
    """

    max_abs_error: float | None = None
    min_cosine: float | None = None
    min_top1_agreement: float | None = None


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe, as it is written into the manifest."""

    name: str
    precision: Precision
    summary: str
    parity: ParityLimits


BUILTIN: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="fp32",
            precision="fp32",
            summary="float32 weights and arithmetic: the reference's own answers, twice fp16's size",
            parity=ParityLimits(max_abs_error=1e-5, min_cosine=0.999999, min_top1_agreement=0.99),
        ),
        Recipe(
            name="fp16",
            precision="fp16",
            summary="float16 weights; float16 arithmetic where the target has it",
            parity=ParityLimits(min_cosine=0.9999, min_top1_agreement=0.99),
        ),
    )
}


def resolve(name_or_file: str | Path) -> Recipe:
    """The built-in recipe of that name, or the one in that YAML file.

    Raises:
        RecipeError: no such recipe; or the file has an unknown key, a wrong type or a value out of range.
    """
    name = str(name_or_file)
    if name in BUILTIN:
        return BUILTIN[name]
    path = Path(name_or_file)
    if not path.is_file():
        raise RecipeError(
            f"no recipe {name!r}: expected one of {', '.join(BUILTIN)}, or the path of a YAML file",
            hint="edgevlm recipes lists the built-in ones",
        )
    return _read(path)


def from_json(data: Mapping[str, Any]) -> Recipe:
    """The recipe that `to_json` wrote."""
    return _parse(data, default_name="recipe", where="recipe")


def to_json(recipe: Recipe) -> dict[str, Any]:
    """Plain values, for the manifest and for hashing."""
    return asdict(recipe)


def _read(path: Path) -> Recipe:
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path}: not a readable YAML file: {error}") from error
    if not isinstance(data, Mapping):
        raise RecipeError(f"{path}: expected a mapping of keys at the top, got {type(data).__name__}")
    return _parse(data, default_name=path.stem, where=str(path))


def _parse(data: Mapping[str, Any], *, default_name: str, where: str) -> Recipe:
    _refuse_unknown(data, {field.name for field in fields(Recipe)}, where)
    precision = data.get("precision")
    if precision not in get_args(Precision):
        raise RecipeError(f"{where}: precision: expected one of {', '.join(get_args(Precision))}, got {precision!r}")
    limits = data.get("parity", asdict(BUILTIN[precision].parity))
    if not isinstance(limits, Mapping):
        raise RecipeError(f"{where}: parity: expected a mapping, got {limits!r}")
    _refuse_unknown(limits, {field.name for field in fields(ParityLimits)}, f"{where}: parity")
    for key, value in limits.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value):
            raise RecipeError(f"{where}: parity.{key}: expected a number of at least 0, got {value!r}")
    texts = {key: data.get(key, default) for key, default in (("name", default_name), ("summary", ""))}
    for key, value in texts.items():
        if not isinstance(value, str):
            raise RecipeError(f"{where}: {key}: expected text, got {value!r}")
    return Recipe(
        name=texts["name"], precision=precision, summary=texts["summary"], parity=ParityLimits(**limits)
    )


def _refuse_unknown(data: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in data:
        if key not in known:
            raise RecipeError(
                f"{where}: unknown key {key!r}: expected {', '.join(sorted(known))}",
                hint="edgevlm recipes --json prints the built-in recipes with every key",
            )
