"""The comparison's page, plot and figures, from the results that are there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgevlm.benchmarks.compression.page import page
from edgevlm.benchmarks.compression.results import Figures, Results, Row
from edgevlm.benchmarks.measuring import RESULTS
from edgevlm.errors import InputError
from edgevlm.process.writing import write_atomically

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Places:
    """Where the report's files are written; the results are read from there, too."""

    page: Path
    plot: Path
    figures: Path


IN_CHECKOUT = Places(_HERE / "README.md", _HERE / "size-and-speed.svg", RESULTS / "compression.json")


def beside(work: Path) -> Places:
    """In the work folder."""
    return Places(
        *(work / "report" / place.name for place in (IN_CHECKOUT.page, IN_CHECKOUT.plot, IN_CHECKOUT.figures))
    )


def write(results: Results, places: Places) -> None:
    """Writes the page and the plot.

    Raises:
        InputError: there are no results yet.
    """
    if not results.rows:
        raise InputError(f"{places.figures}: no results yet", hint="run it without --report-only")
    draw(results, places.plot)
    plot, figures = (os.path.relpath(each, places.page.parent) for each in (places.plot, places.figures))
    write_atomically(places.page, page(results, plot, figures))
    print(f"written: {places.page}, {places.plot}, {places.figures}")


def tell(row: Row) -> str:
    """A row in a line."""
    figures = row.figures
    if figures is None:
        return f"refused: {row.refused}"
    parts = [
        f"{figures.size_bytes / 1e6:.1f} MB",
        *(f"{name} CPU {s.cpu_ratio:.2f}x" for name, s in figures.speed.items()),
    ]
    if figures.memory:
        parts.append(f"{figures.memory.peak_mb:.0f} MB resident beyond imports")
    return ", ".join((*parts, *figures.beyond_limits))


def draw(results: Results, path: Path) -> None:
    """Size against CPU time of the image encoder, both as ratios to fp32: a panel a model, a colour a target."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "compression"  # the same figures make the same file
    models = [model for model in dict.fromkeys(row.model for row in results.rows) if _points(results, model)]
    figure = Figure(figsize=(4.2 * max(len(models), 1), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, model in zip(figure.subplots(1, max(len(models), 1), squeeze=False)[0], models, strict=False):
        points = _points(results, model)
        for target, marker in (("tflite", "o"), ("executorch", "s")):
            own = [point for point in points if point.target == target]
            axes.plot([p.size for p in own], [p.cpu for p in own], marker, linestyle="", label=target, alpha=0.7)
        for point in points:
            axes.annotate(point.recipe, (point.size, point.cpu), (4, 4), textcoords="offset points", fontsize=7)
        axes.set_title(model, fontsize=10)
        axes.set_xlabel("size of the artefact / fp32's")
        axes.set_ylabel("CPU time of encode_image / fp32's")
        axes.set_xlim(0, 1.1)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


@dataclass(frozen=True)
class _Point:
    target: str
    recipe: str
    size: float
    cpu: float


def _points(results: Results, model: str) -> Sequence[_Point]:
    found = []
    for row in results.rows:
        fp32: Figures | None = results.find(model, row.target, "fp32")
        if row.model == model and row.figures and fp32 and "encode_image" in row.figures.speed:
            size = row.figures.size_bytes / fp32.size_bytes
            found.append(_Point(row.target, row.recipe, size, row.figures.speed["encode_image"].cpu_ratio))
    return found
