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

from edgevlm.bundle.recipe import Recipe
from edgevlm.conversion.prepared import check_labels, choose_programs
from edgevlm.conversion.prepared_talker import PreparedTalker
from edgevlm.errors import MissingDependency
from edgevlm.graphs.outline import Constant, Outline, outline
from edgevlm.graphs.program import Programs
from edgevlm.targets import registry
from edgevlm.targets.converter import Footprint, Forecaster, Unsupported

if TYPE_CHECKING:
    from edgevlm.bundle.manifest import Labels
    from edgevlm.models.model import Model
    from edgevlm.models.talker import Talker
    from edgevlm.targets.converter import Converter


@dataclass(frozen=True)
class Forecast:
    """What to expect of one target and recipe.

    Attributes:
        target: Which.
        recipe: Its name.
        footprint: What is expected; None where the target refuses, or does not say.
        refused: Why the target cannot hold it; empty where it can.
        context_length: Of a model that talks, the positions of a dialogue; None of a dual encoder.
        state_bytes: Of a model that talks, bytes of a dialogue's keys and values in float32, which grow with its
            context; they are in the footprint.
    """

    target: str
    recipe: str
    footprint: Footprint | None
    refused: tuple[Unsupported, ...] = ()
    context_length: int | None = None
    state_bytes: int = 0


def forecast(
    model: Programs | PreparedTalker, targets: Sequence[str], recipes: Sequence[Recipe]
) -> tuple[Forecast, ...]:
    """What every recipe on every target would come to, target by target.

    Args:
        model: The components of a dual encoder in float32, or a model that talks.
        targets: Names of targets; their own packages need not be installed.
        recipes: Recipes.

    Raises:
        RecipeError: a recipe names layers that there are none of.
    """
    found = []
    if isinstance(model, PreparedTalker):
        programs, seen = model.programs, model.outlines
    else:
        programs, seen = model, {name: outline(program) for name, program in model.items()}
    _refuse_unknown_layers(seen, recipes)
    for target in targets:
        converter, outlines = registry.converter(target), seen
        if isinstance(model, PreparedTalker):
            outlines = model.outlined(converter)
        for recipe in recipes:
            refused = converter.unsupported(programs, recipe)
            if isinstance(model, PreparedTalker):
                refused = refused or model.unsupported(recipe)
            found.append(_forecast_one(converter, outlines, recipe, refused))
    if isinstance(model, PreparedTalker):
        context, state = model.model.dialogue.context_length, sum(each.state_bytes for each in programs.values())
        found = [replace(each, context_length=context, state_bytes=state) for each in found]
    return tuple(found)


def components(
    loaded: Model | Talker, *, labels: Labels | None = None, image_only: bool = False
) -> Programs | PreparedTalker:
    """A model that talks, or a dual encoder's components as a conversion would lower them.

    Of the latter, the labels' embeddings are zeros.

    Args:
        loaded: The model.
        labels: A label set to bake.
        image_only: Whether the text tower is left out.

    Raises:
        UnsupportedError: labels are to be baked, and there is no text tower to embed them.
        LabelError: one does not fit the model's context.
    """
    import torch

    from edgevlm.models.talker import Talker

    if isinstance(loaded, Talker):
        return PreparedTalker(loaded)
    embeddings = loaded.label_embeddings
    if labels is not None:
        check_labels(loaded, labels)
        embeddings = torch.zeros(len(labels.names), loaded.embedding_dim)
    return choose_programs(loaded, embeddings, image_only=image_only)


def footprint(converter: Converter, outlines: Mapping[str, Outline], recipe: Recipe) -> Footprint | None:
    """What a target is expected to make of components; None for one that does not say."""
    if not isinstance(converter, Forecaster):
        return None
    settled = {name: _settle(each, each.component or name, recipe) for name, each in outlines.items()}
    return converter.forecast(settled, recipe)


def _forecast_one(
    converter: Converter, outlines: Mapping[str, Outline], recipe: Recipe, refused: tuple[Unsupported, ...]
) -> Forecast:
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
