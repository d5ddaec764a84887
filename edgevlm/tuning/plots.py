"""Pictures of a search: what was tried, and what each layer costs."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgevlm.tuning.sensitivity import LayerCost
from edgevlm.tuning.trial import Trial

_LAYERS_SHOWN = 30


def draw_trade_off(trials: Sequence[Trial], accuracy: float, max_drop: float, path: Path) -> None:
    """Size against accuracy; the fill says how long it takes beside float32, where that was measured.

    Args:
        trials: All that were converted, float32 first.
        accuracy: Of the float model, 0..1.
        max_drop: Points that may be lost: the dashed line.
        path: A `.svg` or `.png`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [trial for trial in trials if trial.error is None]
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    sizes = [trial.size_bytes / 1e6 for trial in shown]
    points = [100 * trial.score.accuracy for trial in shown]
    ratios = [trial.latency_ratio for trial in shown if trial.latency_ratio is not None]
    timed = len(ratios) == len(shown)
    drawn = axes.scatter(sizes, points, s=60, c=ratios if timed else None, cmap="viridis" if timed else None, zorder=3)
    for trial, x, y in zip(shown, sizes, points, strict=True):
        axes.annotate(trial.recipe.name, (x, y), textcoords="offset points", xytext=(6, 4), fontsize=8)
    axes.axhline(100 * accuracy - max_drop, color="grey", ls="--", lw=1)
    axes.set_xlabel("size of the artefact, MB")
    axes.set_ylabel("accuracy, per cent")
    axes.set_xlim(left=0)
    if timed:
        figure.colorbar(drawn, label="time beside float32's, on this machine")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def draw_costs(costs: Mapping[str, Sequence[LayerCost]], measures: str, path: Path) -> None:
    """What each layer costs when it alone is quantised, the worst on top, a column a recipe.

    Args:
        costs: Of each layer, by the recipe's name.
        measures: What the distance from the float model is.
        path: A `.svg` or `.png`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * max(1, len(costs)), 6), layout="constrained")
    FigureCanvasAgg(figure)
    columns = figure.subplots(1, max(1, len(costs)), squeeze=False)[0]
    for axes, (recipe, found) in zip(columns, costs.items(), strict=False):
        worst = sorted(found, key=lambda cost: cost.rank, reverse=True)[:_LAYERS_SHOWN][::-1]
        lost = [100 * (1 - cost.score.agreement) for cost in worst]
        distance = [100 * cost.score.distance for cost in worst]
        places = range(len(worst))
        axes.barh(places, distance, color="lightgrey", label="distance from the float model, x 100")
        axes.barh(places, lost, height=0.4, color="tab:red", label="answers that change, per cent")
        axes.set_yticks(list(places), [cost.layer for cost in worst], fontsize=7)
        axes.set_title(recipe)
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(textwrap.fill(measures, 90), fontsize=7)
    figure.savefig(path)
