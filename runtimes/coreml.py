"""The Core ML runtime: Apple's own where it exists, the ML Program evaluator everywhere else.

On macOS a session predicts with Core ML itself (evidence `device`). That path follows coremltools' documented
`MLModel.predict` and has not been run on Apple hardware here. Elsewhere the same package is evaluated op by op
(evidence `program-semantics`; see `edgevlm.runtimes.mlprogram`).
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.integer_weights import StoredWeight
from edgevlm.bundle.manifest import BundledComponent
from edgevlm.bundle.spec import Array, ComponentSpec
from edgevlm.errors import BundleError, MissingDependency
from edgevlm.targets.boundary import find_component, length_of, validate_inputs, validate_threads
from edgevlm.targets.inspection import Advice, OpCount, OpCoverage, Package
from edgevlm.targets.runtime import SerialSession, State, TracedOp

if TYPE_CHECKING:
    from edgevlm.bundle.bundle import Bundle
    from edgevlm.runtimes.mlprogram.program import Function


class _Predictor(Protocol):
    """What both ways to run a package offer."""

    input_names: frozenset[str]
    output_names: frozenset[str]
    pictures: Mapping[str, tuple[str, int, int]]
    """Layout, height and width of the inputs that are pictures, by name."""

    state_names: frozenset[str]
    """Of what the package itself keeps from run to run."""

    def make_state(self) -> Any: ...

    def predict(self, inputs: Mapping[str, Array], state: Any = None) -> Mapping[str, NDArray[Any]]: ...


@dataclass(eq=False)
class KeptState(State):
    """A state of Core ML's own, or the evaluator's, which serves all functions of a component.

    Apple's pages do not say that one `MLState` serves several functions; apps rely on that. Not run on Apple hardware.

    Attributes:
        kept: An `MLState`, or what is one to the evaluator.
    """

    kept: Any = None


class CoreMLRuntime:
    """Opens bundles of ML Programs, one `.mlpackage` a component."""

    target = "coreml"

    def open(self, bundle: Bundle, *, threads: int | None = None) -> CoreMLSession:
        """Loads every component.

        Args:
            threads: CPU threads of the evaluator; Apple's runtime chooses for itself.

        Raises:
            InputError: an impossible number of threads.
            BundleError: a package is damaged, or its inputs and outputs are not those of the manifest.
            UnsupportedError: off Apple, a package has ops that the evaluator does not know.
            MissingDependency: coremltools, or off Apple torch, is not installed.
        """
        validate_threads(threads)
        _require("coremltools")
        on_apple = apple_runtime_works()
        loaded: dict[str, tuple[ComponentSpec, _Predictor]] = {}
        for name, component in bundle.functions.items():
            path = bundle.path / component.file
            function = name if bundle.has_lengths(component.file) else None
            predictor = _AppleProgram(path, function) if on_apple else _evaluated_program(path, function, threads)
            _check_boundary(component, predictor, path)
            loaded[name] = (component.spec, predictor)
        evidence = "device" if on_apple else "program-semantics"
        return CoreMLSession(loaded, bundle.components, evidence=evidence)

    def inspect(self, bundle: Bundle) -> dict[str, tuple[OpCount, ...]]:
        """The ops of each component's program, without loading weights.

        `runs_on` says `evaluator` everywhere: which unit of a device runs an op is decided there.

        Raises:
            BundleError: a package is damaged.
            MissingDependency: coremltools is not installed.
        """
        _require("coremltools")
        from edgevlm.runtimes.mlprogram.counts import count_ops

        return {name: count_ops(function) for name, function in _functions(bundle)}

    def stored_weights(self, bundle: Bundle) -> dict[str, tuple[StoredWeight, ...]]:
        """The integer weights of each component, read from its package.

        Raises:
            BundleError: a package is damaged.
            MissingDependency: coremltools is not installed.
        """
        _require("coremltools")
        from edgevlm.runtimes.mlprogram.stored import stored_weights

        return {name: stored_weights(function) for name, function in _functions(bundle)}

    def trace(self, bundle: Bundle, component: str, inputs: Mapping[str, Array]) -> tuple[TracedOp, ...]:
        """Runs one component once on the evaluator, on Apple's systems too: Core ML keeps its own to itself.

        Raises:
            TensorError: there is no such component, or an input is not what its spec says.
            BundleError, UnsupportedError, MissingDependency: see `open`.
        """
        _require("coremltools")
        _require("torch")
        from edgevlm.runtimes.mlprogram.evaluator import MLProgram
        from edgevlm.runtimes.mlprogram.tracing import trace

        found = find_component(dict(bundle.components), component)
        arrays = validate_inputs(found.spec, inputs)
        name = found.function(length_of(found.spec, arrays)) if bundle.has_lengths(found.file) else None
        program = MLProgram.open(bundle.path / found.file, function=name)
        passed_in = () if program.states else found.spec.state
        return trace(program, {**arrays, **{each.name: np.zeros(each.shape, np.float32) for each in passed_in}})

    def advice(self, bundle: Bundle) -> dict[str, tuple[Advice, ...]]:
        """What is known against each component's package: systems, and what the Neural Engine makes of it.

        Raises:
            BundleError: a package is damaged.
            MissingDependency: coremltools is not installed.
        """
        _require("coremltools")
        from edgevlm.runtimes.mlprogram.inspection import advise_package

        found = {}
        for name, component in bundle.components.items():
            names = {component.function(length) for length in component.spec.lengths} or None
            found[name] = advise_package(bundle.path / component.file, names)
        return found

    def read_package(self, path: Path) -> Package:
        """What is in an .mlpackage that need be no part of a bundle.

        Raises:
            BundleError: it is damaged, or no ML Program.
            MissingDependency: coremltools is not installed.
        """
        _require("coremltools")
        from edgevlm.runtimes.mlprogram.inspection import inspect_package

        return inspect_package(path)

    def op_coverage(self) -> tuple[OpCoverage, ...]:
        """Every op of ML Programs, and whether the evaluator computes it."""
        from edgevlm.runtimes.mlprogram.coverage import coverage

        return coverage()


class CoreMLSession(SerialSession[_Predictor]):
    """An open Core ML bundle.

    Attributes:
        evidence: `device` with Apple's runtime, `program-semantics` with the evaluator.
    """

    def __init__(
        self,
        functions: Mapping[str, tuple[ComponentSpec, _Predictor]],
        components: Mapping[str, BundledComponent],
        *,
        evidence: str,
    ) -> None:
        super().__init__(functions, components)
        self.evidence = evidence

    def make_state(self, component: str) -> State:
        """See `SerialSession.make_state`."""
        spec = self._stateful(component)
        _, predictor = self._functions[self._components[component].function(spec.lengths[0])]
        if not predictor.state_names:
            return super().make_state(component)
        return KeptState(component, {}, id(self), kept=predictor.make_state())

    def _compute_on(
        self, state: State, spec: ComponentSpec, predictor: _Predictor, arrays: Mapping[str, Array]
    ) -> dict[str, NDArray[np.float32]]:
        if not isinstance(state, KeptState):
            return super()._compute_on(state, spec, predictor, arrays)
        return self._answers(spec.implicit(), predictor.predict(arrays, state.kept))

    def _compute(
        self, spec: ComponentSpec, predictor: _Predictor, arrays: Mapping[str, Array]
    ) -> dict[str, NDArray[np.float32]]:
        return self._answers(spec, predictor.predict(arrays))

    def _answers(self, spec: ComponentSpec, answers: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        results: dict[str, NDArray[np.float32]] = {}
        for output in spec.outputs:
            answer = np.asarray(answers[output.name], dtype=np.float32)
            if answer.shape != output.shape:
                raise BundleError(
                    f"{spec.name}: output {output.name!r}: expected shape {list(output.shape)}, "
                    f"got {list(answer.shape)}"
                )
            results[output.name] = answer
        return results


class _EvaluatedProgram:
    """A package on the evaluator."""

    def __init__(self, path: Path, function: str | None, threads: int | None) -> None:
        from edgevlm.runtimes.mlprogram.evaluator import MLProgram

        self._program = MLProgram.open(path, function=function, threads=threads)
        self.input_names = frozenset(feature.name for feature in self._program.inputs)
        self.output_names = frozenset(feature.name for feature in self._program.outputs)
        self.state_names = frozenset(feature.name for feature in self._program.states)
        self.pictures: Mapping[str, tuple[str, int, int]] = {
            feature.name: (feature.image.upper(), feature.example[-2], feature.example[-1])
            for feature in self._program.inputs
            if feature.image and feature.example
        }

    def make_state(self) -> Any:
        return self._program.make_state()

    def predict(self, inputs: Mapping[str, Array], state: Any = None) -> Mapping[str, NDArray[Any]]:
        return {name: np.asarray(answer) for name, answer in self._program.predict(inputs, state).items()}


def _evaluated_program(path: Path, function: str | None, threads: int | None) -> _EvaluatedProgram:
    _require("torch")
    return _EvaluatedProgram(path, function, threads)


class _AppleProgram:
    """A package on Apple's runtime, which wants pictures as PIL images. Not run on Apple hardware here."""

    def __init__(self, path: Path, function: str | None) -> None:
        import coremltools  # type: ignore[import-untyped]

        if not path.is_dir():
            raise BundleError(f"{path}: expected an .mlpackage folder, which is missing")
        try:
            self._model: Any = coremltools.models.MLModel(str(path), function_name=function)
        except (RuntimeError, ValueError) as error:
            raise BundleError(f"{path}: Core ML cannot load this package: {error}") from error
        description = self._model.get_spec().description
        description = next((each for each in description.functions if each.name == function), description)
        pictures = {
            each.name: each.type.imageType for each in description.input if each.type.WhichOneof("Type") == "imageType"
        }
        self.pictures: Mapping[str, tuple[str, int, int]] = {
            name: (type(each).ColorSpace.Name(each.colorSpace), each.height, each.width)
            for name, each in pictures.items()
        }
        self.input_names = frozenset(each.name for each in description.input)
        self.output_names = frozenset(each.name for each in description.output)
        self.state_names = frozenset(each.name for each in description.state)

    def make_state(self) -> Any:
        return self._model.make_state()

    def predict(self, inputs: Mapping[str, Array], state: Any = None) -> Mapping[str, NDArray[Any]]:
        answers: Mapping[str, NDArray[Any]] = self._model.predict(
            {name: _picture(array) if name in self.pictures else array for name, array in inputs.items()}, state
        )
        return answers


