"""A sample of the campaign of attacks, and that it notices what it is to notice."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import library
import pytest

from edgevlm.benchmarks.attacks import bundles, kills, workers
from edgevlm.benchmarks.attacks.bundles import Specimen
from edgevlm.benchmarks.attacks.kills import Writing
from edgevlm.benchmarks.attacks.outcomes import Outcome
from edgevlm.bundle.bundle import Bundle
from edgevlm.testing import FakeModel

SMALL = (
    "index",
    "results of a benchmark",
    "descriptions",
    "a run",
    pytest.param("a teacher's answers", marks=pytest.mark.slow),
)
"""What is written without a conversion."""


def writings() -> Mapping[str, Writing]:
    return kills.writings(FakeModel().bundle)


@pytest.mark.parametrize("name", SMALL)
def test_what_a_kill_leaves_is_old_or_new(name: str, tmp_path: Path) -> None:
    writing = writings()[name]
    count = kills.steps(writing, tmp_path)
    assert count > 3
    found = [kills.attack(name, writing, number, tmp_path) for number in range(count + 1)]
    assert [each for each in found if each.result != "whole"] == []


@pytest.mark.slow
def test_so_is_what_the_kill_of_a_first_conversion_leaves(tmp_path: Path) -> None:
    writing = writings()["first conversion"]
    count = kills.steps(writing, tmp_path)
    found = [kills.attack("first conversion", writing, number, tmp_path) for number in (count // 3, count - 3)]
    assert [each for each in found if each.result != "whole"] == []


def test_a_file_that_is_half_written_is_lost(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        (folder / "a").write_text("new")
        (folder / "b").write_text("new")

    def read(folder: Path) -> str:
        return "".join(each.read_text() for each in sorted(folder.iterdir()))

    writing = Writing(lambda folder: (folder / "a").write_text("old"), write, read)
    assert kills.steps(writing, tmp_path) == 2
    results = [kills.attack("a", writing, number, tmp_path).result for number in range(3)]
    assert results == ["whole", "lost", "whole"]


def test_a_worker_that_dies_or_hangs_is_told_of_and_replaced() -> None:
    def work(number: int) -> Outcome:
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 3:
            time.sleep(60)
        return Outcome("kind", "what", number, "refused")

    found = list(workers.run("kind", "what", range(5), work, seconds=0.5))
    assert [each.result for each in found] == ["refused", "died", "refused", "hung", "refused"]
    assert [each.number for each in found] == list(range(5))


def nothing_is_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    def passes(bundle: Bundle) -> object:
        return type("Report", (), {"passed": True})

    monkeypatch.setattr("edgevlm.benchmarks.attacks.bundles.pipeline.verify", passes)


MADE: dict[str, Callable[[], Bundle]] = {
    "tflite": lambda: library.student("tflite", "int8"),
    "executorch": lambda: library.student("executorch", "int8"),
    "coreml": lambda: library.student("coreml", "fp16"),
    "labels": lambda: library.labelled_student(("a red circle", "a blue star", "two green squares")),
    "talks": lambda: library.talker("smolvlm", "tflite", "fp32"),
}


@pytest.mark.slow
@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("kind", bundles.CHANGES)
def test_a_mutant_is_refused_or_answers_as_before(kind: str, made: str, tmp_path: Path) -> None:
    if kind == bundles.FLATBUFFERS and made in ("coreml", "labels"):
        pytest.skip("Core ML's files are none")
    specimen = Specimen.of(MADE[made]())
    found = [bundles.attack(kind, specimen, number, 1, tmp_path) for number in range(2)]
    assert [each for each in found if each.is_finding] == []


@pytest.mark.slow
@pytest.mark.parametrize("proof", [None, nothing_is_proved])
def test_an_answer_that_is_wrong_is_found_where_nothing_is_proved(
    proof: Callable[[pytest.MonkeyPatch], None] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specimen = Specimen.of(library.student("tflite", "int8"))
    monkeypatch.setitem(bundles.CHANGES, "planted", lambda folder, rng: plant(folder))
    if proof is not None:
        proof(monkeypatch)
    found = bundles.attack("planted", specimen, 0, 0, tmp_path)
    assert found.result == ("refused" if proof is None else "wrong"), found


def plant(folder: Path) -> str:
    """The model compares in another temperature than it was trained with."""
    path = folder / "manifest.json"
    lines = path.read_text().splitlines()
    (place,) = [place for place, line in enumerate(lines) if '"logit_scale"' in line]
    lines[place] = '  "logit_scale": 1.5,'
    path.write_text("\n".join(lines))
    return "logit_scale"
