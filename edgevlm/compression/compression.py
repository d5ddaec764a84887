"""Compresses a model's programs as a recipe says, once for all targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TypeAlias

import torch

from edgevlm.bundle.integer_weights import StoredWeight
from edgevlm.bundle.recipe import Recipe
from edgevlm.bundle.spec import ComponentSpec
from edgevlm.errors import MissingDependency
from edgevlm.graphs import patches
from edgevlm.graphs.program import Program, Programs
from edgevlm.process.progress import Progress


@dataclass(frozen=True)
class Compressed:
    """Programs as they are to be lowered.

    Attributes:
        programs: By component.
        decided: The integer weights of each component that has any; a converter must carry them unchanged.
    """

    programs: Programs
    decided: Mapping[str, tuple[StoredWeight, ...]]


Made: TypeAlias = dict[tuple[torch.nn.Module, ComponentSpec], tuple[torch.nn.Module, tuple[StoredWeight, ...]]]
"""What became of a program, and what was decided, by its module and spec."""


def compress(
    programs: Programs,
    recipe: Recipe,
    samples: Mapping[str, Sequence[torch.Tensor]],
    progress: Progress,
    made: Made | None = None,
) -> Compressed:
    """The programs with their weights pruned and quantised; the given ones are left as they are.

    Args:
        programs: In float32.
        recipe: What becomes of them.
        samples: Calibration inputs of each program; may be empty where `recipe.needs_calibration` is not set.
        progress: Told which component is being worked on.
        made: What came of the same recipe and samples before, which is taken as it is; added to.

    Raises:
        RecipeError: the recipe leaves nothing to compress, or names layers that there are none of.
        MissingDependency: NNCF or torchao is not installed.
    """
    from edgevlm.compression.layers import refuse_unknown_layers

    refuse_unknown_layers(programs, recipe)
    if not recipe.quantises and not recipe.weights.sparsity:
        return Compressed(programs, {})
    for package in ("nncf", "torchao"):
        if find_spec(package) is None:
            raise MissingDependency(package, extra="nncf")
    from edgevlm.compression.pruning import prune
    from edgevlm.compression.quantisation import quantise

    made = {} if made is None else made
    compressed: dict[str, Program] = {}
    decided: dict[str, tuple[StoredWeight, ...]] = {}
    for name, program in programs.items():
        key = (program.module, program.spec)
        if key not in made:
            progress(f"compressing {name}", None)
            found, weights = program, tuple[StoredWeight, ...]()
            with patches.applied():
                if recipe.weights.sparsity:
                    found = prune(found, recipe)
                if recipe.quantises:
                    found, weights = quantise(found, recipe, samples.get(name, ()))
            made[key] = found.module, weights
        module, weights = made[key]
        compressed[name] = replace(program, module=module)
        if recipe.quantises:
            decided[name] = weights
    return Compressed(compressed, decided)
