"""Apple's own `predict()` as one more oracle: what the evaluator answers in a test, Core ML has to answer as well.

It needs a Mac, and has not been run on one: elsewhere `pytest -m apple` skips, and what is here is tried with the
evaluator in the framework's place.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import coremltools as ct
import numpy as np
import pytest

from edgevlm.runtimes.mlprogram.evaluator import MLProgram, State
from edgevlm.runtimes.mlprogram.opsets import SYSTEMS
from edgevlm.runtimes.mlprogram.package import read_function, specification_version

EXACT = 1e-4
"""Largest difference of an fp32 program, relative to the largest value: what coremltools' own tests allow."""
FROM_HALVES = 2e-2
"""Likewise where anything is fp16, in which Core ML accumulates as its units do."""
UNORDERED = ("random_", "classify")
"""Ops whose results Core ML is free to draw or to name otherwise."""


class Program:
    """A package in Core ML itself, on the processor.

    Args:
        function: Its name; None stands for the default one.
    """

    def __init__(self, path: Path, function: str | None) -> None:
        self._path, self._function = path, function
        operations = list(read_function(path, function).walk())
        results = {output.type.dtype for each in operations for output in each.outputs}
        self.limit = FROM_HALVES if "fp16" in results else EXACT
        self.is_comparable = not any(each.kind.startswith(UNORDERED) for each in operations)
        self._states: WeakKeyDictionary[State, Any] = WeakKeyDictionary()
        self._model: Any = None

    def require_system(self) -> None:
        """Skips the test where this Mac's system is too old for the package."""
        needed = next(each for each in SYSTEMS if each.specification_version == specification_version(self._path))
        wanted, found = needed.requires["macOS"], platform.mac_ver()[0]
        if found and int(found.split(".")[0]) < int(wanted.split(".")[0]):
            pytest.skip(f"the package needs macOS {wanted}, this is {found}")

    def predict(self, inputs: Mapping[str, Any], state: State | None, before: Mapping[str, Any]) -> dict[str, Any]:
        """Core ML's answers.

        Args:
            state: The evaluator's, of which Core ML's follows.
            before: What it held when the evaluator began.
        """
        if self._model is None:
            options = {"function_name": self._function} if self._function else {}
            self._model = ct.models.MLModel(str(self._path), compute_units=ct.ComputeUnit.CPU_ONLY, **options)
        if state is None:
            return dict(self._model.predict(dict(inputs)))
        if state not in self._states:
            self._states[state] = self._model.make_state()
        theirs = self._states[state]
        for name, value in before.items():
            theirs.write_state(name, value)
        answers = dict(self._model.predict(dict(inputs), theirs))
        return answers | {name: theirs.read_state(name) for name in before}


@contextmanager
def agreeing(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """While it lasts, every prediction of a program opened meanwhile is one of Core ML's too, or the test fails.

    Yields:
        The names of the outputs that were compared.
    """
    opened, predicted = MLProgram.open, MLProgram.predict
    programs: WeakKeyDictionary[MLProgram, Program] = WeakKeyDictionary()
    compared: list[str] = []
    asking = False

    def open_both(path: Path | str, *, function: str | None = None, **options: Any) -> MLProgram:
        program = opened(path, function=function, **options)
        if not asking:
            programs[program] = Program(Path(path), function)
        return program

    def predict_both(program: MLProgram, inputs: Mapping[str, Any], state: State | None = None, **options: Any) -> Any:
        nonlocal asking
        held = {name: state.read_state(name).copy() for name in state.cells} if state else {}
        answers = predicted(program, inputs, state, **options)
        apple = programs.get(program)
        if asking or apple is None or not apple.is_comparable:
            return answers
        apple.require_system()
        asking = True
        try:
            theirs = apple.predict(inputs, state, held)
        finally:
            asking = False
        ours = answers | ({name: state.read_state(name) for name in state.cells} if state else {})
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            assert_close(value, theirs[name], apple.limit, name)
            compared.append(name)
        return answers

    with monkeypatch.context() as patch:
        patch.setattr(MLProgram, "open", staticmethod(open_both))
        patch.setattr(MLProgram, "predict", predict_both)
        yield compared


def assert_close(ours: Any, theirs: Any, limit: float, name: str) -> None:
    """Fails unless Core ML answers the same: each number within a limit, relative to the largest that is finite."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, f"{name}: {ours.shape}, and {theirs.shape} from Core ML"
    finite = np.abs(theirs[np.isfinite(theirs)])
    bound = limit * max(1.0, finite.max(initial=0))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=bound, err_msg=f"{name}: Core ML answers otherwise")
