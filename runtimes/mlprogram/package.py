"""An .mlpackage as plain values: what is in its manifest and spec, without running anything.

All contact with the generated protobuf classes is in this module; type checkers cannot follow those, so they
are `Any` here and nowhere else.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgevlm.errors import BundleError, MissingDependency, UnsupportedError
from edgevlm.interfaces import OpCount
from edgevlm.runtimes.mlprogram.dtypes import BY_SPEC_CODE, decode
from edgevlm.runtimes.mlprogram.weights import WeightFile

ImageLayout = Literal["rgb", "bgr", "grey"]
_IMAGE_LAYOUTS: Mapping[int, ImageLayout] = {10: "grey", 20: "rgb", 30: "bgr", 40: "grey"}  # ColorSpace in the spec
_STRING = 2  # DataType.STRING in MIL.proto
_HINT = "the package is damaged or incomplete: copy or convert it again"


@dataclass(frozen=True)
class TensorType:
    """Element type by MIL's name and shape, None where a size is known only at run time.

    What is no tensor has the kind of type as its dtype (`string`, `list`, `state`, ...) and no shape.
    """

    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class NamedTensor:
    """A tensor that a function takes or an op produces."""

    name: str
    type: TensorType


@dataclass(frozen=True)
class Constant:
    """A value written in the program; `read` loads it: an array of the type's shape, or a text."""

    type: TensorType
    read: Callable[[], NDArray[np.generic] | str]


@dataclass(frozen=True)
class Operation:
    """One op. An argument is one or more names of earlier results or constants written in place."""

    kind: str
    arguments: Mapping[str, tuple[str | Constant, ...]]
    outputs: tuple[NamedTensor, ...]

    @property
    def name(self) -> str:
        """Its first result's name, by which Core ML's own tools call it."""
        return self.outputs[0].name if self.outputs else ""


@dataclass(frozen=True)
class Function:
    """One function of a program, in the order in which its ops run."""

    name: str
    opset: str
    inputs: tuple[NamedTensor, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]
    images: Mapping[str, ImageLayout]
    """Which inputs the model description declares as pictures, and their channel order."""


def read_function(path: Path, name: str | None = None) -> Function:
    """Reads one function of an `.mlpackage`; weights stay on disk until a `Constant` is read.

    Args:
        path: The package's folder.
        name: The function; None stands for the package's default one.

    Raises:
        BundleError: the package is damaged, or is no ML Program, or has no such function.
        MissingDependency: coremltools is not installed.
    """
    model_file = _root_model(path)
    spec = _parse_spec(model_file)
    program = spec.mlProgram
    name = name or spec.description.defaultFunctionName or "main"
    if name not in program.functions:
        raise BundleError(f"{path}: no function {name!r}: it has {', '.join(sorted(program.functions)) or 'none'}")
    function = program.functions[name]
    if function.opset not in function.block_specializations:
        raise BundleError(f"{path}: function {name!r} has no body for its opset {function.opset!r}", hint=_HINT)
    block = function.block_specializations[function.opset]
    reader = _ValueReader(model_file.parent)
    return Function(
        name=name,
        opset=function.opset,
        inputs=tuple(_named_tensor(value) for value in function.inputs),
        operations=tuple(_operation(operation, reader) for operation in block.operations),
        outputs=tuple(block.outputs),
        images=_images(spec.description, name),
    )


def count_ops(function: Function) -> tuple[OpCount, ...]:
    """How many ops of each kind and result type a function has; constants are not counted, but the
    `constexpr_` ops that decompress weights are."""
    counts: Counter[tuple[str, str, str]] = Counter()
    stored: dict[str, str] = {}
    for operation in function.operations:
        if operation.kind == "const":
            if operation.outputs:
                stored[operation.name] = operation.outputs[0].type.dtype
            continue
        of = [stored.get(name, "") for name in _names(operation)]
        if operation.kind.startswith("constexpr_"):
            stored[operation.name] = _stored_type(operation, of)
            weights = ""
        else:
            # A zero point of activations is an int8 constant as well, and no weight.
            reads = operation.kind not in ("quantize", "dequantize")
            weights = next((each for each in of if reads and each.startswith(_COMPRESSED)), "")
        counts[operation.kind, operation.outputs[0].type.dtype if operation.outputs else "none", weights] += 1
    return tuple(
        OpCount(kind, count, dtype, runs_on="evaluator", weights=weights)
        for (kind, dtype, weights), count in sorted(counts.items())
    )


_COMPRESSED = ("int4", "int8", "palette", "sparse")


def _names(operation: Operation) -> list[str]:
    """The earlier results that an op reads."""
    return [each for argument in operation.arguments.values() for each in argument if isinstance(each, str)]


def _stored_type(operation: Operation, of: list[str]) -> str:
    """What the result of a `constexpr_` op is stored as.

    Args:
        operation: The op.
        of: Types of the constants that it reads by name.
    """
    here = [
        each.type.dtype for argument in operation.arguments.values() for each in argument if not isinstance(each, str)
    ]
    integers = next((each for each in (*here, *of) if each in ("int8", "int4")), "int8")
    if operation.kind == "constexpr_lut_to_dense":
        entries = next(iter(operation.arguments["lut"]))
        size = entries.type.shape[0] if not isinstance(entries, str) else None
        return f"palette-{(size - 1).bit_length()}" if size else "palette"
    if operation.kind.startswith("constexpr_sparse"):
        return (
            next((each for each in of if each.startswith("sparse")), "sparse")
            if "to_dense" in operation.kind
            else (f"sparse {integers}")
        )
    return integers