def _picture(pixels: Array) -> Any:
    """A PIL image of [1, 3, height, width] RGB pixels in 0..255, rounded to whole grey levels."""
    from PIL import Image

    return Image.fromarray(np.rint(pixels[0]).clip(0, 255).astype(np.uint8).transpose(1, 2, 0), mode="RGB")


def apple_runtime_works() -> bool:
    """Whether coremltools was built with its bridge to Apple's framework, which exists on macOS only."""
    if sys.platform != "darwin":
        return False
    try:
        importlib.import_module("coremltools.libcoremlpython")
    except ImportError:
        return False
    return True


def _functions(bundle: Bundle) -> Iterator[tuple[str, Function]]:
    """Each component's program, its weights not read yet."""
    from edgevlm.runtimes.mlprogram.package import read_function

    for name, component in bundle.functions.items():
        function = name if bundle.has_lengths(component.file) else None
        yield name, read_function(bundle.path / component.file, function)


def _require(package: str) -> None:
    # Found, not imported: `import coremltools` takes seconds, and off Apple only its generated protobuf is needed.
    if importlib.util.find_spec(package) is None:
        raise MissingDependency(package, extra="coreml")


def _check_boundary(component: BundledComponent, predictor: _Predictor, path: Path) -> None:
    spec = component.spec.implicit() if predictor.state_names else component.spec
    for kind, tensors, names in (
        ("inputs", spec.inputs, predictor.input_names),
        ("outputs", spec.outputs, predictor.output_names),
        ("states", spec.state, predictor.state_names),
    ):
        expected = {tensor.name for tensor in tensors}
        if expected != names:
            raise BundleError(
                f"{path}: the manifest says that {spec.name} has the {kind} {', '.join(sorted(expected))}, "
                f"the package has {', '.join(sorted(names)) or 'none'}"
            )
    told = {name: (each.layout, each.height, each.width) for name, each in component.pictures.items()}
    if told and told != predictor.pictures:
        raise BundleError(
            f"{path}: the manifest says that {spec.name} takes the pictures {_pictures(told)}, "
            f"the package takes {_pictures(predictor.pictures)}"
        )


def _pictures(found: Mapping[str, tuple[str, int, int]]) -> str:
    return ", ".join(f"{name} ({layout}, {height} x {width})" for name, (layout, height, width) in found.items())
