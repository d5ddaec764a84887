"""The bench of a real search: every recipe is converted and measured as it would ship.

That is its file's size, its answers on the target's runtime, and its time beside the float32 artefact's in the same
process. Layers, and alphas of SmoothQuant, are compared in torch, where a try costs seconds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.recipe import ParityLimits, Recipe
from edgevlm.compression.compression import compress
from edgevlm.conversion import pipeline
from edgevlm.graphs.program import Programs
from edgevlm.inference.embeddings import CENTRED_COSINE
from edgevlm.inputs.rows import PIXELS, inputs_of, is_answerable
from edgevlm.parity.comparison import ask
from edgevlm.process.progress import Progress, silent
from edgevlm.targets import registry
from edgevlm.targets.runtime import Session
from edgevlm.tuning.score import Score
from edgevlm.tuning.sensitivity import LayerCost, measure_layers, run_programs
from edgevlm.tuning.task import Task
from edgevlm.tuning.trial import Trial

ROUNDS = 15
"""That a time is the median of."""
# A layer's cost is measured on fewer pictures than a recipe's: there are many more layers than recipes.
_LAYER_PICTURES = 64
_LAYER_CALIBRATION = 16


class Workbench:
    """What recipes are converted and measured with; see `edgevlm.tuning.search.Bench`.

    Args:
        request: What is converted, for one target, with the float32 recipe.
        task: With the float model's answers.
        accuracy: Of the float model, 0..1.
        programs: In float32.
        calibration: Inputs of each program.
        baseline: What `request` came to.
        progress: Told of each layer.
    """

    def __init__(
        self,
        request: pipeline.Request,
        task: Task,
        accuracy: float,
        programs: Programs,
        calibration: Mapping[str, list[torch.Tensor]],
        baseline: Bundle,
        progress: Progress = silent,
    ) -> None:
        (self._target,) = request.targets
        self._request, self._task, self._baseline, self._progress = request, task, baseline, progress
        self._programs, self._calibration = programs, calibration
        self.accuracy, self.pictures, self.words = accuracy, len(task.samples[PIXELS]), task.words
        self.counts, self.measures = "named right", f"distance: 1 - centred cosine. {CENTRED_COSINE}"

    def holds(self, recipe: Recipe) -> bool:
        return not registry.converter(self._target).unsupported(self._programs, recipe)

    def nearest(self, rivals: Sequence[Recipe], progress: Progress) -> Recipe:
        """The one whose quantised graph does best in torch."""

        def worth(recipe: Recipe) -> tuple[float, float]:
            progress(f"comparing {recipe.name}", None)
            compressed = compress(self._programs, recipe, self._calibration, silent)
            score = self._task.score(run_programs(compressed.programs, self._task.samples))
            return score.agreement, -score.distance

        return max(rivals, key=worth)

    def measure(self, recipe: Recipe, progress: Progress) -> Trial:
        """Converts with a recipe, asks the artefact, and times it beside the float32 one."""
        bundle = self._baseline
        if recipe != self._request.recipe:
            (outcome,) = pipeline.convert(replace(self._request, recipe=recipe, force=True), progress)
            if outcome.bundle is None:
                return failed(recipe, outcome.error.message if outcome.error else outcome.status)
            bundle = outcome.bundle
        with registry.runtime(self._target).open(bundle, threads=1) as session:
            specs = [component.spec for component in bundle.components.values()]
            answers = ask(session, specs, self._task.samples, lambda share: progress("asking the artefact", share))
            wrong = [
                name for name, rows in answers.items() if not all(np.isfinite(each).all() for each in rows.values())
            ]
            if wrong:  # which no score could be made of that is written down
                return failed(recipe, f"answers of {', '.join(wrong)} are not finite")
            ratio = self._latency_ratio(session)
        score = self._task.score(answers)
        size, download = bundle.artefact_bytes, bundle.manifest.compressed_size_bytes
        return Trial(
            recipe=recipe,
            score=score,
            size_bytes=size,
            compressed_size_bytes=download or size,
            latency_ratio=ratio,
            drop=100 * (self.accuracy - score.accuracy),
            kept=kept(bundle),
        )

    def measure_layers(self, recipe: Recipe, *, skip: frozenset[str]) -> Iterator[LayerCost]:
        return measure_layers(
            self._programs,
            recipe,
            {name: tensors[:_LAYER_CALIBRATION] for name, tensors in self._calibration.items()},
            self._task,
            pictures=_LAYER_PICTURES,
            skip=skip,
            progress=self._progress,
        )

    def _latency_ratio(self, session: Session) -> float | None:
        """One picture and one text, in turn with the float32 artefact."""
        if session.evidence == "program-semantics":
            return None
        first = {name: rows[:1] for name, rows in self._task.samples.items()}
        specs = [component.spec for component in self._baseline.components.values()]
        inputs = {spec.name: inputs_of(spec, first) for spec in specs if is_answerable(spec, first)}
        with registry.runtime(self._target).open(self._baseline, threads=1) as other:

            def run(each: Session) -> None:
                for component, arrays in inputs.items():
                    each.run(component, arrays)

            return latency_ratio(partial(run, session), partial(run, other), ROUNDS)


def latency_ratio(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> float:
    """CPU time of one call beside another's, in turn, by the median of so many rounds."""
    times: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(rounds):
        for place, call in enumerate((ours, theirs)):
            began = time.process_time()
            call()
            times[place].append(time.process_time() - began)
    return statistics.median(times[0]) / statistics.median(times[1])


def failed(recipe: Recipe, error: str) -> Trial:
    """That of a recipe without an artefact that answers."""
    return Trial(recipe, Score(0, 0, 0), 0, 0, None, 100.0, error=error)


def kept(bundle: Bundle) -> ParityLimits:
    """What the proof measured on samples of its own: what another conversion with this recipe can be held to."""
    checks = bundle.manifest.parity.checks if bundle.manifest.parity else ()

    def least(measure: str) -> float | None:
        return min((check.value for check in checks if check.measure == measure), default=None)

    return ParityLimits(min_cosine=least("min_cosine"), min_top1_agreement=least("top1_agreement"))
