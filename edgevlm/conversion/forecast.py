"""What a conversion would come to, before it is made: size, memory and the least system, or why a target refuses.

Nothing is converted and no weight is read: the model's modules run on fake tensors, the recipe says what becomes of
each weight, and the target's converter what it stores of that and what its engine makes of it. Size and memory are
estimates; `python -m edgevlm.benchmarks.forecast` measures how far off they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from edgevlm.bundle.recipe import Recipe
from edgevlm.conversion.prepared import check_labels, choose_programs
from edgevlm.errors import MissingDependency
from edgevlm.graphs.outline import Constant, Outline, outline
from edgevlm.graphs.program import Programs
from edgevlm.models import catalogue
from edgevlm.targets import registry
from edgevlm.targets.converter import Footprint, Forecaster, Unsupported

if TYPE_CHECKING:
    from edgevlm.bundle.manifest import Labels
    from edgevlm.targets.converter import Converter


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
    outlines = {name: outline(program) for name, program in programs.items()}
    _refuse_unknown_layers(outlines, recipes)
    return tuple(
        _forecast_one(registry.converter(target), programs, outlines, recipe)
        for target in targets
        for recipe in recipes
    )


def read_programs(
    model: str | Path, *, revision: str | None = None, labels: Labels | None = None, image_only: bool = False
) -> Programs:
    """A model's components as a conversion would lower them, with zeros for the labels' embeddings.

    Args:
        model: A built-in name, a folder or a hub id.
        revision: Of a hub id.
        labels: A label set to bake.
        image_only: Whether the text tower is left out.

    Raises:
        CheckpointError: the model cannot be read.
        UnsupportedError: labels are to be baked, and there is no text tower to embed them.
        LabelError: one does not fit the model's context.
        MissingDependency: torch is not installed.
    """
    if find_spec("torch") is None:
        raise MissingDependency("torch", extra="all")
    import torch

    loaded = catalogue.load(model, revision=revision)
    embeddings = loaded.label_embeddings
    if labels is not None:
        check_labels(loaded, labels)
        embeddings = torch.zeros(len(labels.names), loaded.embedding_dim)
    return choose_programs(loaded, embeddings, image_only=image_only)


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


def _refuse_unknown_layers(outlines: Mapping[str, Outline], recipes: Sequence[Recipe]) -> None:
    from edgevlm.compression.layers import refuse_unknown_patterns

    names = [
        f"{component}/{each.layer}"
        for component, seen in outlines.items()
        for each in seen.constants
        if each.kind != "other"
    ]
    for recipe in recipes:
        refuse_unknown_patterns(names, recipe)


def _settle(seen: Outline, component: str, recipe: Recipe) -> Outline:
    """The component with what the recipe makes of each constant."""
    return replace(seen, constants=tuple(_decide(seen.constants, component, recipe)))


def _decide(constants: Sequence[Constant], component: str, recipe: Recipe) -> Iterator[Constant]:
    from edgevlm.compression.layers import becomes_integers

    weights = recipe.weights
    # Numbers that become int4: which of the layers is NNCF's choice, and does not matter for their sum.
    left = weights.int4_share * sum(each.count for each in constants if _can_be_grouped(each, weights.group_size))
    for each in constants:
        if each.kind == "other" or any(fnmatchcase(f"{component}/{each.layer}", glob) for glob in weights.float_layers):
            yield each
            continue
        each = replace(each, sparsity=weights.sparsity)
        if recipe.quantises and not becomes_integers(each.layer, each.kind, component, recipe):
            yield each
        elif weights.dtype == "int4" and (not _can_be_grouped(each, weights.group_size) or each.count > left):
            yield replace(each, dtype="int8")
        else:
            left -= each.count if weights.dtype == "int4" else 0
            yield replace(each, dtype=weights.dtype, group_size=weights.group_size)


def _can_be_grouped(constant: Constant, group_size: int) -> bool:
    """Whether it can be int4: products whose inputs the group size divides."""
    return constant.kind == "linear" and constant.shape[1] % group_size == 0
