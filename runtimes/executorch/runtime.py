"""The ExecuTorch runtime, on its own C++ core through the wheel's bindings.

Only `torch` and the bindings are imported to run (221 MB resident); `executorch.runtime` would bring in the whole
compiler (354 MB). Reading a file's ops for `inspect` does import that.
"""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.integer_weights import StoredWeight
from edgevlm.bundle.manifest import BundledComponent
from edgevlm.bundle.spec import Array, ComponentSpec
from edgevlm.errors import BundleError, MissingDependency, TensorError, UnsupportedError
from edgevlm.runtimes.executorch.file import Method, count_ops, read_methods, stored_weights
from edgevlm.targets.boundary import find_component, validate_inputs, validate_threads
from edgevlm.targets.inspection import OpCount
from edgevlm.targets.runtime import SerialSession, TracedOp

if TYPE_CHECKING:
    from edgevlm.bundle.bundle import Bundle

# executorch/runtime/core/portable_type/scalar_type.h
_SCALAR_TYPES = {"int32": 3, "float32": 6}

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
        for component in bundle.functions.values():
            path = bundle.path / component.file
            if component.file not in programs:
                programs[component.file] = _load(bindings, path)
            _check_boundary(programs[component.file], component.spec, path)
        return ExecuTorchSession(
            {name: (component.spec, programs[component.file]) for name, component in bundle.functions.items()},
            bundle.components,
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

    def trace(self, bundle: Bundle, component: str, inputs: Mapping[str, Array]) -> tuple[TracedOp, ...]:
        """Runs one component once, rewritten so that it returns what it computes on the way.

        Raises:
            TensorError: there is no such component, or an input is not what its spec says.
            BundleError: the file is damaged.
            MissingDependency: executorch or torch is not installed.
        """
        bindings = _bindings()
        import torch

        from edgevlm.runtimes.executorch.tracing import with_intermediates

        found = find_component(dict(bundle.components), component)
        arrays = validate_inputs(found.spec, inputs)
        _load(bindings, bundle.path / found.file)
        content, ops = with_intermediates(bundle.path / found.file, component)
        try:
            program = bindings._load_program_from_buffer(
                content, program_verification=bindings.Verification.InternalConsistency
            )
            answers = program.load_method(component)([torch.tensor(array) for array in arrays.values()])
        except RuntimeError as error:
            raise BundleError(f"{component}: ExecuTorch cannot run it: {error}", hint="convert it again") from error
        return tuple(
            TracedOp(op.name, op.kind, op.reads, op.real(answer.numpy()))
            for op, answer in zip(ops, answers[len(answers) - len(ops) :], strict=True)
        )


class ExecuTorchSession(SerialSession[Any]):
    """An open ExecuTorch bundle, with the program of each component's file."""

    evidence = "host-runtime"

    def __init__(
        self, functions: Mapping[str, tuple[ComponentSpec, Any]], components: Mapping[str, BundledComponent]
    ) -> None:
        super().__init__(functions, components)
        self._methods: dict[str, Any] = {}

    def _compute(
        self, spec: ComponentSpec, program: Any, arrays: Mapping[str, Array]
    ) -> dict[str, NDArray[np.float32]]:
        import torch

        method = self._methods.get(spec.name) or self._load_method(spec.name, program)
        tensors = [torch.from_numpy(array if array.flags.writeable else array.copy()) for array in arrays.values()]
        try:
            answers = method(tensors)  # copies of the runtime's own memory
        except RuntimeError as error:
            raise TensorError(
                f"{spec.name}: the runtime refused to run: {error}", hint="token ids must be in the vocabulary"
            ) from error
        return {tensor.name: answer.numpy() for tensor, answer in zip(spec.outputs, answers, strict=True)}

    def close(self) -> None:
        super().close()
        self._methods.clear()
        _running.discard(self)

    def _load_method(self, component: str, program: Any) -> Any:
        _running.add(self)
        try:
            self._methods[component] = program.load_method(component)
        except RuntimeError as error:
            raise BundleError(
                f"{component}: ExecuTorch cannot load it: {error}", hint="convert the model again"
            ) from error
        return self._methods[component]


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


def _check_boundary(program: Any, spec: ComponentSpec, path: Path) -> None:
    names = [program.get_method_name(index) for index in range(program.num_methods())]
    if spec.name not in names:
        raise BundleError(f"{path}: expected a method {spec.name!r}, got {', '.join(names) or 'none'}")
    meta = program.method_meta(spec.name)
    for kind, tensors, count, tensor_meta in (
        ("input", spec.inputs, meta.num_inputs(), meta.input_tensor_meta),
        ("output", spec.outputs, meta.num_outputs(), meta.output_tensor_meta),
    ):
        found = [(tensor_meta(index).dtype(), tuple(tensor_meta(index).sizes())) for index in range(count)]
        if found != [(_SCALAR_TYPES[tensor.dtype], tensor.shape) for tensor in tensors]:
            expected = ", ".join(f"{tensor.dtype} {list(tensor.shape)}" for tensor in tensors)
            got = ", ".join(f"scalar type {dtype} {list(shape)}" for dtype, shape in found)
            raise BundleError(f"{path}: {spec.name}: expected the {kind}s {expected}, got {got}")
