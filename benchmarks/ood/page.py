"""The study's page in words; every figure in it, and every verdict, comes from the results."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from edgevlm.benchmarks.measuring import RESULTS
from edgevlm.benchmarks.ood.arms import ARMS, TEXTS, Text
from edgevlm.benchmarks.ood.results import CLAIMS, COLUMNS, TEXT_TITLES, Results, say_mean, verdict
from edgevlm.process.pages import fill


def page(results: Results, plot: str) -> str:
    """The page, in Markdown.

    Args:
        results: All that is there; what is missing is said.
        plot: The picture's place, seen from the page.
    """
    plan, seeds = results.plan, results.seeds
    half = plan.classes // 2
    best = min(10, half)
    teacher = results.teacher_made
    minutes = [run["cpu_seconds"] / 60 for run in results.runs if run.get("resumed_at") == 0]
    return fill(
        RESULTS.parent,
        "ood/page.md.jinja",
        plot=plot,
        results=results,
        half=half,
        chance=f"{100 / half:.0f}",
        pictures=f"{plan.teacher.pictures:,}",
        told_by_name=f"{plan.teacher.named * plan.classes:,}",
        learning_rate=f"{plan.schedule.learning_rate:g}",
        spread=f"mean ± standard deviation over the seeds {', '.join(map(str, seeds))}"
        if len(seeds) > 1
        else "one seed",
        pairs=best * (best - 1) // 2,
        missing=list(_missing(results)),
        headings=("losses", *COLUMNS.values()),
        table={TEXT_TITLES[text]: list(_lines(results, text)) for text in TEXTS},
        odds=2 ** len(seeds),
        tested=len(CLAIMS),
        accidents=f"{len(CLAIMS) * 2 ** (1 - len(seeds)):.1f}",
        claims=list(_claims(results)),
        teacher_minutes=f"{teacher['cpu_seconds'] / 60:.0f}" if teacher.get("resumed_at") == 0 else "",
        minutes=f"{statistics.median(minutes):.1f}" if minutes else "",
        hours=f"{len(results.runs) * statistics.median(minutes) / 60:.1f}" if minutes else "",
        arms=ARMS,
    )


def _missing(results: Results) -> Iterator[str]:
    for name in ARMS:
        for seed in results.seeds:
            if not any(run["arm"] == name and run["seed"] == seed for run in results.runs):
                yield f"{name} {seed}"


def _lines(results: Results, text: Text) -> Iterator[list[str]]:
    for row in (*(row for row in results.arms.values() if row.text == text), results.teacher[text]):
        figures = {column: list(row.figures.get(column, {}).values()) for column in COLUMNS}
        factors = {column: 1 if column == "inversions" else 100 for column in COLUMNS}
        yield [row.title, *(say_mean(values, factors[column]) if values else "" for column, values in figures.items())]


def _claims(results: Results) -> Iterator[dict[str, object]]:
    for claim in CLAIMS:
        if found := claim.test(results):
            yield {
                "says": claim.says,
                "difference": say_mean(found, signed=True),
                "agreeing": sum(difference > 0 for difference in found),
                "seeds": len(found),
                "verdict": verdict(found),
            }
