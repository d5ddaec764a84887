"""How a model is compressed: a built-in name or a small strict YAML file.

name: fp16
precision: fp16
parity:
  min_cosine: 0.9999
  min_top1_agreement: 0.99
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgevlm import schema
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


def _read(path: Path) -> Recipe:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from error
    data = schema.read_yaml(text, where=str(path), error=RecipeError)
    base = BUILTIN.get(str(data.get("precision")), BUILTIN["fp32"])
    defaults = {"name": path.stem, "summary": "", "parity": schema.write(base.parity)}
    recipe = schema.read(Recipe, defaults | data, where=str(path), error=RecipeError)
    for key, limit in schema.write(recipe.parity).items():
        if limit is not None and not 0 <= limit <= 1:
            raise RecipeError(f"{path}: parity.{key}: expected a number from 0 to 1, got {limit!r}")
    return recipe
