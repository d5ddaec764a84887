"""Writes the found recipe as a file that people read and edit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .trial import Trial

if TYPE_CHECKING:
    from .tuning import TuneRequest

_MARGIN = 0.02


def write_recipe(path: Path, trial: Trial, accuracy: float, request: TuneRequest) -> None:
    """Only what differs from a recipe's defaults, with what was measured as a comment."""
    recipe, score = trial.recipe, trial.score
    latency = (
        "" if trial.latency_ratio is None else f", {trial.latency_ratio:.2f}x its time on the machine of the search"
    )
    lines = [
        f"# {request.target}, {request.pictures} pictures of {request.data}: accuracy {100 * score.accuracy:.1f} %, "
        f"float32 {100 * accuracy:.1f} %;",
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
    lines += ["parity:", f"  min_top1_agreement: {max(0.0, score.agreement - _MARGIN):.3f}", ""]
    path.write_text("\n".join(lines), encoding="utf-8")
