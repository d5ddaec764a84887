"""The ExecuTorch runtime, on its own C++ core through the wheel's bindings.

Only `torch` and the bindings are imported to run (221 MB resident); `executorch.runtime` would bring in the whole
compiler (354 MB). Reading a file's ops for `inspect` does import that.
"""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.dialogue import DECODE, EMBEDDINGS, LOGITS, POSITIONS
from edgevlm.bundle.integer_weights import StoredWeight
from edgevlm.bundle.manifest import BundledComponent
from edgevlm.bundle.spec import Array, ComponentSpec, TensorSpec
from edgevlm.errors import BundleError, MissingDependency, TensorError, UnsupportedError
from edgevlm.runtimes.executorch import runner
from edgevlm.runtimes.executorch.file import Method, count_ops, read_methods, stored_weights
from edgevlm.targets.boundary import find_component, length_of, validate_inputs, validate_threads
from edgevlm.targets.inspection import Advice, OpCount
from edgevlm.targets.runtime import SerialSession, State, TracedOp

if TYPE_CHECKING:
    import torch

    from edgevlm.bundle.bundle import Bundle

# executorch/runtime/core/portable_type/scalar_type.h
_SCALAR_TYPES = {"int32": 3, "int64": 4, "float32": 6}
_INT64 = ("token_embedding", "text_decoder")
"""Methods that take ids and positions as ExecuTorch's runner gives them; see `edgevlm.converters.executorch.called`."""

# Sessions that hold a loaded method. Their delegates keep a pointer to the process's one thread pool, so a pool of
# another size may only be made while there are none: the process would abort.
_running: weakref.WeakSet[ExecuTorchSession] = weakref.WeakSet()


class ExecuTorchRuntime:
    """Opens bundles of one .pte whose methods are the components."""

    target = "executorch"

    def open(self, bundle: Bundle, *, threads: int | None = None) -> ExecuTorchSession:
        """Reads the program; a component's weights are packed when it first runs.

        Args:
            threads: CPU threads of the whole process; None leaves its pool as it is (at first one a core).

        Raises:
            BundleError: the file is damaged, or lacks a method or a tensor that the manifest names.
            UnsupportedError: a session that has run is open in this process with another number of threads.
            MissingDependency: executorch or torch is not installed.
        """
        validate_threads(threads)
        bindings = _bindings()
        if threads is not None:
            _set_threads(bindings, threads)
        programs: dict[str, Any] = {}
        for component in bundle.components.values():
            path = bundle.path / component.file
            if component.file not in programs:
                programs[component.file] = _load(bindings, path)
            _check_boundary(programs[component.file], component, path)
        return ExecuTorchSession(
            {name: (component.spec, programs[component.file]) for name, component in bundle.functions.items()},
            bundle.components,
            lambda component: _load(bindings, bundle.path / bundle.components[component].file),
        )

    def inspect(self, bundle: Bundle) -> dict[str, tuple[OpCount, ...]]:
        """The ops of each component: those inside XNNPACK's delegates, and the portable kernels around them.

        Raises:
            BundleError: the file is damaged.
            MissingDependency: executorch or torch is not installed.
        """
        return {name: count_ops(method) for name, method in _read_methods(bundle).items()}

    def stored_weights(self, bundle: Bundle) -> dict[str, tuple[StoredWeight, ...]]:
        """The integer weights of each component: in XNNPACK's delegates, and in int8 token embeddings beside them.

        Raises:
            BundleError: the file is damaged.
            MissingDependency: executorch or torch is not installed.
        """
        return {name: tuple(stored_weights(method)) for name, method in _read_methods(bundle).items()}

    def runner_name(self, bundle: Bundle) -> str | None:
        """MultimodalRunner; None where `decode` takes more than rows and positions, or takes them as a prefix."""
        decoder = bundle.components.get(DECODE)
        if decoder is None or decoder.spec.prefix:
            return None
        taken = tuple(tensor.name for tensor in decoder.spec.inputs)
        return runner.NAME if taken == (EMBEDDINGS, POSITIONS) else None

    def advice(self, bundle: Bundle) -> dict[str, tuple[Advice, ...]]:
        """What an app should know of MultimodalRunner, by component; nothing of a model that does not talk."""
        dialogue, image = bundle.manifest.dialogue, bundle.manifest.image
        if dialogue is None:
            return {}
        if bundle.components[DECODE].spec.prefix:
            return runner.advice_prefix()
        if self.runner_name(bundle) is None:
            return runner.advice_beside(dialogue)
        return runner.advice(dialogue, (image.height, image.width))

    def open_runner(self, bundle: Bundle) -> runner.MultimodalRunner:
        """See `edgevlm.targets.app_runner.RunnerTarget`.

        Raises:
            MissingDependency: executorch or torch is not installed.
        """
        _bindings()
        decoder = bundle.components[DECODE]
        vocabulary = next(tensor.shape[-1] for tensor in decoder.spec.outputs if tensor.name == LOGITS)
        return runner.MultimodalRunner(bundle.path / decoder.file, vocabulary, decoder.spec.lengths[-1])

    def trace(self, bundle: Bundle, component: str, inputs: Mapping[str, Array]) -> tuple[TracedOp, ...]:
        """Runs one component once, rewritten so that it returns what it computes on the way.

        Raises:
            TensorError: there is no such component, or an input is not what its spec says.
            BundleError: the file is damaged.
            MissingDependency: executorch or torch is not installed.
        """
        bindings = _bindings()
        from edgevlm.runtimes.executorch.tracing import with_intermediates

        found = find_component(dict(bundle.components), component)
        arrays = validate_inputs(found.spec, inputs)
        name = found.function(length_of(found.spec, arrays))
        _load(bindings, bundle.path / found.file)
        content, ops = with_intermediates(bundle.path / found.file, name)
        try:
            program = bindings._load_program_from_buffer(
                content, program_verification=bindings.Verification.InternalConsistency
            )
            answers = program.load_method(name)(_tensors(name, _taken(arrays) if found.spec.state else arrays))
        except RuntimeError as error:
            raise BundleError(f"{component}: ExecuTorch cannot run it: {error}", hint="convert it again") from error
        return tuple(
            TracedOp(op.name, op.kind, op.reads, op.real(answer.numpy()))
            for op, answer in zip(ops, answers[len(answers) - len(ops) :], strict=True)
        )


