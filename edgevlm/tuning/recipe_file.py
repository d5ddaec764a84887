"""Writes the found recipe as a file that people read and edit."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from edgevlm import schema
from edgevlm.process.writing import write_atomically
from edgevlm.tuning.trial import Trial

if TYPE_CHECKING:
    from edgevlm.tuning.request import TuneRequest

_MARGIN = 0.02


def write_recipe(path: Path, trial: Trial, request: TuneRequest, *, accuracy: float, pictures: int) -> None:
    """Only what differs from a recipe's defaults, with what was measured as a comment."""
    recipe, score = trial.recipe, trial.score
    latency = (
        "" if trial.latency_ratio is None else f", {trial.latency_ratio:.2f}x its time on the machine of the search"
    )
    lines = [
        f"# {next_command(path, trial, request)}",
        f"# {request.target}, {pictures} pictures of {request.data}: {100 * score.accuracy:.1f} % named right, "
        f"in float32 {100 * accuracy:.1f} %;",
        f"# {score.agreement:.1%} of the answers are the float model's; {trial.size_bytes / 1e6:.2f} MB{latency}.",
        "name: tuned",
        f"summary: {recipe.name}, found for {request.target}",
        f"precision: {recipe.precision}",
        "weights:",
        f"  dtype: {recipe.weights.dtype}",
    ]
    if recipe.weights.dtype == "int4":
        lines += [f"  group_size: {recipe.weights.group_size}", f"  int4_share: {recipe.weights.int4_share:g}"]
    if recipe.weights.float_layers:
        lines += ["  float_layers:  # those that lost most, the worst first"]
        lines += [f'    - "{layer}"' for layer in recipe.weights.float_layers]
    activations = recipe.activations
    if activations.ranges != "float":
        lines += ["activations:", f"  ranges: {activations.ranges}"]
    if activations.smooth_quant is not None:
        lines += [f"  smooth_quant: {activations.smooth_quant:g}"]
    if activations.bias_correction:
        lines += ["  bias_correction: true"]
    calibration = recipe.calibration
    lines += ["calibration:", f"  samples: {calibration.samples}", f"  seed: {calibration.seed}"]
    limits = {name: value for name, value in schema.write(trial.kept).items() if value is not None}
    if limits:
        lines += [f"parity:  # what the search measured, less {_MARGIN:g}"]
        lines += [f"  {name}: {max(0.0, value - _MARGIN):.3f}" for name, value in limits.items()]
    write_atomically(path, "\n".join([*lines, ""]))


def next_command(path: Path, trial: Trial, request: TuneRequest) -> str:
    """What converts with the recipe."""
    words = ["edgevlm", "convert", str(request.model), "--target", request.target, "--recipe", str(path)]
    if trial.recipe.needs_calibration:
        source = request.calibration
        words += ["--calibration", source.data if source else request.data]
        words += ["--calibration-texts", str(source.texts)] if source and source.texts else []
        images = source.images if source else request.images
        words += ["--images", str(images)] if images else []
    return shlex.join(words)
