"""A bundle's file of TFLite models: a `.tflite` is one, LiteRT-LM's container, a `.litertlm`, holds several."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from edgevlm.bundle.spec import ComponentSpec
from edgevlm.errors import BundleError, MissingDependency
from edgevlm.targets import litert_lm
from edgevlm.targets.litert_lm import Beside

_SUBGRAPHS_SLOT = 8  # Model's third field in the schema, after version and operator_codes: 4 + 2 * 2


def is_container(path: Path) -> bool:
    """Whether it is LiteRT-LM's."""
    return path.suffix == litert_lm.SUFFIX


def interpreter_class() -> Any:
    """LiteRT's, or its predecessor's.

    Raises:
        MissingDependency: neither ai-edge-litert nor tflite-runtime is installed.
    """
    for package in ("ai_edge_litert", "tflite_runtime"):
        try:
            return importlib.import_module(f"{package}.interpreter").Interpreter
        except ImportError:
            continue
    raise MissingDependency("ai-edge-litert", extra="tflite-device")


def require_schema() -> Any:
    """The flatbuffer's, which tflite-runtime lacks.

    Raises:
        MissingDependency: ai-edge-litert is not installed.
    """
    try:
        return importlib.import_module("ai_edge_litert.schema_py_generated")
    except ImportError:
        raise MissingDependency("ai-edge-litert", extra="tflite-device") from None


def contents(path: Path) -> tuple[bytes, ...]:
    """The models in the file."""
    if not is_container(path):
        return (path.read_bytes(),)
    return tuple(litert_lm.unpack(path).values())


def load(path: Path, threads: int | None) -> tuple[Any, ...]:
    """An interpreter of each model.

    Raises:
        BundleError: the file is damaged.
        MissingDependency: neither ai-edge-litert nor tflite-runtime is installed.
    """
    interpreter = interpreter_class()
    try:
        if is_container(path):
            models = [_checked(path, each) for each in contents(path)]
            return tuple(interpreter(model_content=each, num_threads=threads) for each in models)
        with path.open("rb") as file:
            _checked(path, file.read(8))
        return (interpreter(model_path=str(path), num_threads=threads),)
    except (OSError, ValueError, RuntimeError) as error:
        raise BundleError(f"{path}: not a loadable TFLite file: {error}", hint="convert the model again") from error


def _checked(path: Path, content: bytes) -> bytes:
    if content[4:8] != b"TFL3":
        raise BundleError(f"{path}: expected a TFLite file (TFL3), got {content[4:8]!r}", hint="convert it again")
    return content


def signature(interpreters: tuple[Any, ...], spec: ComponentSpec, path: Path, beside: Beside) -> Any:
    """The runner of a function, once its tensors are known to be those of the spec.

    Args:
        interpreters: Of the file.
        spec: The function's, by its name in the file.
        path: The file, for errors.
        beside: What a decoder in a container takes beside its rows.

    Raises:
        BundleError: there is no such function, or it takes or gives something else.
    """
    if is_container(path):
        spec = litert_lm.called(spec.name, spec, beside)
    found = next((each for each in interpreters if spec.name in each.get_signature_list()), None)
    if found is None:
        names = [name for each in interpreters for name in each.get_signature_list()]
        raise BundleError(f"{path}: expected a signature {spec.name!r}, got {', '.join(names) or 'none'}")
    runner = found.get_signature_runner(spec.name)
    for kind, tensors, details in (
        ("input", spec.inputs, runner.get_input_details()),
        ("output", spec.outputs, runner.get_output_details()),
    ):
        got = {name: (np.dtype(each["dtype"]).name, tuple(each["shape"].tolist())) for name, each in details.items()}
        expected = {tensor.name: (tensor.dtype, tensor.shape) for tensor in tensors}
        if got != expected:
            raise BundleError(f"{path}: {spec.name}: expected the {kind}s {expected}, got {got}")
    return runner


def alone(path: Path, spec: ComponentSpec, beside: Beside = litert_lm.AMONG_WORDS) -> tuple[bytes, bytes, int]:
    """A model with a function as its first subgraph; the model as it is; and the function's true subgraph.

    Python's interpreter tells of a file's first subgraph only, so the file's first entry in its table of subgraphs is
    pointed, in memory, at the function's.
    """
    interpreters = load(path, None)
    signature(interpreters, spec, path, beside)
    schema = require_schema()
    number = next(index for index, each in enumerate(interpreters) if spec.name in each.get_signature_list())
    content = contents(path)[number]
    data = bytearray(content)
    model = schema.Model.GetRootAs(data)
    signatures = (model.SignatureDefs(index) for index in range(model.SignatureDefsLength()))
    subgraph = next(each.SubgraphIndex() for each in signatures if each.SignatureKey() == spec.name.encode())
    table = model._tab
    first = table.Vector(table.Offset(_SUBGRAPHS_SLOT))
    wanted = table.Indirect(first + 4 * subgraph)
    data[first : first + 4] = (wanted - first).to_bytes(4, "little")  # offsets count from where they stand
    return bytes(data), content, subgraph
