"""One teacher, every arm with every seed as a training of its own, and what was measured of each.

    OUT/plan.json          what the results are results of
    OUT/teacher/           the teacher, a student's folder
    OUT/teacher.json       what it reaches itself, the ceiling; and the machine
    OUT/runs/ARM-SEED.json what a student reaches
    OUT/training/          trainings that are not finished
    OUT/cache/             the teacher's embeddings

Each is written whole, so that the study may be killed at any moment; started again, it goes on.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from edgevlm import schema
from edgevlm.benchmarks.measuring import machine
from edgevlm.benchmarks.ood.arms import ARMS, TEXTS, Text, tell
from edgevlm.benchmarks.ood.classes import CLASSES, ClassPictures, make_classes
from edgevlm.benchmarks.ood.teacher import TeacherPlan, train_teacher
from edgevlm.distillation.distillation import Request, distill
from edgevlm.distillation.recipe import Schedule
from edgevlm.errors import OutputError
from edgevlm.evaluation.evaluation import evaluate
from edgevlm.models.students.layout import is_student
from edgevlm.process.progress import Progress
from edgevlm.process.writing import write_atomically

_TEST_SEED = 1_000_000  # training pictures have the seeds of the trainings


@dataclass(frozen=True)
class Plan:
    """Sizes of the study.

    Attributes:
        teacher: How the teacher is trained.
        classes: The first half is trained on, the second is not.
        pictures: Of each class trained on, to train on.
        tested: Of each class, in each style, to test on; of classes trained on, others than those.
        shots: Of these, for the probe.
        student: A preset's name.
        schedule: Of each training.
    """

    teacher: TeacherPlan = field(default_factory=TeacherPlan)
    classes: int = CLASSES
    pictures: int = 40
    tested: int = 20
    shots: int = 5
    student: str = "hybrid-xxs"
    schedule: Schedule = field(default_factory=lambda: Schedule(epochs=32, batch_size=64, learning_rate=2e-3))


@dataclass(frozen=True)
class Run:
    """One training."""

    arm: str
    seed: int

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{self.arm}-{self.seed}"


def open_study(out: Path, plan: Plan) -> None:
    """Takes the folder for this plan.

    Raises:
        OutputError: it holds another study.
    """
    record, text = out / "plan.json", json.dumps(schema.write(plan), indent=2) + "\n"
    if record.is_file() and record.read_text(encoding="utf-8") != text:
        raise OutputError(f"{out}: holds a study with another plan", hint="choose another --out, or empty it")
    if not record.is_file():
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(record, text)


def make_teacher(out: Path, plan: Plan, progress: Progress) -> None:
    """Trains the teacher and measures it with every kind of text, unless that is done."""
    train_teacher(plan.teacher, make_classes(plan.classes), out / "teacher", progress)
    if not (out / "teacher.json").exists():
        rows = {text: _measure(out / "teacher", plan, text, None, progress) for text in TEXTS}
        made = json.loads((out / "teacher" / "config.json").read_text(encoding="utf-8"))["provenance"]
        _keep(out / "teacher.json", {"rows": rows, "made": made, "machine": machine()})


def is_done(out: Path, run: Run) -> bool:
    """Whether its result is there."""
    return _result(out, run).exists()


def make_run(out: Path, plan: Plan, run: Run, progress: Progress) -> None:
    """Trains one student and keeps what was measured; the student itself is not kept."""
    began = time.process_time()
    arm, classes, folder = ARMS[run.arm], make_classes(plan.classes), out / "training" / run.name
    trained: dict[str, Any] = {}
    if not is_student(folder):  # else it was killed while it was measured
        distilled = distill(
            Request(
                teachers=(str(out / "teacher"),),
                student=plan.student,
                data=ClassPictures(classes[: plan.classes // 2], plan.pictures, run.seed),
                recipe=arm.recipe(plan.schedule),
                out=folder,
                descriptions=tell(classes, arm.trained_on),
                seed=run.seed,
                workers=0,
                cache=out / "cache",
            ),
            progress,
        )
        trained = {"steps": distilled.steps, "resumed_at": distilled.resumed_at, "seconds": round(distilled.seconds)}
    rows = {text: _measure(folder, plan, text, out / "teacher", progress) for text in arm.tested_on}
    _keep(
        _result(out, run),
        {"arm": run.arm, "seed": run.seed, **trained, "cpu_seconds": round(time.process_time() - began), "rows": rows},
    )
    shutil.rmtree(folder)


def _measure(model: Path, plan: Plan, text: Text, teacher: Path | None, progress: Progress) -> dict[str, float]:
    """Shares of one; M_vlalign is a number of pairs of texts."""
    sets, descriptions = _test_sets(plan), tell(make_classes(plan.classes), text)
    plain = {name: sets[name] for name in ("seen", "unseen_styles")}
    figures = {
        each.name: each.zero_shot.top1
        for each in evaluate(model, plain, descriptions=descriptions, progress=progress).sets
        if each.zero_shot
    }
    asked = {"unseen": sets["unseen"]}
    (unseen,) = evaluate(
        model, asked, descriptions=descriptions, shots=(plan.shots,), teacher=teacher, progress=progress
    ).sets
    if unseen.zero_shot:
        figures |= {"unseen": unseen.zero_shot.top1, "few_shot": unseen.few_shot[0].mean_per_class}
    found = unseen.diagnostics
    if found and found.relation is not None and found.inversions is not None:
        figures |= {"relation": found.relation, "neighbours": found.neighbours, "inversions": found.inversions}
    return figures


@cache
def _test_sets(plan: Plan) -> Mapping[str, ClassPictures]:
    classes, half = make_classes(plan.classes), plan.classes // 2
    return {
        "seen": ClassPictures(classes[:half], plan.tested, _TEST_SEED),
        "unseen": ClassPictures(classes[half:], plan.tested, _TEST_SEED + 1),
        "unseen_styles": ClassPictures(classes[half:], plan.tested, _TEST_SEED + 2, unseen_styles=True),
    }


def _result(out: Path, run: Run) -> Path:
    return out / "runs" / f"{run.name}.json"


def _keep(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(content, indent=2) + "\n")
