"""Predictions with an ML Program, on torch's CPU kernels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image

from edgevlm.errors import BundleError, EdgeVLMError, TensorError, UnsupportedError
from edgevlm.runtimes.mlprogram.audit import Audit, OpAudit
from edgevlm.runtimes.mlprogram.counts import count_ops
from edgevlm.runtimes.mlprogram.dtypes import BY_NAME
from edgevlm.runtimes.mlprogram.features import Feature, accept, features_of, picture
from edgevlm.runtimes.mlprogram.memory import Memory
from edgevlm.runtimes.mlprogram.ops import CARRIERS
from edgevlm.runtimes.mlprogram.package import function_names, read_function
from edgevlm.runtimes.mlprogram.plan import make_plan
from edgevlm.runtimes.mlprogram.program import Function
from edgevlm.runtimes.mlprogram.steps import Mode, Observer, located, round_to
from edgevlm.runtimes.mlprogram.values import Cell, Value
from edgevlm.targets.boundary import validate_threads
from edgevlm.targets.inspection import OpCount

Precision = Literal["declared", "fp32", "audit"]
Answer = NDArray[Any] | Image | str | int | dict[str | int, float]
"""An output: an array, a picture, or what a classifier says: a class, and each class's probability."""


class State:
    """The states of a stateful program, to be given to one prediction after the other.

    Its methods are those of coremltools' `MLState`.
    """

    def __init__(self, features: Mapping[str, Feature], *, rounds: bool) -> None:
        self._features = dict(features)
        self._rounds = rounds
        self.cells = {
            name: Cell(torch.zeros([size or 0 for size in each.shape or ()], dtype=CARRIERS[each.dtype]))
            for name, each in features.items()
        }

    def read_state(self, name: str) -> NDArray[Any]:
        """A copy of one state.

        Raises:
            TensorError: there is no such state.
        """
        return self.cells[self._known(name)].value.numpy().astype(BY_NAME[self._features[name].dtype].storage)

    def write_state(self, name: str, value: NDArray[Any]) -> None:
        """Replaces one state.

        Raises:
            TensorError: there is no such state, or the value has another shape or kind of type.
        """
        feature = self._features[self._known(name)]
        self.cells[name] = Cell(round_to(accept(feature, value, role="state"), feature.dtype, rounds=self._rounds))

    def _known(self, name: str) -> str:
        if name not in self._features:
            raise TensorError(f"expected one of the states {', '.join(self._features) or 'none'}, got {name!r}")
        return name