@dataclass(eq=False)
class KeptState(State):
    """A state that a method of its own keeps.

    Attributes:
        method: Which; no other one of its program keeps a state.
        filled: How many positions there are; what lies behind them is of an earlier dialogue.
    """

    method: Any = None
    filled: int = 0


class ExecuTorchSession(SerialSession[Any]):
    """An open ExecuTorch bundle, with the program of each component's file.

    Args:
        functions: Its spec and its program, of each method.
        components: What is asked.
        load: Reads the program of a component once more, for a state of its own.
    """

    evidence = "host-runtime"

    def __init__(
        self,
        functions: Mapping[str, tuple[ComponentSpec, Any]],
        components: Mapping[str, BundledComponent],
        load: Callable[[str], Any],
    ) -> None:
        super().__init__(functions, components)
        self._methods: dict[str, Any] = {}
        self._load = load
        self._free: list[Any] = []
        """Methods whose state nobody holds any more."""
        self._lent = False
        """Whether a state has the session's own program, which keeps one of a component."""

    def make_state(self, component: str) -> State:
        """See `SerialSession.make_state`. A second one at a time takes the memory of the whole file again."""
        name = self._components[component].function(1) if self._stateful(component) else ""
        if self._free:
            method = self._free.pop()
        else:
            program = self._load(component) if self._lent else self._functions[name][1]
            self._lent, method = True, self._load_method(name, program)
        state = KeptState(component, {}, id(self), method=method)
        weakref.finalize(state, self._free.append, method)
        return state

    def _compute(
        self, spec: ComponentSpec, program: Any, arrays: Mapping[str, Array]
    ) -> dict[str, NDArray[np.float32]]:
        if spec.name not in self._methods:
            self._methods[spec.name] = self._load_method(spec.name, program)
        return _run(self._methods[spec.name], spec, arrays)

    def _compute_on(
        self, state: State, spec: ComponentSpec, program: Any, arrays: Mapping[str, Array]
    ) -> dict[str, NDArray[np.float32]]:
        assert isinstance(state, KeptState)
        places = arrays[POSITIONS][0]
        first, count = int(places[0]), int((places >= 0).sum())
        if not 0 <= first <= state.filled or not np.array_equal(places[:count], np.arange(first, first + count)):
            raise TensorError(
                f"{spec.name}: expected positions that go on from one of 0 to {state.filled}, and -1 behind them, got "
                f"{places[:8].tolist()}"
            )
        answers = _run(state.method, spec.implicit(), _taken(arrays))
        state.filled = first + count
        return {name: rows[:, 0] if name == LOGITS else rows for name, rows in answers.items()}

    def close(self) -> None:
        super().close()
        self._methods.clear()
        self._free.clear()
        _running.discard(self)

    def _load_method(self, name: str, program: Any) -> Any:
        _running.add(self)
        try:
            return program.load_method(name)
        except RuntimeError as error:
            raise BundleError(f"{name}: ExecuTorch cannot load it: {error}", hint="convert the model again") from error


