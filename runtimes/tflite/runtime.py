"""The TFLite runtime: LiteRT's interpreter, or its predecessor `tflite_runtime` where only that is installed.

LiteRT's newer `CompiledModel` is left alone: it accepts a short buffer and a wrong dtype, and a truncated file
ends the process.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.integer_weights import StoredWeight
from edgevlm.bundle.spec import Array, ComponentSpec
from edgevlm.errors import BundleError, MissingDependency, TensorError
from edgevlm.targets.boundary import find_component, validate_inputs, validate_threads
from edgevlm.targets.inspection import OpCount
from edgevlm.targets.runtime import SerialSession, TracedOp

if TYPE_CHECKING:
    from edgevlm.bundle.bundle import Bundle

_SUBGRAPHS_SLOT = 8  # Model's third field in the schema, after version and operator_codes: 4 + 2 * 2
_WEIGHTED = {"FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "EMBEDDING_LOOKUP"}
_DTYPES = {"float32": "fp32", "float16": "fp16", "bool_": "bool"}


class TFLiteRuntime:
    """Opens bundles of one .tflite whose signatures are the components."""

    target = "tflite"

    def open(self, bundle: Bundle, *, threads: int | None = None) -> TFLiteSession:
        """Loads the file; memory for a component is allocated when it first runs.

        Args:
            threads: CPU threads; None leaves the choice to the interpreter, which takes one.

        Raises:
            BundleError: the file is damaged, or lacks a signature or a tensor that the manifest names.
            MissingDependency: neither ai-edge-litert nor tflite-runtime is installed.
        """
        validate_threads(threads)
        interpreters: dict[str, Any] = {}
        runners: dict[str, tuple[ComponentSpec, Any]] = {}
        for name, component in bundle.functions.items():
            if component.file not in interpreters:
                interpreters[component.file] = _load(bundle.path / component.file, threads)
            runner = _signature(interpreters[component.file], component.spec, bundle.path / component.file)
            runners[name] = (component.spec, runner)
        return TFLiteSession(runners, bundle.components)

    def inspect(self, bundle: Bundle) -> dict[str, tuple[OpCount, ...]]:
        """The ops of each component, and which of them XNNPACK takes on this machine.

        Raises:
            BundleError: the file is damaged.
            MissingDependency: neither ai-edge-litert nor tflite-runtime is installed.
        """
        return {
            name: _count_ops(_operators(bundle.path / component.file, component.spec))
            for name, component in bundle.functions.items()
        }

    def stored_weights(self, bundle: Bundle) -> dict[str, tuple[StoredWeight, ...]]:
        """The integer weights of each component, read from the file.

        Raises:
            BundleError: the file is damaged.
            MissingDependency: ai-edge-litert is not installed.
        """
        found: dict[str, dict[str, tuple[StoredWeight, ...]]] = {}
        for file in {component.file for component in bundle.components.values()}:
            _load(bundle.path / file, None)
            _require_schema()
            from edgevlm.runtimes.tflite.weights import stored_weights

            found[file] = stored_weights(bundle.path / file)
        return {name: found[component.file][name] for name, component in bundle.functions.items()}

    def trace(self, bundle: Bundle, component: str, inputs: Mapping[str, Array]) -> tuple[TracedOp, ...]:
        """Runs one component once on the interpreter's own kernels: XNNPACK keeps to itself what it computes.

        Raises:
            TensorError: there is no such component, or an input is not what its spec says.
            BundleError: the file is damaged.
            MissingDependency: ai-edge-litert is not installed.
        """
        found = find_component(dict(bundle.components), component)
        arrays = validate_inputs(found.spec, inputs)
        content, _ = _only(bundle.path / found.file, found.spec)
        module = importlib.import_module(_interpreter_class().__module__)
        interpreter = module.Interpreter(
            model_content=content,
            num_threads=1,
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        interpreter.allocate_tensors()
        for detail, array in zip(interpreter.get_input_details(), arrays.values(), strict=True):
            interpreter.set_tensor(detail["index"], array)
        interpreter.invoke()
        return tuple(_traced(interpreter))


class TFLiteSession(SerialSession[Any]):
    """An open TFLite bundle, with the interpreter's runner of each signature."""

    evidence = "host-runtime"

    def _compute(self, spec: ComponentSpec, runner: Any, arrays: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
        try:
            answers: dict[str, NDArray[np.float32]] = runner(**arrays)
        except (RuntimeError, ValueError) as error:
            raise TensorError(
                f"{spec.name}: the interpreter refused to run: {error}", hint="token ids must be in the vocabulary"
            ) from error
        return answers


def _load(path: Path, threads: int | None) -> Any:
    interpreter = _interpreter_class()
    try:
        with path.open("rb") as file:
            header = file.read(8)
        if header[4:8] != b"TFL3":
            raise BundleError(f"{path}: expected a TFLite file (TFL3), got {header[4:8]!r}", hint="convert it again")
        return interpreter(model_path=str(path), num_threads=threads)
    except (OSError, ValueError, RuntimeError) as error:
        raise BundleError(f"{path}: not a loadable TFLite file: {error}", hint="convert the model again") from error


def _interpreter_class() -> Any:
    for package in ("ai_edge_litert", "tflite_runtime"):
        try:
            return importlib.import_module(f"{package}.interpreter").Interpreter
        except ImportError:
            continue
    raise MissingDependency("ai-edge-litert", extra="tflite-device")


def _signature(interpreter: Any, spec: ComponentSpec, path: Path) -> Any:
    """The runner of a component, once its tensors are known to be those of the spec."""
    signatures = interpreter.get_signature_list()
    if spec.name not in signatures:
        raise BundleError(f"{path}: expected a signature {spec.name!r}, got {', '.join(signatures) or 'none'}")
    runner = interpreter.get_signature_runner(spec.name)
    for kind, tensors, details in (
        ("input", spec.inputs, runner.get_input_details()),
        ("output", spec.outputs, runner.get_output_details()),
    ):
        found = {name: (np.dtype(each["dtype"]).name, tuple(each["shape"].tolist())) for name, each in details.items()}
        expected = {tensor.name: (tensor.dtype, tensor.shape) for tensor in tensors}
        if found != expected:
            raise BundleError(f"{path}: {spec.name}: expected the {kind}s {expected}, got {found}")
    return runner


def _require_schema() -> Any:
    try:
        return importlib.import_module("ai_edge_litert.schema_py_generated")
    except ImportError:
        raise MissingDependency("ai-edge-litert", extra="tflite-device") from None


def _traced(interpreter: Any) -> Iterator[TracedOp]:
    tensors = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
    computed = {detail["index"] for detail in interpreter.get_input_details()}
    for op in interpreter._get_ops_details():
        for index in map(int, op["outputs"]):
            detail = tensors[index]
            scale, zero_point = detail["quantization"]
            value = interpreter.get_tensor(index).astype(np.float32)
            yield TracedOp(
                name=f"tensor {index}",
                kind=op["op_name"],
                reads=tuple(f"tensor {each}" for each in map(int, op["inputs"]) if each in computed),
                value=np.asarray((value - zero_point) * scale if scale else value, np.float32),
                origin=detail["name"],
            )
            computed.add(index)


def _only(path: Path, spec: ComponentSpec) -> tuple[bytes, int]:
    """A file's bytes with a component as the first subgraph, and the subgraph's true index.

    Python's interpreter tells of a file's first subgraph only, so the file's first entry in its table of subgraphs is
    pointed, in memory, at the component's.
    """
    _signature(_load(path, None), spec, path)
    schema = _require_schema()
    data = bytearray(path.read_bytes())
    model = schema.Model.GetRootAs(data)
    signatures = (model.SignatureDefs(index) for index in range(model.SignatureDefsLength()))
    subgraph = next(each.SubgraphIndex() for each in signatures if each.SignatureKey() == spec.name.encode())
    table = model._tab
    first = table.Vector(table.Offset(_SUBGRAPHS_SLOT))
    wanted = table.Indirect(first + 4 * subgraph)
    data[first : first + 4] = (wanted - first).to_bytes(4, "little")  # offsets count from where they stand
    return bytes(data), subgraph


def _operators(path: Path, spec: ComponentSpec) -> list[dict[str, Any]]:
    """The interpreter's own account of a component's ops after delegation, and what the file stores weights as."""
    content, subgraph = _only(path, spec)
    interpreter = _interpreter_class()(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    operators: list[dict[str, Any]] = interpreter._get_ops_details()
    schema = _require_schema()
    graph = schema.Model.GetRootAs(path.read_bytes()).Subgraphs(subgraph)
    integers = {schema.TensorType.INT8: "int8", schema.TensorType.INT4: "int4"}
    for op in operators:
        weighted = op["op_name"] in _WEIGHTED and len(op["inputs"]) > 1
        op["weights"] = integers.get(graph.Tensors(int(op["inputs"][1])).Type(), "") if weighted else ""
    return operators


def _count_ops(ops: list[dict[str, Any]]) -> tuple[OpCount, ...]:
    """One row per kind, type and place.

    A delegate replaces ops in the plan and leaves them in the list, so what it took is found by walking from its
    outputs back to its inputs.
    """
    delegates = [op for op in ops if op["op_name"] == "DELEGATE"]
    originals = [op for op in ops if op["op_name"] != "DELEGATE"]
    producers = {int(tensor): op for op in originals for tensor in op["outputs"]}
    delegated: set[int] = set()
    for delegate in delegates:
        borders = {int(tensor) for tensor in delegate["inputs"]}
        pending = [int(tensor) for tensor in delegate["outputs"]]
        while pending:
            op = producers.get(pending.pop())
            if op is not None and op["index"] not in delegated:
                delegated.add(op["index"])
                pending += [int(tensor) for tensor in op["inputs"] if int(tensor) not in borders]
    rows = Counter(
        (op["op_name"], _dtype(op), "xnnpack" if op["index"] in delegated else "builtin", op["weights"])
        for op in originals
    )
    return tuple(OpCount(kind, count, *rest) for (kind, *rest), count in sorted(rows.items()))


def _dtype(op: dict[str, Any]) -> str:
    """The type that an op computes in: its result's, or its operand's where that is the point of the op."""
    if op["weights"] and op["op_name"] != "EMBEDDING_LOOKUP":
        return "int8"  # float inputs of such an op are quantised as they come
    types: list[str] = [np.dtype(each).name for each in op["result_types"]]
    if op["op_name"] == "DEQUANTIZE" or types[0].startswith("bool"):
        types = [np.dtype(each).name for each in op["operand_types"]]
    return _DTYPES.get(types[0], types[0])