def _root_model(path: Path) -> Path:
    manifest = path / "Manifest.json"
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        relative: str = content["itemInfoEntries"][content["rootModelIdentifier"]]["path"]
        model_file = path / "Data" / relative
    except FileNotFoundError:
        raise BundleError(f"{path}: expected an .mlpackage folder with a Manifest.json, which is missing") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{manifest}: not readable as JSON: {error}", hint=_HINT) from error
    except (KeyError, TypeError) as error:
        raise BundleError(f"{manifest}: names no root model ({error!r})", hint=_HINT) from error
    _require_inside(model_file, path)
    if not model_file.is_file():
        raise BundleError(f"{model_file}: the manifest names this model file, which is missing", hint=_HINT)
    return model_file


def _require_inside(file: Path, folder: Path) -> None:
    if not file.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"{file}: lies outside the package {folder}, which no sound package asks for")


def _model_class() -> Any:
    """coremltools' generated class of a `Model` message, imported without the rest of coremltools.

    `import coremltools` brings in its converters and takes seconds; the generated modules need protobuf alone.
    """
    package = "_edgevlm_coreml_proto"
    if package not in sys.modules:
        found = importlib.util.find_spec("coremltools")  # finds, and does not import
        if found is None or found.origin is None:
            raise MissingDependency("coremltools", extra="coreml")
        generated = ModuleType(package)
        generated.__path__ = [str(Path(found.origin).parent / "proto")]
        sys.modules[package] = generated
    return importlib.import_module(f"{package}.Model_pb2").Model


def _parse_spec(model_file: Path) -> Any:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    spec: Any = _model_class()()
    try:
        spec.ParseFromString(model_file.read_bytes())
    except (OSError, DecodeError) as error:
        raise BundleError(f"{model_file}: not a Core ML model specification: {error}", hint=_HINT) from error
    kind = spec.WhichOneof("Type")
    if kind != "mlProgram":
        raise BundleError(f"{model_file}: expected an ML Program, got {kind or 'an empty specification'}", hint=_HINT)
    return spec


def _images(description: Any, function: str) -> dict[str, ImageLayout]:
    described = next((each for each in description.functions if each.name == function), description)
    images: dict[str, ImageLayout] = {}
    for feature in described.input:
        if feature.type.WhichOneof("Type") == "imageType":
            code = feature.type.imageType.colorSpace
            if code not in _IMAGE_LAYOUTS:
                raise UnsupportedError(f"input {feature.name!r}: a picture of colour space {code}")
            images[feature.name] = _IMAGE_LAYOUTS[code]
    return images


def _operation(operation: Any, reader: _ValueReader) -> Operation:
    arguments: dict[str, tuple[str | Constant, ...]] = {
        name: tuple(
            reader.constant(binding.value) if binding.WhichOneof("binding") == "value" else binding.name
            for binding in argument.arguments
        )
        for name, argument in operation.inputs.items()
    }
    # What stands among the attributes is an argument as well, but for the op's own name.
    arguments |= {name: (reader.constant(value),) for name, value in operation.attributes.items() if name != "name"}
    return Operation(operation.type, arguments, tuple(_named_tensor(value) for value in operation.outputs))


def _named_tensor(value: Any) -> NamedTensor:
    return NamedTensor(value.name, _tensor_type(value.type))


def _tensor_type(value_type: Any) -> TensorType:
    kind = value_type.WhichOneof("type")
    if kind != "tensorType":
        return TensorType((kind or "unknown").removesuffix("Type"), ())
    tensor = value_type.tensorType
    if tensor.dataType == _STRING:
        return TensorType("string", ())
    dtype = BY_SPEC_CODE.get(tensor.dataType)
    shape = tuple(
        int(each.constant.size) if each.WhichOneof("dimension") == "constant" else None for each in tensor.dimensions
    )
    return TensorType(dtype.name if dtype else f"type {tensor.dataType}", shape)


class _ValueReader:
    """Reads values of one program: those in the spec and those in its weight files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, WeightFile] = {}

    def constant(self, value: Any) -> Constant:
        return Constant(_tensor_type(value.type), partial(self._read, value))

    def _read(self, value: Any) -> NDArray[np.generic] | str:
        tensor = value.type.tensorType
        if value.type.WhichOneof("type") != "tensorType" or (tensor.dataType == _STRING and tensor.dimensions):
            raise UnsupportedError(f"a constant that is no tensor and no text: {value.type.WhichOneof('type')}")
        if tensor.dataType == _STRING:
            return str(value.immediateValue.tensor.strings.values[0])
        dtype = BY_SPEC_CODE.get(tensor.dataType)
        if dtype is None:
            raise UnsupportedError(f"a constant of element type {tensor.dataType} (numbered as in MIL.proto)")
        shape = [each.constant.size for each in tensor.dimensions]
        count = int(np.prod(shape, dtype=np.int64))
        if value.WhichOneof("value") == "blobFileValue":
            blob = value.blobFileValue
            return self._weights(blob.fileName).read(blob.offset, dtype, count).reshape(shape)
        content = value.immediateValue.tensor
        field = content.WhichOneof("value")
        if field == "bytes":
            return decode(np.frombuffer(bytearray(content.bytes.values), np.uint8), dtype, count).reshape(shape)
        items = list(getattr(content, field).values) if field else []
        if len(items) != count:
            raise BundleError(f"a constant of shape {shape} holds {len(items)} elements", hint=_HINT)
        return np.array(items, dtype.storage).reshape(shape)

    def _weights(self, name: str) -> WeightFile:
        if name not in self._files:
            path = self._folder / name.removeprefix("@model_path/")
            _require_inside(path, self._folder)
            self._files[name] = WeightFile(path)
        return self._files[name]
