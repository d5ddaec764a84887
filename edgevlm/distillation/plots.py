"""Draws a run's metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_NOT_LOSSES = ("step", "learning_rate", "pictures_per_second")


def draw_losses(lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Writes a picture of every loss over the steps, each against its own first value, and of the learning rate.

    Args:
        lines: The metrics, oldest first.
        path: A `.png`, `.svg` or `.pdf`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    losses, rate = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    steps = [line["step"] for line in lines]
    for name in (key for key in lines[0] if key not in _NOT_LOSSES):
        first, last = lines[0][name], lines[-1][name]
        label = f"{name}: {first:.3g} to {last:.3g}"
        losses.plot(steps, [line[name] / (first or 1.0) for line in lines], label=label, lw=2 if name == "loss" else 1)
    losses.set_ylabel("share of the first value")
    losses.set_ylim(bottom=0)
    losses.legend(frameon=False)
    rate.plot(steps, [line["learning_rate"] for line in lines], color="grey")
    rate.set_ylabel("learning rate")
    rate.set_xlabel("step")
    for axes in (losses, rate):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120, metadata={"Software": None} if path.suffix == ".png" else None)
