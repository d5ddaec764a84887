"""What a study's folder holds, read again: every arm's figures, seed by seed, and the claims that they are to test."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgevlm import schema
from edgevlm.benchmarks.ood.arms import ARMS, TEXTS, Text
from edgevlm.benchmarks.ood.study import Plan
from edgevlm.errors import InputError

COLUMNS = {
    "unseen": "unseen classes",
    "unseen_styles": "unseen classes, unseen styles",
    "seen": "seen classes",
    "few_shot": "unseen, 5-shot probe",
    "relation": "M_rel",
    "neighbours": "M_neigh(10)",
    "inversions": "M_vlalign(10)",
}
"""What is measured; accuracies but the probe's are zero-shot."""

TEXT_TITLES: dict[Text, str] = {
    "name": "by name",
    "description": "by name and description",
    "partial": "by name and 3 or 4 of 5 attributes",
    "wrong": "by name and description, 15 % of the attributes wrong",
    "shuffled": "by name and another class's description",
}
_STACK_TITLES = {
    "labels": "label texts",
    "mse": "+ MSE",
    "contrastive": "+ image contrastive",
    "full": "+ proximity",
    "mse-alone": "MSE alone",
}


@dataclass(frozen=True)
class Row:
    """One line of the table: an arm, or the teacher, asked with one kind of text.

    Attributes:
        title: Its losses in words.
        text: What the class texts say.
        figures: Column -> seed -> value. Accuracies are shares; M_vlalign is a number of pairs.
    """

    title: str
    text: Text
    figures: Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class Results:
    """All of them.

    Attributes:
        plan: What they are results of.
        teacher: Its rows, by text.
        teacher_made: How it was trained.
        machine: Where.
        arms: Arm and text -> row; the order is the table's.
        runs: As they were kept.
    """

    plan: Plan
    teacher: Mapping[Text, Row]
    teacher_made: Mapping[str, Any]
    machine: Mapping[str, Any]
    arms: Mapping[tuple[str, Text], Row]
    runs: Sequence[Mapping[str, Any]]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of which any arm was trained."""
        return tuple(sorted({run["seed"] for run in self.runs}))


def read(out: Path) -> Results:
    """The results in a study's folder, be they all or a part.

    Raises:
        InputError: there are none.
    """
    files = sorted((out / "runs").glob("*.json"))
    if not files or not (out / "teacher.json").is_file():
        raise InputError(f"{out}: expected results of the study, found none", hint="run it without --report-only")
    plan, teacher, *runs = (
        json.loads(path.read_text(encoding="utf-8")) for path in (out / "plan.json", out / "teacher.json", *files)
    )
    runs.sort(key=lambda run: (list(ARMS).index(run["arm"]), run["seed"]))
    arms = {}
    for text in TEXTS:
        for name, arm in ARMS.items():
            own = {run["seed"]: run["rows"][text] for run in runs if run["arm"] == name and text in arm.tested_on}
            if own:
                title = _STACK_TITLES[name if name in _STACK_TITLES else name.partition("-")[0]]
                arms[name, text] = Row(title, text, {c: {s: own[s][c] for s in own} for c in COLUMNS})
    return Results(
        plan=schema.read(Plan, plan, where=str(out / "plan.json"), error=InputError),
        teacher={
            text: Row("the teacher", text, {column: {0: value} for column, value in teacher["rows"][text].items()})
            for text in TEXTS
        },
        teacher_made=teacher["made"],
        machine=teacher["machine"],
        arms=arms,
        runs=runs,
    )


@dataclass(frozen=True)
class Claim:
    """That one row is better than another, fixed before the first training.

    Attributes:
        says: In words.
        better, worse: Arm and text.
        column: In what.
    """

    says: str
    better: tuple[str, Text]
    worse: tuple[str, Text]
    column: str = "unseen"

    def test(self, results: Results) -> tuple[float, ...]:
        """The difference for every seed that both have, in shares."""
        rows = [results.arms.get(key) for key in (self.better, self.worse)]
        more, less = (row.figures[self.column] if row else {} for row in rows)
        return tuple(more[seed] - less[seed] for seed in sorted(more.keys() & less.keys()))


def verdict(differences: Sequence[float]) -> str:
    """`holds` or `fails` where all seeds agree, else `undecided`."""
    if min(differences) > 0:
        return "holds"
    return "fails" if max(differences) < 0 else "undecided"


def say_mean(values: Sequence[float], factor: float = 100.0, *, signed: bool = False) -> str:
    """Mean ± standard deviation (n - 1), times the factor."""
    mean = f"{factor * statistics.mean(values):{'+' if signed else ''}.1f}"
    return f"{mean} ± {factor * statistics.stdev(values):.1f}" if len(values) > 1 else mean


NAME: Text = "name"
TOLD: Text = "description"
CLAIMS = (
    Claim("By name, MSE helps", ("mse-name", NAME), ("labels-name", NAME)),
    Claim("By name, image contrast helps beside it", ("contrastive-name", NAME), ("mse-name", NAME)),
    Claim("By name, proximity helps beside both", ("full-name", NAME), ("contrastive-name", NAME)),
    Claim("By name, the full stack beats label texts alone", ("full-name", NAME), ("labels-name", NAME)),
    Claim("By name, the full stack beats MSE alone", ("full-name", NAME), ("mse-alone", NAME)),
    Claim("By description, MSE helps", ("mse-description", TOLD), ("labels-description", TOLD)),
    Claim(
        "By description, image contrast helps beside it", ("contrastive-description", TOLD), ("mse-description", TOLD)
    ),
    Claim("By description, proximity helps beside both", ("full-description", TOLD), ("contrastive-description", TOLD)),
    Claim(
        "By description, the full stack beats label texts alone",
        ("full-description", TOLD),
        ("labels-description", TOLD),
    ),
    Claim("By description, the full stack beats MSE alone", ("full-description", TOLD), ("mse-alone", TOLD)),
    Claim("Descriptions help label texts alone", ("labels-description", TOLD), ("labels-name", NAME)),
    Claim("Descriptions help the full stack", ("full-description", TOLD), ("full-name", NAME)),
    Claim("Partial descriptions help the full stack", ("full-partial", "partial"), ("full-name", NAME)),
    Claim("Partly wrong descriptions help the full stack", ("full-wrong", "wrong"), ("full-name", NAME)),
    Claim("Another class's descriptions do harm", ("full-name", NAME), ("full-shuffled", "shuffled")),
    Claim(
        "In unseen styles, by name, the full stack beats label texts alone",
        ("full-name", NAME),
        ("labels-name", NAME),
        "unseen_styles",
    ),
    Claim(
        "With 5 shots, the full stack by name beats label texts alone",
        ("full-name", NAME),
        ("labels-name", NAME),
        "few_shot",
    ),
    Claim(
        "With 5 shots, descriptions help the full stack", ("full-description", TOLD), ("full-name", NAME), "few_shot"
    ),
    Claim(
        "On seen classes, by name, the full stack beats label texts alone",
        ("full-name", NAME),
        ("labels-name", NAME),
        "seen",
    ),
)
"""What the paper says or implies. Unless said otherwise in zero-shot accuracy on unseen classes."""
