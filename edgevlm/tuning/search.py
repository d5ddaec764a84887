"""Searches for the smallest or fastest artefact that still does its task.

Every candidate is converted and measured as it would ship: its file's size, its answers on the target's runtime, and
its time beside the float32 artefact's in the same process. SmoothQuant's alpha is chosen in torch first, where a try
costs seconds; a family of recipes that loses too much is tried again with its most sensitive layers left in float, or
in int8 for int4.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.recipe import BUILTIN, ParityLimits, Recipe
from edgevlm.compression.compression import compress
from edgevlm.conversion import pipeline
from edgevlm.graphs.program import Programs
from edgevlm.inputs.rows import inputs_of, is_answerable
from edgevlm.parity.comparison import ask
from edgevlm.process.progress import Countdown, Progress, silent
from edgevlm.targets import registry
from edgevlm.targets.runtime import Session
from edgevlm.tuning.notes import Notes
from edgevlm.tuning.request import Objective
from edgevlm.tuning.sensitivity import LayerCost, run_programs
from edgevlm.tuning.task import Score, Task
from edgevlm.tuning.trial import Trial

ALPHAS = (None, 0.25, 0.5, 0.75, 0.95)
INT4_SHARES = (0.75, 0.5)
"""Of the weights, where all of them lose too much."""
GROUP_SIZES = (32, 64, 128)
"""Of int4. Fewer scales are smaller, but a layer whose width the size does not divide stays int8."""
KEPT = (1, 2, 4, 8)
"""How many of the most sensitive layers are left in float, in turn."""
_ROUNDS = 15


@dataclass(frozen=True)
class Bench:
    """What trials are measured with.

    Attributes:
        request: What is converted, without a recipe of its own.
        task: With the float model's answers.
        floats: Accuracy of the float model, 0..1.
        programs: In float32.
        calibration: Inputs of each program.
        baseline: The float32 bundle of the target.
        progress: Told what is being tried.
    """

    request: pipeline.Request
    task: Task
    floats: float
    programs: Programs
    calibration: Mapping[str, list[torch.Tensor]]
    baseline: Bundle
    progress: Progress


def search(
    bench: Bench,
    notes: Notes,
    *,
    max_drop: float,
    costs: Callable[[Recipe], list[LayerCost]],
) -> Iterator[Trial]:
    """Every trial, in the order in which they were made.

    Args:
        bench: What they are measured with.
        notes: What was tried before the search was stopped; each trial is added.
        max_drop: Points of accuracy that may be lost.
        costs: What each layer costs under a recipe, the worst first.
    """
    families = _families(bench)
    countdown = Countdown(bench.progress, "recipe", len(families))
    for family in families:
        told = countdown.next(family.name)
        if family.activations.ranges == "static":
            family = notes.chosen(family.name) or _choose(bench, notes, family, told)
        for recipe in _steps(family, costs):
            trial = notes.find(recipe)
            if trial is None:
                told(f"trying {recipe.name}", None)
                trial = measure(bench, recipe, told)
                notes.add_trial(trial)
            yield trial
            if trial.error is not None or trial.drop <= max_drop:
                break


def best(trials: list[Trial], *, max_drop: float, objective: Objective) -> Trial | None:
    """The smallest, or fastest, of those within the allowed drop; None where there is none."""
    fine = [trial for trial in trials if trial.error is None and trial.drop <= max_drop]

    def cost(trial: Trial) -> tuple[float, float]:
        latency = 1.0 if trial.latency_ratio is None else trial.latency_ratio
        return (latency, trial.size_bytes) if objective == "latency" else (trial.size_bytes, latency)

    return min(fine, key=cost, default=None)


def measure(bench: Bench, recipe: Recipe, progress: Progress) -> Trial:
    """Converts with a recipe, asks the artefact, and times it beside the float32 one."""
    request = replace(bench.request, recipe=recipe, force=True)
    (outcome,) = pipeline.convert(request, progress)
    if outcome.bundle is None:
        message = outcome.error.message if outcome.error else outcome.status
        return Trial(recipe, Score(0, 0, 0), 0, 0, None, 100.0, error=message)
    with registry.runtime(request.targets[0]).open(outcome.bundle, threads=1) as session:
        specs = [component.spec for component in outcome.bundle.components.values()]
        samples = bench.task.samples
        answers = ask(session, specs, samples, lambda share: progress("asking the artefact", share))
        ratio = _latency_ratio(bench, session)
    score = bench.task.score(answers)
    size, download = outcome.bundle.artefact_bytes, outcome.bundle.manifest.compressed_size_bytes
    return Trial(
        recipe=recipe,
        score=score,
        size_bytes=size,
        compressed_size_bytes=download or size,
        latency_ratio=ratio,
        drop=100 * (bench.floats - score.accuracy),
        kept=_kept(outcome.bundle),
    )


def _kept(bundle: Bundle) -> ParityLimits:
    """What the proof measured on samples of its own: what another conversion with this recipe can be held to."""
    checks = bundle.manifest.parity.checks if bundle.manifest.parity else ()

    def least(measure: str) -> float | None:
        return min((check.value for check in checks if check.measure == measure), default=None)

    return ParityLimits(min_cosine=least("min_cosine"), min_top1_agreement=least("top1_agreement"))


def _families(bench: Bench) -> list[Recipe]:
    """The recipes to start from that the target can hold, the most careful first."""
    converter = registry.converter(bench.request.targets[0])
    recipes = [BUILTIN[name] for name in ("int8", "int8-weights", "int8-static", "palette-6")]
    recipes += [_grouped(BUILTIN["int4-weights"], size) for size in GROUP_SIZES]
    recipes += [BUILTIN["palette-4"]]
    limits, calibration = ParityLimits(), bench.request.recipe.calibration
    families = [replace(recipe, parity=limits, calibration=calibration) for recipe in recipes]
    return [recipe for recipe in families if not converter.unsupported(bench.programs, recipe)]


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
    """With the alpha of SmoothQuant whose quantised graph does best in torch."""

    def worth(recipe: Recipe) -> tuple[float, float]:
        progress(f"comparing {recipe.name}", None)
        compressed = compress(bench.programs, recipe, bench.calibration, silent)
        score = bench.task.score(run_programs(compressed.programs, bench.task.samples))
        return score.agreement, score.centred_cosine

    best_in_torch = max((_smoothed(family, alpha) for alpha in ALPHAS), key=worth)
    notes.choose(family.name, best_in_torch)
    return best_in_torch


def _smoothed(recipe: Recipe, alpha: float | None) -> Recipe:
    if alpha is None:
        return recipe
    activations = replace(recipe.activations, smooth_quant=alpha)
    return replace(recipe, name=f"{recipe.name}-smooth-{alpha:g}", activations=activations)


def _grouped(recipe: Recipe, size: int) -> Recipe:
    if size == recipe.weights.group_size:
        return recipe
    return replace(recipe, name=f"{recipe.name}-group-{size}", weights=replace(recipe.weights, group_size=size))


def _latency_ratio(bench: Bench, session: Session) -> float | None:
    """One picture and one text, in turn with the float32 artefact."""
    if session.evidence == "program-semantics":
        return None
    first = {name: rows[:1] for name, rows in bench.task.samples.items()}
    specs = [component.spec for component in bench.baseline.components.values()]
    inputs = {spec.name: inputs_of(spec, first) for spec in specs if is_answerable(spec, first)}
    with registry.runtime(bench.request.targets[0]).open(bench.baseline, threads=1) as other:
        times: dict[int, list[float]] = {0: [], 1: []}
        for _ in range(_ROUNDS):
            for place, runner in enumerate((session, other)):
                began = time.process_time()
                for component, arrays in inputs.items():
                    runner.run(component, arrays)
                times[place].append(time.process_time() - began)
    return statistics.median(times[0]) / statistics.median(times[1])