def _taken(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """What a method that keeps a state takes: rows without padding, as many as there are, and their positions."""
    places = arrays[POSITIONS][0]
    count = int((places >= 0).sum())
    return {**arrays, EMBEDDINGS: arrays[EMBEDDINGS][:, :count], POSITIONS: places[:count]}


def _run(method: Any, spec: ComponentSpec, arrays: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
    try:
        answers = method(_tensors(spec.name, arrays))  # copies of the runtime's own memory
    except RuntimeError as error:
        raise TensorError(
            f"{spec.name}: the runtime refused to run: {error}", hint="token ids must be in the vocabulary"
        ) from error
    return {tensor.name: answer.numpy() for tensor, answer in zip(spec.outputs, answers, strict=True)}


def _tensors(method: str, arrays: Mapping[str, Array]) -> list[torch.Tensor]:
    import torch

    tensors = [torch.from_numpy(array if array.flags.writeable else array.copy()) for array in arrays.values()]
    if method not in _INT64:
        return tensors
    return [tensor.long() if tensor.dtype == torch.int32 else tensor.contiguous() for tensor in tensors]


def _read_methods(bundle: Bundle) -> dict[str, Method]:
    """What the file holds of each component, once the runtime has checked it."""
    bindings = _bindings()
    methods: dict[str, dict[str, Method]] = {}
    for file in {component.file for component in bundle.components.values()}:
        _load(bindings, bundle.path / file)
        methods[file] = read_methods(bundle.path / file)
    return {name: methods[component.file][name] for name, component in bundle.functions.items()}


def _bindings() -> Any:
    for package in ("torch", "executorch"):
        try:
            importlib.import_module(package)  # the bindings find torch's libraries only once torch is loaded
        except ImportError:
            raise MissingDependency(package, extra="executorch") from None
    bindings = importlib.import_module("executorch.extension.pybindings._C")
    importlib.import_module("executorch.kernels.quantized")  # registers the lookup in int8 token embeddings
    return bindings


def _set_threads(bindings: Any, threads: int) -> None:
    current = bindings._threadpool_get_thread_count()
    if threads == current:
        return
    if _running:
        raise UnsupportedError(
            f"threads: expected {current}, as in the session that is open, got {threads}: "
            "ExecuTorch has one thread pool a process",
            hint="close that session first, or use a process of its own",
        )
    bindings._unsafe_reset_threadpool(threads)


def _load(bindings: Any, path: Path) -> Any:
    """The program, its flatbuffer verified: the default is not to look, and to crash on damage."""
    try:
        with path.open("rb") as file:
            header = file.read(8)
        if header[4:8] != b"ET12":
            raise BundleError(
                f"{path}: expected an ExecuTorch program (ET12), got {header[4:8]!r}", hint="convert the model again"
            )
        return bindings._load_program(
            str(path),
            enable_etdump=False,
            debug_buffer_size=0,
            program_verification=bindings.Verification.InternalConsistency,
        )
    except (OSError, RuntimeError) as error:
        raise BundleError(
            f"{path}: not a loadable ExecuTorch program: {error}", hint="convert the model again"
        ) from error


def _check_boundary(program: Any, component: BundledComponent, path: Path) -> None:
    """Refuses a program without the component's method, or whose method takes or gives something else."""
    spec, name = component.spec, component.function(component.spec.lengths[-1] if component.spec.lengths else 1)
    names = [program.get_method_name(index) for index in range(program.num_methods())]
    if name not in names:
        raise BundleError(f"{path}: expected a method {name!r}, got {', '.join(names) or 'none'}")
    meta = program.method_meta(name)
    for kind, tensors, count, tensor_meta in (
        ("input", spec.inputs, meta.num_inputs(), meta.input_tensor_meta),
        ("output", spec.outputs, meta.num_outputs(), meta.output_tensor_meta),
    ):
        found = [(tensor_meta(index).dtype(), tuple(tensor_meta(index).sizes())) for index in range(count)]
        expected = [_called(tensor, name) for tensor in tensors]
        longest = spec.lengths[-1] if spec.lengths else 1
        if len(found) != len(expected) or not all(map(partial(_agrees, longest), expected, found)):
            named = ", ".join(f"scalar type {dtype} {list(shape)}" for dtype, shape in expected)
            got = ", ".join(f"scalar type {dtype} {list(shape)}" for dtype, shape in found)
            raise BundleError(f"{path}: {name}: expected the {kind}s {named}, got {got}")


def _called(tensor: TensorSpec, method: str) -> tuple[int, tuple[int, ...]]:
    """The scalar type and the sizes that a method has for a tensor; -1 is at least the longest of the lengths."""
    dtype = _SCALAR_TYPES["int64" if method in _INT64 and tensor.dtype == "int32" else tensor.dtype]
    if method in _INT64 and tensor.name == POSITIONS:
        return dtype, tensor.shape[1:]
    if method in _INT64 and tensor.name == LOGITS:
        return dtype, (1, *tensor.shape)
    return dtype, tensor.shape


def _agrees(longest: int, expected: tuple[int, tuple[int, ...]], found: tuple[int, tuple[int, ...]]) -> bool:
    sizes = zip(expected[1], found[1], strict=False)
    same = all(size == got or (size == -1 and got >= longest) for size, got in sizes)
    return expected[0] == found[0] and len(expected[1]) == len(found[1]) and same
