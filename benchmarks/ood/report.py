"""The study's page, plot and figures, from the results that are there."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from edgevlm import schema
from edgevlm.benchmarks.measuring import RESULTS
from edgevlm.benchmarks.ood.arms import TEXTS
from edgevlm.benchmarks.ood.page import page
from edgevlm.benchmarks.ood.results import TEXT_TITLES, Results, read
from edgevlm.process.writing import write_atomically

_HERE = Path(__file__).parent
_COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:grey")


@dataclass(frozen=True)
class Places:
    """Where the report's files are written."""

    page: Path
    plot: Path
    figures: Path


IN_CHECKOUT = Places(_HERE / "README.md", _HERE / "accuracy.svg", RESULTS / "ood.json")


def beside(out: Path) -> Places:
    """In the study's own folder."""
    return Places(out / "report" / "README.md", out / "report" / "accuracy.svg", out / "report" / "ood.json")


def write(out: Path, places: Places) -> None:
    """Writes the page, the plot and the figures.

    Args:
        out: The study's folder.
        places: Where to.

    Raises:
        InputError: there are no results yet.
    """
    results = read(out)
    found = {
        "command": "python -m edgevlm.benchmarks.ood --out OUT --keep",
        "machine": results.machine,
        "plan": schema.write(results.plan),
        "teacher_made": results.teacher_made,
        "teacher": {
            text: {column: each[0] for column, each in row.figures.items()} for text, row in results.teacher.items()
        },
        "runs": results.runs,
    }
    for path in (places.page, places.plot, places.figures):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(places.figures, json.dumps(found, indent=1) + "\n")
    draw(results, places.plot)
    write_atomically(places.page, page(results, places.plot.name))
    print(f"written: {places.page}, {places.plot}, {places.figures}")


def draw(results: Results, path: Path) -> None:
    """Zero-shot accuracy on unseen classes: a bar an arm, a dot a seed, and a line where the teacher is."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "ood"  # the same figures make the same file
    figure = Figure(figsize=(8, 0.34 * len(results.arms) + 1.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    rows = list(results.arms.values())
    for text, colour in zip(TEXTS, _COLOURS, strict=True):
        places = [place for place, row in enumerate(rows) if row.text == text]
        values = [[100 * share for share in rows[place].figures["unseen"].values()] for place in places]
        means = [statistics.mean(each) for each in values]
        axes.barh(places, means, 0.7, color=colour, alpha=0.7, label=TEXT_TITLES[text])
        for place, each in zip(places, values, strict=True):
            axes.plot(each, [place] * len(each), "o", color="black", markersize=3)
        if places:
            ceiling = 100 * results.teacher[text].figures["unseen"][0]
            axes.plot([ceiling] * 2, [places[0] - 0.45, places[-1] + 0.45], color="black", linewidth=1.5)
    chance = 100 / (results.plan.classes // 2)
    axes.axvline(chance, color="black", linestyle=":", linewidth=1)
    axes.set_yticks(range(len(rows)), [row.title for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 101)
    axes.set_xlabel(
        "zero-shot accuracy on classes never trained on, %\ndots: seeds; lines: the teacher; dotted: chance"
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
