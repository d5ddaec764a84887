"""Searches for the smallest or fastest artefact that still does its task.

It asks a bench, which says what a recipe comes to; that of a real search converts every one, in
`edgevlm.tuning.workbench`. SmoothQuant's alpha is chosen before anything is converted; a family of recipes that loses
too much is tried again with its most sensitive layers left in float, or in int8 for int4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from edgevlm.bundle.recipe import BUILTIN, ParityLimits, Recipe
from edgevlm.process.progress import Countdown, Progress
from edgevlm.tuning.notes import Notes
from edgevlm.tuning.request import Objective
from edgevlm.tuning.sensitivity import LayerCost
from edgevlm.tuning.trial import Trial

FAMILIES = ("int8", "int8-weights", "int8-static", "palette-6")
"""Built-in recipes to start from, the most careful first; int4 and 4-bit palettes come behind them."""
ALPHAS = (None, 0.25, 0.5, 0.75, 0.95)
INT4_SHARES = (0.75, 0.5)
"""Of the weights, where all of them lose too much."""
GROUP_SIZES = (32, 64, 128)
"""Of int4. Fewer scales are smaller, but a layer whose width the size does not divide stays int8."""
KEPT = (1, 2, 4, 8)
"""How many of the most sensitive layers are left in float, in turn."""


class Bench(Protocol):
    """What says of recipes what they come to.

    Attributes:
        accuracy: Of the float model, 0..1.
        pictures: How many are asked about; of a model that talks, how many questions are asked.
        words: How many texts there are to choose from; none where the model says its own.
        counts: What accuracy counts, such as `named right`.
        measures: What distance from the float model is, for readers of a picture.
    """

    accuracy: float
    pictures: int
    words: int
    counts: str
    measures: str

    def holds(self, recipe: Recipe) -> bool:
        """Whether the target can hold it."""

    def nearest(self, rivals: Sequence[Recipe], progress: Progress) -> Recipe:
        """The one that is nearest to the float model, as far as that is known without an artefact."""

    def measure(self, recipe: Recipe, progress: Progress) -> Trial:
        """What the recipe comes to; a trial with an error where there is no artefact that answers."""

    def measure_layers(self, recipe: Recipe, *, skip: frozenset[str]) -> Iterator[LayerCost]:
        """What each layer costs under a recipe, but for those that have been measured already."""


def search(
    bench: Bench,
    notes: Notes,
    plain: Recipe,
    *,
    max_drop: float,
    costs: Callable[[Recipe], list[LayerCost]],
    progress: Progress,
) -> Iterator[Trial]:
    """Every trial, in the order in which they were made.

    Args:
        bench: What they are measured with.
        notes: What was tried before the search was stopped; each trial is added.
        plain: The float32 recipe, whose calibration the others have.
        max_drop: Points of accuracy that may be lost.
        costs: What each layer costs under a recipe, the worst first.
        progress: Told what is being tried.
    """
    families = [family for family in _families(plain) if bench.holds(family)]
    countdown = Countdown(progress, "recipe", len(families))
    for family in families:
        told = countdown.next(family.name)
        if family.activations.ranges == "static":
            family = notes.chosen(family.name) or _choose(bench, notes, family, told)
        for recipe in _steps(family, costs):
            trial = try_out(bench, notes, recipe, told)
            yield trial
            if trial.error is not None or trial.drop <= max_drop:
                break


def try_out(bench: Bench, notes: Notes, recipe: Recipe, progress: Progress) -> Trial:
    """The trial of a recipe: what the notes have of it, or what is measured now."""
    trial = notes.find(recipe)
    if trial is None:
        progress(f"trying {recipe.name}", None)
        trial = bench.measure(recipe, progress)
        notes.add_trial(trial)
    return trial


def best(trials: list[Trial], *, max_drop: float, objective: Objective) -> Trial | None:
    """The smallest, or fastest, of those within the allowed drop; None where there is none."""
    fine = [trial for trial in trials if trial.error is None and trial.drop <= max_drop]

    def cost(trial: Trial) -> tuple[float, float]:
        latency = 1.0 if trial.latency_ratio is None else trial.latency_ratio
        return (latency, trial.size_bytes) if objective == "latency" else (trial.size_bytes, latency)

    return min(fine, key=cost, default=None)


def _families(plain: Recipe) -> list[Recipe]:
    """The recipes to start from, the most careful first."""
    recipes = [BUILTIN[name] for name in FAMILIES]
    recipes += [_grouped(BUILTIN["int4-weights"], size) for size in GROUP_SIZES]
    recipes += [BUILTIN["palette-4"]]
    return [replace(recipe, parity=ParityLimits(), calibration=plain.calibration) for recipe in recipes]


def _steps(family: Recipe, costs: Callable[[Recipe], list[LayerCost]]) -> Iterator[Recipe]:
    """The family's recipe, then ones that lose less: the worst layers in float, or in int8 for int4."""
    yield family
    if family.weights.dtype == "int4":
        for share in INT4_SHARES:
            yield replace(family, name=f"{family.name}-{share:g}", weights=replace(family.weights, int4_share=share))
        return
    for count in KEPT:
        layers = tuple(cost.layer for cost in costs(family)[:count])
        weights = replace(family.weights, float_layers=layers)
        yield replace(family, name=f"{family.name}-keep-{count}", weights=weights)


def _choose(bench: Bench, notes: Notes, family: Recipe, progress: Progress) -> Recipe:
    """With the alpha of SmoothQuant that does best."""
    nearest = bench.nearest([_smoothed(family, alpha) for alpha in ALPHAS], progress)
    notes.choose(family.name, nearest)
    return nearest


def _smoothed(recipe: Recipe, alpha: float | None) -> Recipe:
    if alpha is None:
        return recipe
    activations = replace(recipe.activations, smooth_quant=alpha)
    return replace(recipe, name=f"{recipe.name}-smooth-{alpha:g}", activations=activations)


def _grouped(recipe: Recipe, size: int) -> Recipe:
    if size == recipe.weights.group_size:
        return recipe
    return replace(recipe, name=f"{recipe.name}-group-{size}", weights=replace(recipe.weights, group_size=size))
