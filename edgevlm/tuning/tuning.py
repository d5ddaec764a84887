"""`edgevlm tune`: measure each layer, search, and write down what was found.

OUT/recipe.yaml        the recipe to convert with
OUT/tune.json          every measurement; a search that was stopped goes on from it
OUT/trade-off.svg      size against accuracy, and latency, of all that was tried
OUT/sensitivity.svg    what each layer costs
OUT/bundles/           the artefacts that were measured
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.recipe import BUILTIN, ParityLimits, Recipe
from edgevlm.compression.calibration import CalibrationData, calibration_inputs
from edgevlm.conversion import cache, pipeline
from edgevlm.data.questions import Questions
from edgevlm.errors import CheckFailed, InputError, OutputError, UnsupportedError
from edgevlm.models import catalogue
from edgevlm.models.model import Model
from edgevlm.models.talker import Talker
from edgevlm.process import scratch
from edgevlm.process.locking import locked
from edgevlm.process.progress import Progress, silent
from edgevlm.process.writing import GITIGNORE, made, output_errors
from edgevlm.targets import registry
from edgevlm.tuning import plots
from edgevlm.tuning.dialogues import DialogueBench, DialogueTask
from edgevlm.tuning.notes import STATE, Notes
from edgevlm.tuning.recipe_file import next_command, write_recipe
from edgevlm.tuning.request import TuneRequest
from edgevlm.tuning.search import Bench, best, search, try_out
from edgevlm.tuning.sensitivity import LayerCost
from edgevlm.tuning.task import Task
from edgevlm.tuning.trial import Trial
from edgevlm.tuning.workbench import Workbench

_LOCK = ".tune.lock"
# Between two pictures of a search that goes on: one takes longer than to read a trial that was noted before.
_DRAW_SECONDS = 5.0


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
        words: How many texts there were to choose from; none where the model says its own.
        counts: What accuracy counts, such as `named right`.
    """

    best: Trial
    trials: tuple[Trial, ...]
    costs: Mapping[str, tuple[LayerCost, ...]]
    accuracy: float
    recipe_file: Path
    next_command: str
    pictures: int
    words: int
    counts: str


def tune(request: TuneRequest, progress: Progress = silent) -> Tuned:
    """Searches for the smallest or fastest artefact within the allowed drop. Stopped, the same call goes on.

    Raises:
        EdgeVLMError: what is wrong with the request, before the long work starts.
        CheckFailed: no recipe is within the allowed drop; what was tried is kept.
    """
    if not 0 <= request.max_drop <= 100:
        raise InputError(f"--max-drop: expected points from 0 to 100, got {request.max_drop}")
    _ = request.opened
    with _opened(request.out):
        progress("loading the model", None)
        model = catalogue.load_any(
            request.model, context_length=request.context_length, picture_size=request.picture_size
        )
        if registry.converter(request.target).unsupported(model.programs, BUILTIN["int8"]):
            raise UnsupportedError(f"{request.target} cannot hold int8, so there is nothing to search")
        notes = Notes.open(request.out, _identity(request))
        bench = _talking(request, model, progress) if isinstance(model, Talker) else _naming(request, model, progress)
        return find(request, bench, notes, progress)


def _naming(request: TuneRequest, model: Model, progress: Progress) -> Bench:
    """The bench of a dual encoder, which names pictures."""
    data, calibration = request.opened
    assert isinstance(calibration, CalibrationData)
    assert not isinstance(data, Questions)
    calibration.check(model.programs)
    task = Task(model, data, pictures=request.count, progress=progress)
    accuracy = task.set_reference(model.original.answer(task.samples)).accuracy
    inputs = calibration_inputs(model.programs, calibration.rows(model.programs, model, progress))
    conversion, baseline = _baseline(request, progress)
    return Workbench(conversion, task, accuracy, model.programs, inputs, baseline, progress)


def _talking(request: TuneRequest, model: Talker, progress: Progress) -> Bench:
    """The bench of a model that talks, which answers questions."""
    data, _ = request.opened
    assert isinstance(data, Questions)
    task = DialogueTask(model, data, questions=request.count, progress=progress)
    conversion, baseline = _baseline(request, progress)
    return DialogueBench(conversion, model, task, baseline, progress)


