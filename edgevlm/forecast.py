"""What a conversion would come to, before it is made: size, memory and the least system, or why a target refuses.

Nothing is converted and no weight is read: the model's modules run on fake tensors, the recipe says what becomes of
each weight, and the target's converter what it stores of that and what its engine makes of it. Size and memory are
estimates; `python -m edgevlm.benchmarks.forecast` measures how far off they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from edgevlm import registry
from edgevlm.errors import MissingDependency
from edgevlm.footprint import Constant, Footprint, Outline, outline
from edgevlm.interfaces import Forecaster, Programs, Unsupported
from edgevlm.recipe import Recipe

if TYPE_CHECKING:
    from edgevlm.interfaces import Converter


@dataclass(frozen=True)
class Forecast:
    """What to expect of one target and recipe.

    Attributes:
        target: Which.
        recipe: Its name.
        footprint: What is expected; None where the target refuses, or does not say.
        refused: Why the target cannot hold it; empty where it can.
    """

    target: str
    recipe: str
    footprint: Footprint | None
    refused: tuple[Unsupported, ...] = ()


def forecast(programs: Programs, targets: Sequence[str], recipes: Sequence[Recipe]) -> tuple[Forecast, ...]:
    """What every recipe on every target would come to, target by target.

    Args:
        programs: The model's components in float32.
        targets: Names of targets; their own packages need not be installed.
        recipes: Recipes.

    Raises:
        RecipeError: a recipe names layers that there are none of.
    """
    outlines = outline_all(programs)
    return tuple(
        _forecast_one(registry.converter(target), programs, outlines, recipe)
        for target in targets
        for recipe in recipes
    )


def outline_all(programs: Programs) -> dict[str, Outline]:
    """Every component, seen without running it."""
    return {name: outline(program) for name, program in programs.items()}


def footprint(converter: Converter, outlines: Mapping[str, Outline], recipe: Recipe) -> Footprint | None:
    """What a target is expected to make of components; None for one that does not say."""
    if not isinstance(converter, Forecaster):
        return None
    settled = {name: _settle(each, name, recipe) for name, each in outlines.items()}
    return converter.forecast(settled, recipe)


def _forecast_one(
    converter: Converter, programs: Programs, outlines: Mapping[str, Outline], recipe: Recipe
) -> Forecast:
    refused = converter.unsupported(programs, recipe)
    try:
        found = None if refused else footprint(converter, outlines, recipe)
    except MissingDependency as error:
        found, refused = None, (Unsupported(error.message, instead=error.hint or ""),)
    return Forecast(converter.target, recipe.name, found, refused)


def _settle(seen: Outline, component: str, recipe: Recipe) -> Outline:
    """The component with what the recipe makes of each constant."""
    return replace(seen, constants=tuple(_decide(seen.constants, component, recipe)))


def _decide(constants: Sequence[Constant], component: str, recipe: Recipe) -> Iterator[Constant]:
    from edgevlm.compression.layers import becomes_integers

    weights = recipe.weights
    for each in constants:
        chosen = each.kind != "other" and not any(
            fnmatchcase(f"{component}/{each.layer}", pattern) for pattern in weights.float_layers
        )
        if not chosen:
            yield each
            continue
        each = replace(each, sparsity=weights.sparsity)
        if recipe.quantises and not becomes_integers(each.layer, each.kind, component, recipe):
            yield each
        elif weights.dtype == "int4" and not _can_be_grouped(each, weights.group_size):
            yield replace(each, dtype="int8")
        else:
            yield replace(each, dtype=weights.dtype, group_size=weights.group_size)


def _can_be_grouped(constant: Constant, group_size: int) -> bool:
    """Whether it can be int4: products whose inputs the group size divides."""
    return constant.kind == "linear" and constant.shape[1] % group_size == 0
