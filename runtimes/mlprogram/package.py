"""An .mlpackage, read into plain values without running anything.

All contact with the generated protobuf classes is in this module; type checkers cannot follow those, so they
are `Any` here and nowhere else.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm import schema
from edgevlm.errors import BundleError, MissingDependency, UnsupportedError
from edgevlm.runtimes.mlprogram.dtypes import BY_SPEC_CODE, DType, decode
from edgevlm.runtimes.mlprogram.opsets import SYSTEMS
from edgevlm.runtimes.mlprogram.program import (
    IMAGE_CHANNELS,
    Block,
    Constant,
    Described,
    Function,
    ImageLayout,
    Kind,
    Literals,
    Named,
    Operation,
    ValueType,
)
from edgevlm.runtimes.mlprogram.weights import WeightFile, require_file

_IMAGE_LAYOUTS: Mapping[int, ImageLayout] = {10: "grey", 20: "rgb", 30: "bgr", 40: "grey fp16"}  # ColorSpace
_KINDS: Mapping[str, Kind] = {
    "tensorType": "tensor",
    "listType": "list",
    "stateType": "state",
    "dictionaryType": "dictionary",
}
_STRING = 2  # DataType.STRING in MIL.proto
_FIELDS: Mapping[str, tuple[str, ...]] = {"f": ("floats", "doubles"), "b": ("bools",)}
"""Where a constant's elements are written, by NumPy's kind of its type; `ints` and `longInts` for whole numbers."""
_HINT = "the package is damaged or incomplete: copy or convert it again"


def read_function(path: Path, name: str | None = None) -> Function:
    """Reads one function of an `.mlpackage`; weights stay on disk until a `Constant` is read.

    Args:
        path: The package's folder.
        name: The function; None stands for the package's default one.

    Raises:
        BundleError: the package is damaged, or is no ML Program, or has no such function.
        UnsupportedError: the function is written in a version of MIL that is not known here.
        MissingDependency: coremltools is not installed.
    """
    model_file = _root_model(path)
    spec = _parse_spec(model_file)
    program = spec.mlProgram
    name = name or spec.description.defaultFunctionName or "main"
    if name not in program.functions:
        raise BundleError(f"{path}: no function {name!r}: it has {', '.join(sorted(program.functions)) or 'none'}")
    function = program.functions[name]
    known = [each.program_opset for each in SYSTEMS]
    if function.opset not in known:
        raise UnsupportedError(f"{path}: function {name!r}: expected opset {', '.join(known)}, got {function.opset!r}")
    if function.opset not in function.block_specializations:
        raise BundleError(f"{path}: function {name!r} has no body for its opset {function.opset!r}", hint=_HINT)
    body = _block(function.block_specializations[function.opset], _ValueReader(model_file.parent))
    return Function(
        name=name,
        opset=function.opset,
        inputs=tuple(_named(value) for value in function.inputs),
        operations=body.operations,
        outputs=body.outputs,
        described=_described(spec.description, name),
    )


def function_names(path: Path) -> tuple[str, ...]:
    """The functions of a package, the default one first.

    Raises:
        BundleError, MissingDependency: see `read_function`.
    """
    spec = _parse_spec(_root_model(path))
    first = spec.description.defaultFunctionName or "main"
    return tuple(sorted(spec.mlProgram.functions, key=lambda name: (name != first, name)))


def specification_version(path: Path) -> int:
    """The version of the format that a package asks for: 6 stands for iOS 15, 7 for iOS 16, and so on.

    Raises:
        BundleError, MissingDependency: see `read_function`.
    """
    return int(_parse_spec(_root_model(path)).specificationVersion)


def _root_model(path: Path) -> Path:
    if not path.exists():
        raise BundleError(f"{path}: there is no such package", hint="check the path")
    if path.is_file():
        raise BundleError(
            f"{path}: expected an .mlpackage folder, got a file", hint="an ML Program is saved as an .mlpackage"
        )
    manifest = path / "Manifest.json"
    require_file(manifest, path, "expected an .mlpackage folder with a Manifest.json, which is missing")
    content = schema.read_json(manifest, error=BundleError, hint=_HINT)
    try:
        relative: str = content["itemInfoEntries"][content["rootModelIdentifier"]]["path"]
        model_file = path / "Data" / relative
    except (KeyError, TypeError) as error:
        raise BundleError(
            f"{manifest}: expected a root model and its path, which it does not name", hint=_HINT
        ) from error
    require_file(model_file, path, "the manifest names this model file, which is missing")
    return model_file


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
        raise BundleError(f"{str(model_file)!r}: not a Core ML model specification: {error}", hint=_HINT) from error
    kind = spec.WhichOneof("Type")
    if kind != "mlProgram":
        hint = _HINT if kind is None else "convert the model again, as an ML Program: convert_to='mlprogram'"
        raise BundleError(
            f"{str(model_file)!r}: expected an ML Program, got {kind or 'an empty specification'}", hint=hint
        )
    return spec


def _described(description: Any, function: str) -> dict[str, Described]:
    of = next((each for each in description.functions if each.name == function), description)
    return {feature.name: _feature(feature) for feature in (*of.input, *of.output)}


def _feature(feature: Any) -> Described:
    kind = feature.type.WhichOneof("Type")
    if kind == "imageType":
        return _picture(feature.name, feature.type.imageType)
    if kind != "multiArrayType":
        return Described(plain=kind in ("stringType", "int64Type"))
    array = feature.type.multiArrayType
    default = array.WhichOneof("defaultOptionalValue")
    flexible = array.WhichOneof("ShapeFlexibility")
    return Described(
        sizes=_bounds(array.shapeRange.sizeRanges) if flexible == "shapeRange" else None,
        choices=tuple(tuple(each.shape) for each in array.enumeratedShapes.shapes),
        example=tuple(array.shape) or None,
        default=(float(getattr(array, default)) if default else 0.0) if feature.type.isOptional else None,
    )


def _picture(name: str, picture: Any) -> Described:
    if picture.colorSpace not in _IMAGE_LAYOUTS:
        raise UnsupportedError(f"{name!r}: a picture of colour space {picture.colorSpace}")
    layout = _IMAGE_LAYOUTS[picture.colorSpace]
    batch = (1, IMAGE_CHANNELS[layout])
    ranges = picture.imageSizeRange
    varies = picture.WhichOneof("SizeFlexibility") == "imageSizeRange"
    return Described(
        image=layout,
        sizes=_bounds((ranges.heightRange, ranges.widthRange), before=batch) if varies else None,
        choices=tuple((*batch, each.height, each.width) for each in picture.enumeratedSizes.sizes),
        example=(*batch, picture.height, picture.width),
    )


def _bounds(ranges: Iterable[Any], before: tuple[int, ...] = ()) -> tuple[tuple[int, int | None], ...]:
    """The least and the greatest size of each axis; a negative greatest one stands for no bound."""
    fixed = tuple((size, size) for size in before)
    return fixed + tuple((each.lowerBound, each.upperBound if each.upperBound >= 0 else None) for each in ranges)


def _block(block: Any, reader: _ValueReader) -> Block:
    return Block(
        inputs=tuple(_named(value) for value in block.inputs),
        operations=tuple(_operation(operation, reader) for operation in block.operations),
        outputs=tuple(block.outputs),
    )


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
    return Operation(
        operation.type,
        arguments,
        outputs=tuple(_named(value) for value in operation.outputs),
        blocks=tuple(_block(each, reader) for each in operation.blocks),
    )


def _named(value: Any) -> Named:
    return Named(value.name, _type(value.type))


def _type(value_type: Any) -> ValueType:
    which = value_type.WhichOneof("type")
    kind = _KINDS.get(which, "other")
    if kind == "list":
        value_type = value_type.listType.type
    elif kind == "state":
        value_type = value_type.stateType.wrappedType
    if value_type.WhichOneof("type") != "tensorType":
        return ValueType((which or "unknown").removesuffix("Type"), (), kind)
    tensor = value_type.tensorType
    if tensor.dataType == _STRING:
        return ValueType("string", (), kind)
    dtype = BY_SPEC_CODE.get(tensor.dataType)
    shape = tuple(
        int(each.constant.size) if each.WhichOneof("dimension") == "constant" else None for each in tensor.dimensions
    )
    unranked = tensor.rank < 0 or any(each.unknown.variadic for each in tensor.dimensions)
    if not unranked and tensor.rank != len(shape):
        raise BundleError(f"a type of {tensor.rank} axes with {len(shape)} sizes", hint=_HINT)
    return ValueType(dtype.name if dtype else f"type {tensor.dataType}", None if unranked else shape, kind)


class _ValueReader:
    """Reads values of one program: those in the spec and those in its weight files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, WeightFile] = {}

    def constant(self, value: Any) -> Constant:
        return Constant(_type(value.type), partial(self._read, value))

    def _read(self, value: Any) -> Literals:
        if value.type.WhichOneof("type") == "listType":
            return tuple(self._item(each) for each in value.immediateValue.list.values)
        if value.type.WhichOneof("type") != "tensorType":
            raise UnsupportedError(f"a constant that is no tensor, list or text: {value.type.WhichOneof('type')}")
        tensor = value.type.tensorType
        if tensor.dataType == _STRING:
            texts = value.immediateValue.tensor.strings.values
            if tensor.dimensions:
                return tuple(texts)
            if len(texts) != 1:
                raise BundleError(f"a text of {len(texts)} parts", hint=_HINT)
            return str(texts[0])
        dtype = BY_SPEC_CODE.get(tensor.dataType)
        if dtype is None:
            raise UnsupportedError(f"a constant of element type {tensor.dataType} (numbered as in MIL.proto)")
        shape = [each.constant.size for each in tensor.dimensions]
        count = math.prod(shape)
        if value.WhichOneof("value") == "blobFileValue":
            blob = value.blobFileValue
            elements = self._weights(blob.fileName).read(blob.offset, dtype, count)
        else:
            elements = _written(value.immediateValue.tensor, dtype, count)
        try:
            return elements.reshape(shape)
        except (OverflowError, ValueError) as error:
            raise BundleError(f"a constant of shape {shape}: {error}", hint=_HINT) from None

    def _item(self, value: Any) -> str | int:
        read = self._read(value)
        if isinstance(read, np.ndarray) and read.shape == () and read.dtype.kind in "iu":
            return int(read.item())
        if not isinstance(read, str):
            raise UnsupportedError("a list of other things than texts and whole numbers")
        return read

    def _weights(self, name: str) -> WeightFile:
        if name not in self._files:
            self._files[name] = WeightFile(self._folder, name.removeprefix("@model_path/"))
        return self._files[name]


def _written(content: Any, dtype: DType, count: int) -> NDArray[np.generic]:
    """The elements of a constant that stands in the specification, shape [count]."""
    field = content.WhichOneof("value")
    if field == "bytes":
        return decode(np.frombuffer(bytearray(content.bytes.values), np.uint8), dtype, count)
    kind = np.dtype(dtype.storage).kind
    if field not in (None, *_FIELDS.get(kind, ("ints", "longInts"))):
        raise BundleError(f"a constant of type {dtype.name} holds {field}", hint=_HINT)
    items = list(getattr(content, field).values) if field else []
    if len(items) != count:
        raise BundleError(f"a constant of {count} elements holds {len(items)}", hint=_HINT)
    try:
        with np.errstate(over="ignore"):  # beyond fp16 or fp32 is infinity
            return np.array(items, dtype.storage)
    except OverflowError as error:
        raise BundleError(f"a constant of type {dtype.name}: {error}", hint=_HINT) from None