def _baseline(request: TuneRequest, progress: Progress) -> tuple[pipeline.Request, Bundle]:
    """How recipes are converted, and what comes of float32."""
    conversion = pipeline.Request(
        model=request.model,
        targets=(request.target,),
        recipe=_plain(request),
        out=request.out / "bundles",
        force=True,
        calibration=None if request.talks else request.calibration_source,
        context_length=request.context_length,
        picture_size=request.picture_size,
    )
    (outcome,) = pipeline.convert(conversion, progress)
    if outcome.bundle is None:
        raise outcome.error or CheckFailed(f"{request.target}: the float32 model was not converted")
    return conversion, outcome.bundle


def find(request: TuneRequest, bench: Bench, notes: Notes, progress: Progress = silent) -> Tuned:
    """The search itself, from what has been noted on, and its files.

    Args:
        request: What to search for; its folder is there.
        bench: What says of a recipe what it comes to.
        notes: What was measured before the search was stopped.
        progress: Told what is being tried.

    Raises:
        CheckFailed: no recipe is within the allowed drop; what was tried is kept.
    """
    plain = _plain(request)
    found = [try_out(bench, notes, plain, progress)]
    costs = partial(_costs, bench, notes)
    picture, drawn = request.out / "trade-off.svg", time.monotonic()
    for trial in search(bench, notes, plain, max_drop=request.max_drop, costs=costs, progress=progress):
        found.append(trial)
        if time.monotonic() - drawn > _DRAW_SECONDS:
            plots.draw_trade_off(found, bench.accuracy, request.max_drop, picture)
            drawn = time.monotonic()
    plots.draw_trade_off(found, bench.accuracy, request.max_drop, picture)
    chosen = best(found[1:], max_drop=request.max_drop, objective=request.objective)
    costs(BUILTIN["int8-static" if bench.holds(BUILTIN["int8-static"]) else "int8"])
    plots.draw_costs(notes.costs, bench.measures, request.out / "sensitivity.svg")
    if chosen is None:
        raise _nothing(request, found[1:])
    path = request.out / "recipe.yaml"
    write_recipe(path, chosen, request, bench)
    return Tuned(
        best=chosen,
        trials=tuple(found),
        costs={name: tuple(_worst_first(each)) for name, each in notes.costs.items()},
        accuracy=bench.accuracy,
        recipe_file=path,
        next_command=next_command(path, chosen, request),
        pictures=bench.pictures,
        words=bench.words,
        counts=bench.counts,
    )


def _plain(request: TuneRequest) -> Recipe:
    return replace(BUILTIN["fp32"], parity=ParityLimits(), calibration=request.calibration_rules)


def _costs(bench: Bench, notes: Notes, recipe: Recipe) -> list[LayerCost]:
    """What each layer costs under a recipe, the worst first; measured once."""
    plain = replace(recipe, weights=replace(recipe.weights, float_layers=()))
    if not plain.quantises:  # palettes: coremltools decides on them as it converts, so int8's order stands in
        plain = BUILTIN["int8"]
    done = notes.costs.get(plain.name, ())
    for cost in bench.measure_layers(plain, skip=frozenset(each.layer for each in done)):
        notes.add_cost(plain.name, cost)
    return _worst_first(notes.costs.get(plain.name, ()))


def _worst_first(costs: Sequence[LayerCost]) -> list[LayerCost]:
    return sorted(costs, key=lambda cost: cost.rank, reverse=True)


def _nothing(request: TuneRequest, tried: Sequence[Trial]) -> CheckFailed:
    """What is wrong where no recipe is within the allowed drop."""
    converted = [trial for trial in tried if trial.error is None]
    if not converted:
        return CheckFailed(
            f"{request.target}: no recipe was converted; {tried[0].recipe.name}: {tried[0].error}",
            hint=f"edgevlm convert --target {request.target} --recipe {tried[0].recipe.name} tries that one alone",
        )
    least = min(converted, key=lambda trial: trial.drop)
    return CheckFailed(
        f"no recipe loses {request.max_drop:g} points or less: {least.recipe.name} loses {least.drop:.2f}",
        hint="allow more with --max-drop, or train around it with edgevlm distill --compress; what was tried "
        f"lies in {request.out}",
    )


def _identity(request: TuneRequest) -> dict[str, str]:
    """What measurements of two searches must have in common."""
    data, calibration = request.opened
    return {
        "model": str(catalogue.fingerprint(request.model)),
        "target": request.target,
        "data": data.fingerprint,
        "pictures": str(request.count),
        "calibration": "" if calibration is None else calibration.fingerprint,
        "context": str(request.context_length),
        "picture size": str(request.picture_size),
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
