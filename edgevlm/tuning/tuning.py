"""`edgevlm tune`: measure each layer, search, and write down what was found.

OUT/recipe.yaml        the recipe to convert with
OUT/tune.json          every measurement; a search that was stopped goes on from it
OUT/trade-off.svg      size against accuracy, and latency, of all that was tried
OUT/sensitivity.svg    what each layer costs
OUT/bundles/           the artefacts that were measured
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from edgevlm.bundle.recipe import BUILTIN, ParityLimits, Recipe
from edgevlm.compression.calibration import CalibrationData, calibration_inputs
from edgevlm.conversion import cache, pipeline
from edgevlm.errors import CheckFailed, InputError, OutputError, UnsupportedError
from edgevlm.graphs.program import Programs
from edgevlm.inputs.rows import PIXELS
from edgevlm.models import catalogue
from edgevlm.process import scratch
from edgevlm.process.locking import locked
from edgevlm.process.progress import Progress, silent
from edgevlm.process.writing import GITIGNORE, made, output_errors
from edgevlm.targets import registry
from edgevlm.tuning import plots
from edgevlm.tuning.notes import STATE, Notes
from edgevlm.tuning.recipe_file import next_command, write_recipe
from edgevlm.tuning.request import TuneRequest
from edgevlm.tuning.search import Bench, best, measure, search
from edgevlm.tuning.sensitivity import LayerCost, measure_layers
from edgevlm.tuning.task import Task
from edgevlm.tuning.trial import Trial

_LOCK = ".tune.lock"
# A layer's cost is measured on fewer pictures than a recipe's: there are many more layers than recipes.
_LAYER_PICTURES = 64
_LAYER_CALIBRATION = 16


@dataclass(frozen=True)
class Tuned:
    """What was found.

    Attributes:
        best: The chosen recipe with its figures.
        trials: All that was tried, the float32 artefact first.
        costs: Of each layer, the worst first, under the recipe whose name is the key.
        accuracy: Of the float model, 0..1.
        recipe_file: Where the recipe lies.
        next_command: What converts with it.
        pictures: How many were asked about.
        words: How many texts there were to choose from.
    """

    best: Trial
    trials: tuple[Trial, ...]
    costs: Mapping[str, tuple[LayerCost, ...]]
    accuracy: float
    recipe_file: Path
    next_command: str
    pictures: int
    words: int


def tune(request: TuneRequest, progress: Progress = silent) -> Tuned:
    """Searches for the smallest or fastest artefact within the allowed drop. Stopped, the same call goes on.

    Raises:
        EdgeVLMError: what is wrong with the request, before the long work starts.
        CheckFailed: no recipe is within the allowed drop; what was tried is kept.
    """
    if not 0 <= request.max_drop <= 100:
        raise InputError(f"--max-drop: expected points from 0 to 100, got {request.max_drop}")
    converter = registry.converter(request.target)
    data, calibration = request.opened
    with _opened(request.out):
        progress("loading the model", None)
        model = catalogue.load(request.model)
        if converter.unsupported(model.programs, BUILTIN["int8"]):
            raise UnsupportedError(f"{request.target} cannot hold int8, so there is nothing to search")
        calibration.check(model.programs)
        notes = Notes.open(request.out, _identity(request, data.fingerprint, calibration))
        task = Task(model, data, pictures=request.pictures, progress=progress)
        accuracy = task.set_reference(model.original.answer(task.samples)).accuracy
        inputs = calibration_inputs(model.programs, calibration.rows(model.programs, model, progress))
        finder = _Finder(request, notes, task, accuracy, model.programs, inputs, progress)
        return finder.run()


class _Finder:
    """One search: its measurements so far and how the next are made."""

    def __init__(
        self,
        request: TuneRequest,
        notes: Notes,
        task: Task,
        accuracy: float,
        programs: Programs,
        inputs: Mapping[str, list[torch.Tensor]],
        progress: Progress,
    ) -> None:
        self._request, self._notes, self._task, self._accuracy = request, notes, task, accuracy
        self._programs, self._inputs, self._progress = programs, inputs, progress
        plain = replace(BUILTIN["fp32"], parity=ParityLimits(), calibration=request.calibration_rules)
        self._conversion = pipeline.Request(
            model=request.model,
            targets=(request.target,),
            recipe=plain,
            out=request.out / "bundles",
            force=True,
            calibration=request.calibration_source,
        )

    def run(self) -> Tuned:
        bench = self._bench()
        plain = self._notes.find(self._conversion.recipe)
        if plain is None:
            plain = measure(bench, self._conversion.recipe, self._progress)
            self._notes.add_trial(plain)
        found = [plain]
        for trial in search(bench, self._notes, max_drop=self._request.max_drop, costs=self._costs):
            found.append(trial)
            plots.draw_trade_off(found, self._accuracy, self._request.max_drop, self._request.out / "trade-off.svg")
        chosen = best(found[1:], max_drop=self._request.max_drop, objective=self._request.objective)
        self._costs(BUILTIN["int8-static"])
        plots.draw_costs(self._notes.costs, self._request.out / "sensitivity.svg")
        if chosen is None:
            least = min((trial for trial in found[1:] if trial.error is None), key=lambda trial: trial.drop)
            raise CheckFailed(
                f"no recipe loses {self._request.max_drop:g} points or less: {least.recipe.name} loses "
                f"{least.drop:.2f}",
                hint="allow more with --max-drop, or train around it with edgevlm distill --compress; what was tried "
                f"lies in {self._request.out}",
            )
        path = self._request.out / "recipe.yaml"
        pictures_asked = len(self._task.samples[PIXELS])
        write_recipe(path, chosen, self._request, accuracy=self._accuracy, pictures=pictures_asked)
        return Tuned(
            best=chosen,
            trials=tuple(found),
            costs=self._notes.costs,
            accuracy=self._accuracy,
            recipe_file=path,
            next_command=next_command(path, chosen, self._request),
            pictures=pictures_asked,
            words=self._task.words,
        )

    def _bench(self) -> Bench:
        (outcome,) = pipeline.convert(self._conversion, self._progress)
        if outcome.bundle is None:
            raise outcome.error or CheckFailed(f"{self._request.target}: the float32 model was not converted")
        return Bench(
            request=self._conversion,
            task=self._task,
            floats=self._accuracy,
            programs=self._programs,
            calibration=self._inputs,
            baseline=outcome.bundle,
            progress=self._progress,
        )

    def _costs(self, recipe: Recipe) -> list[LayerCost]:
        """What each layer costs under a recipe, the worst first; measured once."""
        plain = replace(recipe, weights=replace(recipe.weights, float_layers=()))
        if not plain.quantises:  # palettes: coremltools decides on them as it converts, so int8's order stands in
            plain = BUILTIN["int8"]
        done = self._notes.costs.get(plain.name, ())
        fewer = {name: tensors[:_LAYER_CALIBRATION] for name, tensors in self._inputs.items()}
        for cost in measure_layers(
            self._programs,
            plain,
            fewer,
            self._task,
            pictures=_LAYER_PICTURES,
            skip=frozenset(each.layer for each in done),
            progress=self._progress,
        ):
            self._notes.add_cost(plain.name, cost)
        return sorted(self._notes.costs.get(plain.name, ()), key=lambda cost: cost.rank, reverse=True)


def _identity(request: TuneRequest, data: str, calibration: CalibrationData) -> dict[str, str]:
    """What measurements of two searches must have in common."""
    return {
        "model": str(catalogue.fingerprint(request.model)),
        "target": request.target,
        "data": data,
        "pictures": str(request.pictures),
        "calibration": calibration.fingerprint,
        "tools": json.dumps(cache.tool_versions(), sort_keys=True),
    }


@contextmanager
def _opened(out: Path) -> Iterator[None]:
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: expected a folder, found a file", hint="choose another --out")
    scratch.sweep(out)
    strangers = [each.name for each in out.iterdir() if each.name not in (_LOCK, GITIGNORE)] if out.exists() else []
    if strangers and not (out / STATE).is_file() and strangers != ["bundles"]:
        raise OutputError(f"{out}: holds {strangers[0]}, so it is no search's folder", hint="choose a new --out")
    with ExitStack() as held:
        with output_errors(out):
            held.enter_context(made(out, ignored=True))
            held.enter_context(locked(out / _LOCK, f"{out}: another search is using this folder"))
        yield
