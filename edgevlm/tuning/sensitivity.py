"""How much each layer costs the task when it alone is quantised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from edgevlm.bundle.recipe import Recipe
from edgevlm.compression.layers import layer_names
from edgevlm.compression.quantisation import quantise
from edgevlm.errors import RecipeError
from edgevlm.graphs.program import Programs
from edgevlm.inputs.rows import Rows
from edgevlm.models.reference import Original
from edgevlm.parity.comparison import Answers, ask
from edgevlm.process.progress import Countdown, Progress
from edgevlm.tuning.score import Score
from edgevlm.tuning.task import Task


@dataclass(frozen=True)
class LayerCost:
    """One layer.

    Attributes:
        layer: `component/layer`.
        score: Of the float model with this layer quantised.
    """

    layer: str
    score: Score

    @property
    def rank(self) -> tuple[float, float]:
        """Larger is worse: answers lost first, then distance from the float model."""
        return (1 - self.score.agreement, self.score.distance)


def run_programs(programs: Programs, samples: Rows) -> Answers:
    """Every sample through the programs, one at a time: their graphs are made for one."""
    specs = {name: program.spec for name, program in programs.items()}
    forwards = {name: program.module for name, program in programs.items()}
    session = Original(torch.nn.ModuleList(forwards.values()), forwards, specs)
    return ask(session, specs.values(), samples)


def measure_layers(
    programs: Programs,
    recipe: Recipe,
    calibration: Mapping[str, Sequence[torch.Tensor]],
    task: Task,
    *,
    pictures: int,
    skip: frozenset[str],
    progress: Progress,
) -> Iterator[LayerCost]:
    """Each layer's cost, one after another, so that a search can be stopped and resumed.

    Args:
        programs: In float32.
        recipe: How a layer is quantised.
        calibration: Inputs of each program.
        task: Its float answers are known.
        pictures: How many of the task's pictures are asked about.
        skip: Layers that have been measured already.
        progress: Told of each layer.
    """
    samples = task.first(pictures)
    floats = run_programs(programs, samples)
    layers = {component: layer_names(program) for component, program in programs.items()}
    total = sum(len(names) for names in layers.values()) - len(skip)
    countdown = Countdown(progress, f"measuring layers under {recipe.name},", total)
    for component, names in layers.items():
        program = programs[component]
        for name in names:
            if f"{component}/{name}" in skip:
                continue
            countdown.next(f"{component}/{name}")
            others = tuple(f"{component}/{literal(other)}" for other in names if other != name)
            alone = replace(recipe, weights=replace(recipe.weights, float_layers=others))
            try:
                quantised, _ = quantise(program, alone, calibration.get(component, ()))
            except RecipeError:  # a layer that this recipe leaves in float anyway
                continue
            answers = {**floats, **run_programs({component: quantised}, samples)}
            yield LayerCost(f"{component}/{name}", task.score(answers))


def literal(name: str) -> str:
    """The glob that matches a name alone."""
    return name.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]")
