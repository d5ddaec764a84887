"""One mutant: made, opened, run, and judged."""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]

from edgevlm.benchmarks.fuzzing import bombs, damage, edits, rewrites, sandbox
from edgevlm.benchmarks.fuzzing.corpus import MODEL, Specimen
from edgevlm.benchmarks.fuzzing.declarations import contradictions
from edgevlm.benchmarks.fuzzing.mutants import MUTATORS, Expectation, Mutant, Mutator
from edgevlm.errors import EdgeVLMError
from edgevlm.runtimes.mlprogram.counts import count_ops
from edgevlm.runtimes.mlprogram.evaluator import Answer, MLProgram
from edgevlm.runtimes.mlprogram.features import Feature
from edgevlm.runtimes.mlprogram.package import read_function
from edgevlm.runtimes.mlprogram.stored import stored_weights

__all__ = ["Outcome", "Trials", "bombs", "damage", "edits", "rewrites"]  # the mutators register themselves

Answers = Mapping[str, Answer]


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant.

    Attributes:
        number: Which mutant it is, of one seed and one corpus.
        specimen: What was mutated.
        mutators: How.
        result: `refused`, `same answer`, `other answer`; or the kind of finding.
        error: Of a refusal or an exception, its class.
        message: What it says.
    """

    number: int
    specimen: str
    mutators: tuple[str, ...]
    result: str
    error: str = ""
    message: str = ""

    @property
    def is_finding(self) -> bool:
        return self.result not in ("refused", "same answer", "other answer")


class Trials:
    """The mutants of a corpus, by number.

    Args:
        specimens: The corpus.
        seed: With a number it makes a mutant.
        folder: Where packages are written.
    """

    def __init__(self, specimens: Sequence[Specimen], seed: int, folder: Path) -> None:
        self._specimens = specimens
        self._seed = seed
        self._folder = folder
        self._sound: dict[str, Answers] = {}

    def warm_up(self) -> None:
        """Runs every sound package, so that what is imported or allocated once is."""
        for specimen in self._specimens:
            sound = self._place(specimen) / "sound"
            if not sound.exists():
                Mutant(specimen).write(sound, sound)
            self._sound[specimen.name] = _run(sound, specimen)

    def make(self, number: int) -> tuple[Mutant, tuple[str, ...], Expectation]:
        """A mutant, what was done to it, and what must become of it."""
        rng = Random(f"{self._seed}/{number}")
        while True:
            mutant = Mutant(rng.choice(self._specimens))
            first = _drawn(MUTATORS, rng)
            chosen = [first]
            while first.expects == "any" and rng.random() < 0.25:
                chosen.append(_drawn([each for each in MUTATORS if each.expects == "any"], rng))
            try:
                changed = [each.change(mutant, rng) for each in chosen]
                mutant.seal()
            except (AttributeError, DecodeError, EncodeError, LookupError, TypeError, ValueError):
                continue  # what an earlier change left has nothing for a later one
            if all(changed):
                return mutant, tuple(each.name for each in chosen), first.expects

    def run(self, number: int) -> Outcome:
        """Opens a mutant, runs it if it opens, and judges what it did."""
        mutant, mutators, expects = self.make(number)
        path = self._written(mutant)
        result, error, message = self._judged(path, mutant.specimen, expects)
        return Outcome(number, mutant.specimen.name, mutators, result, error, message)

    def unfinished(self, number: int, how: str, trace: str) -> Outcome:
        """The outcome of a mutant at which its process ended."""
        mutant, mutators, _ = self.make(number)
        return Outcome(number, mutant.specimen.name, mutators, how, "", trace)

    def _written(self, mutant: Mutant) -> Path:
        """The mutant's folder; its sound original lies beside it, in `sound`."""
        place = self._place(mutant.specimen)
        shutil.rmtree(place / "mutant.mlpackage", ignore_errors=True)
        mutant.write(place / "mutant.mlpackage", place / "sound")
        return place / "mutant.mlpackage"

    def _place(self, specimen: Specimen) -> Path:
        place = self._folder / str(self._specimens.index(specimen))
        place.mkdir(exist_ok=True)
        return place

    def _judged(self, path: Path, specimen: Specimen, expects: Expectation) -> tuple[str, str, str]:
        try:
            with sandbox.watched(path) as outside:
                answers: Answers | EdgeVLMError = _run(path, specimen)
        except EdgeVLMError as error:
            answers = error
        except Exception as error:
            place = "; ".join(
                f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)
            )
            return "another exception", type(error).__name__, f"{error} ({place})"
        if outside:
            return "read outside the package", "", ", ".join(outside)
        if isinstance(answers, EdgeVLMError):
            kind, message = type(answers).__name__, answers.message
            if "alloc" in message:
                return "refused only when memory ran out", kind, message
            if not message.replace("\n", "").isprintable() or not message:
                return "refused with an unclear message", kind, message
            return ("refused though it is sound" if expects == "same" else "refused"), kind, message
        if expects == "refused":
            return "not refused", "", ""
        model = path / MODEL
        if model.is_file() and (found := contradictions(model.read_bytes(), specimen.function, answers)):
            return "answers contradict the program", "", "; ".join(found)
        same = _equal(answers, self._sound[specimen.name])
        if expects == "same" and not same:
            return "answers otherwise than the sound package", "", ""
        return ("same answer" if same else "other answer"), "", ""


def _drawn(mutators: Sequence[Mutator], rng: Random) -> Mutator:
    return rng.choices(mutators, [each.weight for each in mutators])[0]


class Unstable(Exception):
    """Two predictions with the same inputs differ."""


def _run(path: Path, specimen: Specimen) -> Answers:
    """Opens a package, reads it in each way that there is, and predicts twice."""
    if specimen.is_compressed:
        with suppress(EdgeVLMError):
            function = read_function(path, specimen.function)
            count_ops(function)
            stored_weights(function)
    program = MLProgram.open(path, function=specimen.function, threads=1)
    program.op_counts()
    inputs = {each.name: _value(each, specimen) for each in program.inputs}
    first, second = program.predict(inputs), program.predict(inputs)
    if not specimen.is_random and not _equal(first, second):
        raise Unstable
    return first


def _value(feature: Feature, specimen: Specimen) -> Any:
    given = specimen.inputs.get(feature.name)
    shape = feature.example if feature.example is not None else feature.shape
    if given is None or (
        shape is not None
        and None not in shape
        and given.shape != shape
        and not feature.choices
        and feature.sizes is None
    ):
        return np.ones([size or 1 for size in shape or ()])
    return given


def _equal(first: Answers, second: Answers) -> bool:
    """Whether answers are the same, bit for bit."""
    return first.keys() == second.keys() and all(_bits(first[name]) == _bits(second[name]) for name in first)


def _bits(answer: Answer) -> Any:
    if isinstance(answer, str | int | dict):
        return repr(answer)
    array = np.asarray(answer)
    return array.dtype.str, array.shape, array.tobytes()
