"""The fuzzing of the evaluator: a sample of what the benchmark runs, and that it notices faults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from edgevlm.benchmarks.fuzzing import corpus
from edgevlm.benchmarks.fuzzing.corpus import Specimen
from edgevlm.benchmarks.fuzzing.mutants import MUTATORS
from edgevlm.benchmarks.fuzzing.trials import Outcome, Trials
from edgevlm.benchmarks.fuzzing.workers import Limits, run
from edgevlm.runtimes.mlprogram import evaluator, features, memory, package, steps, weights
from edgevlm.runtimes.mlprogram.features import Feature
from edgevlm.runtimes.mlprogram.values import Value

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="limits memory as Linux does"),
    pytest.mark.slow,  # the packages to damage take half a minute; tests/test_mlprogram_damage.py has what is small
]


@pytest.fixture(scope="module")
def specimens() -> tuple[Specimen, ...]:
    return corpus.build()


def outcomes(specimens: Sequence[Specimen], numbers: Sequence[int], seed: int = 0) -> list[Outcome]:
    return list(run(specimens, seed, numbers, Limits(seconds=60)))


def test_mutants_are_refused_or_answer_what_they_say(specimens: tuple[Specimen, ...]) -> None:
    mutants = 1000
    found = outcomes(specimens, range(mutants), seed=1)
    assert [each for each in found if each.is_finding] == []
    assert [each.number for each in found] == list(range(mutants))
    results = Counter(each.result for each in found)
    assert results["refused"] > mutants / 2  # the mutators do harm,
    assert results["same answer"] > mutants / 10  # and some leave a program what it is
    assert len({mutator for each in found for mutator in each.mutators}) > 0.9 * len(MUTATORS)


def test_a_mutant_is_the_same_each_time(specimens: tuple[Specimen, ...], tmp_path: Path) -> None:
    trials, again = (Trials(specimens, 3, tmp_path) for _ in range(2))
    for number in range(50):
        (first, mutators, expects), (second, *others) = trials.make(number), again.make(number)
        assert (mutators, expects) == tuple(others)
        assert (first.files, first.links, first.fifos) == (second.files, second.links, second.fifos)


def mutants_by(specimens: Sequence[Specimen], mutator: str, count: int, folder: Path) -> list[int]:
    """Numbers of mutants that this mutator alone made."""
    trials, found, number = Trials(specimens, 0, folder), [], 0
    while len(found) < count:
        if trials.make(number)[1] == (mutator,):
            found.append(number)
        number += 1
    return found


def leave_links_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "require_file", lambda *arguments: None)
    monkeypatch.setattr(weights, "require_file", lambda *arguments: None)


def measure_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.Memory, "_require", lambda *arguments: None)
    monkeypatch.setattr(features, "require_room", lambda *arguments: None)


def count_no_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps.Effort, "__setattr__", lambda *arguments: None)


def answer_in_another_type(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = evaluator.MLProgram._export

    def export(self: evaluator.MLProgram, value: Value, feature: Feature) -> evaluator.Answer:
        answer = kept(self, value, feature)
        return answer.astype(np.float64) if isinstance(answer, np.ndarray) else answer

    monkeypatch.setattr(evaluator.MLProgram, "_export", export)


@pytest.mark.parametrize(
    ("fault", "mutator", "finding"),
    [
        (leave_links_alone, "a link leads elsewhere", {"read outside the package", "not refused"}),
        (measure_nothing, "a huge result", {"refused only when memory ran out"}),
        (count_no_steps, "a long loop", {"took too long"}),
        (answer_in_another_type, "other names within", {"answers contradict the program"}),
    ],
)
def test_a_fault_of_the_evaluator_is_found(
    fault: Callable[[pytest.MonkeyPatch], None],
    mutator: str,
    finding: set[str],
    specimens: tuple[Specimen, ...],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    numbers = mutants_by(specimens, mutator, 8, tmp_path)
    assert not any(each.is_finding for each in outcomes(specimens, numbers))
    fault(monkeypatch)
    found = {each.result for each in run(specimens, 0, numbers, Limits(seconds=3))}
    assert found & finding