class MLProgram:
    """One function of an ML Program, open for prediction.

    Arithmetic inside an op is float32. With precision `declared`, each result that the program declares as fp16
    is then rounded to IEEE 754 binary16: to nearest, ties to even, beyond 65504 to infinity, subnormals kept.
    That is storage in fp16 with float32 accumulation; hardware that accumulates in fp16 or fuses ops differs.
    With `fp32` nothing but the weights is fp16, which separates faults of structure from those of precision. With
    `audit` it is as with `declared`, and `audit()` says what each op's results came to in all predictions so far.

    Attributes:
        inputs, outputs, states: What `predict` takes and returns and what it keeps, in the program's order.
    """

    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    states: tuple[Feature, ...]

    def __init__(self, function: Function, *, precision: Precision = "declared", threads: int | None = None) -> None:
        if precision not in ("declared", "fp32", "audit"):
            raise UnsupportedError(f"precision: expected 'declared', 'fp32' or 'audit', got {precision!r}")
        validate_threads(threads)
        self._function = function
        self._rounds = precision != "fp32"
        self._audit = Audit() if precision == "audit" else None
        self._threads = threads
        self.inputs, self.outputs, self.states = features_of(function)
        self._memory = Memory()
        with self._torch(), self._memory:
            self._plan = make_plan(function, Mode(self._rounds))
            # What was measured once need not be again, if every run is as large.
            self._bounded = self._rehearse() and all(step.is_fixed for step in self._plan.steps)

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        function: str | None = None,
        precision: Precision = "declared",
        threads: int | None = None,
    ) -> MLProgram:
        """Reads, checks and plans a package, and runs it once on ones if all its sizes are fixed.

        >>> program = MLProgram.open("Detector.mlpackage", precision="fp32", threads=2)
        >>> [(feature.name, feature.shape) for feature in program.inputs]

        Args:
            path: The `.mlpackage` folder. Its weights stay mapped from the file; fp16 ones are widened for each
                call of the op that takes them, which costs a few percent of its time and none of the memory. Of one
                row, such as a token's, they are multiplied as they are, and sums are float32 all the same.
            function: Name of the function; None stands for the default one.
            precision: `declared` rounds each result to its declared type, `fp32` does not round, `audit` rounds and
                measures.
            threads: CPU threads while this program runs; None leaves torch's setting.

        Raises:
            BundleError: the package is damaged, is no ML Program, or contradicts itself.
            UnsupportedError: it has ops, arguments or types that are not known here; all unknown ops are named.
            InputError: an impossible number of threads.
            MissingDependency: coremltools is not installed.
        """
        read = read_function(Path(path), function)
        try:
            return cls(read, precision=precision, threads=threads)
        except EdgeVLMError as error:
            raise located(error, str(path)) from error

    @staticmethod
    def functions(path: Path | str) -> tuple[str, ...]:
        """Names of a package's functions, the default one first.

        Raises:
            BundleError, MissingDependency: see `open`.
        """
        return function_names(Path(path))

    def audit(self) -> tuple[OpAudit, ...]:
        """What inputs and each op's results came to in the predictions so far, in the order in which they first came.

        Raises:
            UnsupportedError: the program was not opened with precision `audit`.
        """
        if self._audit is None:
            raise UnsupportedError(
                "nothing was audited: the program was opened with another precision than audit",
                hint="open it with precision='audit'",
            )
        return self._audit.report()

    def op_counts(self) -> tuple[OpCount, ...]:
        """How many ops of each kind and result type there are, constants left out."""
        return count_ops(self._function)

    def make_state(self) -> State:
        """States as a program finds them the first time: zeros."""
        return State({feature.name: feature for feature in self.states}, rounds=self._rounds)

    def predict(
        self, inputs: Mapping[str, Any], state: State | None = None, *, observe: Observer | None = None
    ) -> dict[str, Answer]:
        """Runs the function once. Names, pictures and states are as in coremltools' `MLModel.predict`.

        >>> program = MLProgram.open("dist/edgevlm-student-coreml-fp16.edgevlm/encode_image.mlpackage")
        >>> answer = program.predict({"pixels": PIL.Image.open("examples/pictures/yellow-star.png").resize((64, 64))})
        >>> answer["embedding"].shape
        (1, 192)

        Args:
            inputs: For each of `self.inputs` an array, or what NumPy makes one of, of any type that holds its
                values; a picture may be a PIL image. One with a default may be left out.
            state: What `make_state` gave, changed by the prediction. Without it a stateful program starts from
                zeros, and what it leaves is lost.
            observe: Called with each op that ran and its results, as torch tensors that must not be changed.

        Returns:
            For each of `self.outputs` an array of its declared type (with precision `fp32`, float32 for fp16), a
            PIL image where the model declares one, or a classifier's class and its dict of probabilities. A scalar is
            an array of one, as Core ML has it.

        Raises:
            TensorError: a name, kind of type or shape is wrong, or an index computed from the inputs is out
                of range.
            BundleError: an op's result is not what the program declares.
            UnsupportedError: a result does not fit into this machine's memory, or a loop does not end.
        """
        if not isinstance(inputs, Mapping):
            raise TensorError(
                f"expected inputs by name, got {type(inputs).__name__}", hint="predict samples one by one"
            )
        state = self.make_state() if state is None else state
        if not isinstance(state, State) or set(state.cells) != {feature.name for feature in self.states}:
            raise TensorError("the state was made by another program: make one with this program's make_state()")
        optional = {feature.name for feature in self.inputs if feature.default is not None}
        if not {feature.name for feature in self.inputs} - optional <= set(inputs) <= {f.name for f in self.inputs}:
            expected = ", ".join(feature.name for feature in self.inputs)
            raise TensorError(f"expected the inputs {expected}, got {', '.join(inputs) or 'none'}")
        with self._torch(), contextlib.nullcontext() if self._bounded else self._memory:
            given: dict[str, Value] = {
                feature.name: self._accept(feature, inputs.get(feature.name)) for feature in self.inputs
            }
            results = self._plan.run(
                {**given, **state.cells}, Mode(self._rounds, observe, self._audit.measure if self._audit else None)
            )
            return {
                feature.name: self._export(value, feature) for feature, value in zip(self.outputs, results, strict=True)
            }

    def _accept(self, feature: Feature, value: Any) -> torch.Tensor:
        if value is None and feature.default is not None:
            value = np.full(feature.example or (), feature.default)
        tensor = accept(feature, value)
        if self._audit is not None:
            self._audit.add("input", feature.name, feature.dtype, tensor)
        return round_to(tensor, feature.dtype, rounds=self._rounds)

    def _export(self, value: Value, feature: Feature) -> Answer:
        if isinstance(value, str | dict):
            return value
        if not isinstance(value, torch.Tensor):
            raise UnsupportedError(f"output {feature.name!r}: a list or state cannot leave a program")
        if feature.plain:
            if value.numel() != 1 or value.dtype.is_floating_point:
                raise BundleError(f"output {feature.name!r}: described as one whole number or text, which it is not")
            return int(value.item())
        if feature.image is not None:
            return picture(feature.image, value.float())
        dtype = feature.dtype if self._rounds or feature.dtype != "fp16" else "fp32"
        return np.array(value.numpy(), dtype=BY_NAME[dtype].storage, ndmin=1)

    def _rehearse(self) -> bool:
        """Runs once on ones, so that a program that contradicts itself is refused at open; tells whether it ran.

        Ones rather than zeros, because integers may be sizes and divisors. Where a size depends on the inputs, the
        ones alone may be what does not fit.
        """
        shapes = [value.type.shape for operation in self._function.walk() for value in operation.outputs]
        if any(shape is None or None in shape for shape in (*shapes, *(each.shape for each in self.inputs))):
            return False
        ones: dict[str, Value] = {
            feature.name: torch.ones(feature.example or (), dtype=CARRIERS[feature.dtype]) for feature in self.inputs
        }
        try:
            self._plan.run({**ones, **self.make_state().cells}, Mode(self._rounds))
        except TensorError:  # an index that only these inputs put out of range
            return False
        return True

    @contextlib.contextmanager
    def _torch(self) -> Iterator[None]:
        """Without gradients, on the asked number of threads: torch has one setting for the whole process."""
        before = torch.get_num_threads()
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                yield
        finally:
            if self._threads is not None:
                torch.set_num_threads(before)
