from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from edgevlm.benchmarks.ood import report
from edgevlm.benchmarks.ood.arms import ARMS, tell
from edgevlm.benchmarks.ood.classes import ClassPictures, describe, make_classes, other_names
from edgevlm.benchmarks.ood.results import CLAIMS, COLUMNS, read, verdict
from edgevlm.benchmarks.ood.side_by_side import make_runs
from edgevlm.benchmarks.ood.study import Plan, Run, is_done, make_teacher, open_study
from edgevlm.benchmarks.ood.teacher import Corpus, TeacherPlan
from edgevlm.data.captions import caption
from edgevlm.data.scene import Scene
from edgevlm.distillation.recipe import Schedule
from edgevlm.errors import InputError, OutputError
from edgevlm.models import catalogue

CLASSES = make_classes()
TINY = Plan(
    teacher=TeacherPlan(image_tower="vit-xxs", text_tower="text-xs", pictures=64, named=2, epochs=2, batch_size=16),
    classes=6,
    pictures=4,
    tested=4,
    shots=2,
    student="vit-xxs",
    schedule=Schedule(epochs=2, batch_size=4),
)
RUNS = [Run(arm, 0) for arm in ("labels-name", "full-description", "mse-alone")]


class Killed(Exception):
    """What stops a study in a test."""


@pytest.fixture(scope="module")
def stages() -> list[str]:
    """What the study said after it was killed and started again."""
    return []


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, stages: list[str]) -> Path:
    """A finished study that was killed while it trained the teacher, trained a student, and measured another one."""
    out = tmp_path_factory.mktemp("study")
    open_study(out, TINY)

    def kill_at(pattern: str) -> None:
        def tell_progress(stage: str, share: float | None) -> None:
            if re.search(pattern, stage):
                raise Killed

        with pytest.raises(Killed):
            make_teacher(out, TINY, tell_progress)
            make_runs(out, TINY, RUNS, 1, tell_progress)

    kill_at("the teacher: step 3")
    kill_at("labels-name-0: epoch 2")
    kill_at("labels-name-0: seen")
    make_teacher(out, TINY, lambda stage, share: None)
    make_runs(out, TINY, RUNS, 1, lambda stage, share: stages.append(stage))
    return out


def test_a_class_is_one_combination_and_has_a_name_of_its_own() -> None:
    assert len({told.name for told in CLASSES}) == len({told.group for told in CLASSES}) == len(CLASSES) == 100
    assert not {told.name for told in CLASSES} & set(other_names())


def test_right_descriptions_tell_all_classes_apart_and_shuffled_ones_are_anothers() -> None:
    right, shuffled = describe(CLASSES), describe(CLASSES, "shuffled")
    assert len(set(right.values())) == len(CLASSES)
    assert sorted(right.values()) == sorted(shuffled.values())
    assert not any(right[name] == shuffled[name] for name in right)


def test_seen_and_unseen_classes_exchange_no_descriptions() -> None:
    said, right = tell(CLASSES, "shuffled"), describe(CLASSES)
    assert said is not None
    seen = [told.name for told in CLASSES[:50]]
    assert {said.labels[name].descriptions[0] for name in seen} == {right[name] for name in seen}


def test_wrong_and_partial_descriptions_are_as_wrong_and_as_partial_as_they_say() -> None:
    wrong, partial = describe(CLASSES, "wrong"), describe(CLASSES, "partial")
    right = {told.name: caption(Scene((told.group,))).split() for told in CLASSES}
    changed = [sum(a != b for a, b in zip(right[name], wrong[name].split(), strict=True)) for name in right]
    assert 0.10 < sum(changed) / 500 < 0.20
    assert {len(right[name]) - len(partial[name].split()) for name in right} == {1, 2}
    assert all(set(partial[name].split()) <= set(right[name]) for name in right)


@pytest.mark.parametrize("change", [{"each": 3}, {"seed": 1}, {"unseen_styles": True}, {"classes": CLASSES[1:4]}])
def test_pictures_are_the_same_every_time_and_others_have_another_fingerprint(change: Mapping[str, object]) -> None:
    arguments: dict[str, object] = {"classes": CLASSES[:3], "each": 2, "seed": 0}
    first, again = (ClassPictures(**arguments) for _ in range(2))  # type: ignore[arg-type]
    assert first.fingerprint == again.fingerprint
    assert [first.picture(n).tobytes() for n in range(6)] == [again.picture(n).tobytes() for n in range(6)]
    assert isinstance(first.picture(0), Image.Image)
    assert [first.labels[first.example(n).label or 0] for n in range(6)] == [c.name for c in CLASSES[:3] for _ in "12"]
    assert ClassPictures(**{**arguments, **change}).fingerprint != first.fingerprint  # type: ignore[arg-type]


