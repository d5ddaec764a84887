"""Compresses a model's programs as a recipe says, once for all targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from edgevlm.bundle.integer_weights import StoredWeight
from edgevlm.bundle.recipe import Recipe
from edgevlm.errors import MissingDependency
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


def compress(
    programs: Programs, recipe: Recipe, samples: Mapping[str, Sequence[torch.Tensor]], progress: Progress
) -> Compressed:
    """The programs with their weights pruned and quantised; the given ones are left as they are.

    Args:
        programs: In float32.
        recipe: What becomes of them.
        samples: Calibration inputs of each program; may be empty where `recipe.needs_calibration` is not set.
        progress: Told which component is being worked on.

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

    made: dict[str, Program] = {}
    decided: dict[str, tuple[StoredWeight, ...]] = {}
    for name, program in programs.items():
        progress(f"compressing {name}", None)
        if recipe.weights.sparsity:
            program = prune(program, recipe)
        if recipe.quantises:
            program, decided[name] = quantise(program, recipe, samples.get(name, ()))
        made[name] = program
    return Compressed(made, decided)
