"""Writes the found recipe as a file that people read and edit."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgevlm import schema
from edgevlm.bundle.recipe import ParityLimits
from edgevlm.process.writing import write_atomically
from edgevlm.tuning.trial import Trial

if TYPE_CHECKING:
    from edgevlm.tuning.request import TuneRequest
    from edgevlm.tuning.search import Bench

_MARGIN = 0.02


def write_recipe(path: Path, trial: Trial, request: TuneRequest, bench: Bench) -> None:
    """Only what differs from a recipe's defaults, with what was measured as a comment."""
    recipe, score = trial.recipe, trial.score
    latency = (
        "" if trial.latency_ratio is None else f", {trial.latency_ratio:.2f}x its time on the machine of the search"
    )
    head = [
        f"# {next_command(path, trial, request)}",
        f"# {request.target}, {bench.pictures} {'pictures' if bench.words else 'questions'} of {request.data}: "
        f"{100 * score.accuracy:.1f} % {bench.counts}, in float32 {100 * bench.accuracy:.1f} %;",
        f"# {score.agreement:.1%} of the {'answers' if bench.words else 'tokens'} are the float model's; "
        f"{trial.size_bytes / 1e6:.2f} MB{latency}.",
    ]
    kept = {name: value for name, value in schema.write(trial.kept).items() if value is not None}
    tuned = replace(
        recipe,
        name="tuned",
        summary=f"{recipe.name}, found for {request.target}",
        parity=ParityLimits(**{name: round(value - _MARGIN, 3) for name, value in kept.items() if value > _MARGIN}),
    )
    comments = {
        "weights.float_layers": "Those that lost most, the worst first.",
        "parity": f"What the search measured, less {_MARGIN:g}.",
    }
    text = schema.to_yaml(tuned, comments, changed_only=True)
    write_atomically(path, "\n".join([*head, "", text]))


def next_command(path: Path, trial: Trial, request: TuneRequest) -> str:
    """What converts with the recipe."""
    words = ["edgevlm", "convert", str(request.model), "--target", request.target, "--recipe", str(path)]
    if trial.recipe.needs_calibration:
        source = request.calibration
        words += ["--calibration", source.data if source else request.data]
        words += ["--calibration-texts", str(source.texts)] if source and source.texts else []
        images = source.images if source else request.images
        words += ["--images", str(images)] if images else []
    words += ["--context", str(request.context_length)] if request.context_length else []
    words += ["--picture-size", "{}x{}".format(*request.picture_size)] if request.picture_size else []
    return shlex.join(words)