def test_the_teacher_hears_each_class_by_name_alone_and_other_pictures_by_attributes() -> None:
    corpus = Corpus(TeacherPlan(pictures=64, named=2, batch_size=64), CLASSES[:6])
    texts = corpus.batch(0)[1]
    named = [text for text in texts if any(text.endswith(told.name) for told in CLASSES[:6])]
    assert len(named) == 12
    assert all(len(text.split()) <= 5 for text in named)
    words = {word for text in texts if text not in named for word in text.split()}
    assert words & {"striped", "stripy", "dotted", "spotted"}
    assert not words & {told.name for told in CLASSES}


def test_arms_are_fixed_and_every_claim_is_about_two_that_are_measured() -> None:
    asked = {(name, text) for name, arm in ARMS.items() for text in arm.tested_on}
    assert len(ARMS) == 12
    assert len(asked) == 13
    assert all({claim.better, claim.worse} <= asked for claim in CLAIMS)
    assert [each.loss for each in ARMS["contrastive-name"].recipe(Schedule()).losses] == [
        "classification", "feature_mse", "image_contrastive"]  # fmt: skip


@pytest.mark.slow
def test_a_killed_study_goes_on_and_trains_no_finished_student_again(study: Path, stages: list[str]) -> None:
    assert all(is_done(study, run) for run in RUNS)
    assert not any("labels-name-0: epoch" in stage for stage in stages), "it had been trained, and only to be measured"
    assert any("mse-alone-0: epoch" in stage for stage in stages)
    assert not list((study / "training").iterdir())


@pytest.mark.slow
def test_the_teacher_is_a_model_that_reads_the_names(study: Path) -> None:
    model = catalogue.load(study / "teacher")
    assert model.text is not None
    assert model.embedding_dim == 128


@pytest.mark.slow
def test_each_training_is_measured_with_its_own_texts(study: Path) -> None:
    rows = {run.arm: json.loads((study / "runs" / f"{run.name}.json").read_text())["rows"] for run in RUNS}
    assert set(rows["labels-name"]) == {"name"}
    assert set(rows["full-description"]) == {"description"}
    assert set(rows["mse-alone"]) == {"name", "description"}
    alone = rows["mse-alone"]
    assert alone["name"]["relation"] == alone["description"]["relation"], "the pictures' side is one training"
    found = [row for arm in rows.values() for row in arm.values()]
    assert all(set(row) == set(COLUMNS) for row in found)
    assert all(0 <= row[column] <= 1 for row in found for column in COLUMNS if column != "inversions")


@pytest.mark.slow
def test_the_report_holds_every_row_and_says_what_is_missing(study: Path, tmp_path: Path) -> None:
    places = report.beside(tmp_path)
    report.write(study, places)
    page = places.page.read_text()
    results = read(study)
    assert page.count("| MSE alone |") == 2
    assert page.count("| the teacher |") == 5
    assert "Unfinished: 9 trainings are missing (mse-name 0" in page
    value = 100 * results.arms["labels-name", "name"].figures["unseen"][0]
    assert f"| label texts | {value:.1f} |" in page
    assert places.plot.stat().st_size < 200_000
    assert len(json.loads(places.figures.read_text())["runs"]) == 3


@pytest.mark.slow
def test_a_report_of_nothing_and_a_folder_of_another_plan_are_refused(study: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected results"):
        report.write(tmp_path, report.beside(tmp_path))
    with pytest.raises(OutputError, match="another plan"):
        open_study(study, Plan())


@pytest.mark.parametrize(
    ("differences", "said"), [((0.1, 0.2), "holds"), ((-0.1, -0.2), "fails"), ((0.1, -0.1), "undecided")]
)
def test_a_claim_holds_or_fails_only_where_all_seeds_agree(differences: tuple[float, ...], said: str) -> None:
    assert verdict(differences) == said
