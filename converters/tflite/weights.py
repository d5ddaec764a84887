"""Puts NNCF's integers into a TFLite file, in place of the floats that they stand for.

LiteRT's own quantizer would find new scales, equal to NNCF's but for their last bits. So the program is converted in
floats, and each constant of the file that equals `scale * integers` of a decided weight is stored as those integers,
with those scales. A constant that the converter has changed is not found; the proof from the shipped file says which.

Format: schema.fbs of https://github.com/google-ai-edge/LiteRT; op versions: op_version.cc and runtime_version.cc of
TensorFlow. The versions matter: a kernel that is too old for scales per channel answers NaN without a word, and an
older runtime refuses a version that it does not know.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema  # type: ignore[import-untyped]
from ai_edge_litert.tools import flatbuffer_utils  # type: ignore[import-untyped]
from numpy.typing import NDArray

from edgevlm.converters.integers import IntegerWeight
from edgevlm.converters.tflite.footprint import INTEGER_RUNTIMES

_Op = schema.BuiltinOperator
_Type = schema.TensorType


@dataclass(frozen=True)
class _Kernel:
    """An op that widens integer weights itself.

    Attributes:
        version: The op's first with a scale per channel for int8 weights beside float activations.
        runtime: The first TensorFlow Lite that has it.
    """

    version: int
    runtime: str


_WIDENING_KERNELS = {
    _Op.FULLY_CONNECTED: _Kernel(12, INTEGER_RUNTIMES["linear"]),
    _Op.CONV_2D: _Kernel(5, INTEGER_RUNTIMES["conv2d"]),
    _Op.DEPTHWISE_CONV_2D: _Kernel(6, INTEGER_RUNTIMES["depthwise"]),
    _Op.EMBEDDING_LOOKUP: _Kernel(4, INTEGER_RUNTIMES["embedding"]),
}
_INT4 = _Kernel(13, INTEGER_RUNTIMES["int4"])  # FULLY_CONNECTED
_DEQUANTIZE = _Kernel(5, INTEGER_RUNTIMES["widening"])


@dataclass(frozen=True)
class _Found:
    """A decided weight in the layout of the file."""

    integers: NDArray[np.int8]
    weight: IntegerWeight
    axis: int


def store_integers(data: bytes, weights: Sequence[IntegerWeight], *, dynamic: bool) -> bytes:
    """The file with integers for the constants that equal decided weights.

    Args:
        data: A float32 model.
        weights: What was decided.
        dynamic: Whether activations are quantised as they come. Otherwise weights are widened by an op of their own,
            once, when the file is loaded, and the arithmetic is float32.
    """
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
    layouts = dict(_layouts(weights))
    editor = _Editor(model, dynamic=dynamic)
    for graph in model.subgraphs:
        for index, tensor in enumerate(list(graph.tensors)):
            constant = _float_constant(model, tensor)
            found = layouts.get(_key(constant)) if constant is not None else None
            if found is not None:
                editor.store(graph, index, found)
    editor.drop_floats()
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


_Key = tuple[tuple[int, ...], int]


def _key(constant: NDArray[np.float32]) -> _Key:
    return constant.shape, hash(constant.tobytes())


def _layouts(weights: Sequence[IntegerWeight]) -> Iterator[tuple[_Key, _Found]]:
    """The floats of each weight, in every layout that a file may have it in, and the integers in the same."""
    for weight in weights:
        yield _laid_out(weight, tuple(range(weight.value.ndim)), 0)
        if weight.value.ndim == 4:
            yield _laid_out(weight, (0, 2, 3, 1), 0)
            if weight.value.shape[1] == 1:  # depthwise: [1, height, width, channels]
                yield _laid_out(weight, (1, 2, 3, 0), 3)


def _laid_out(weight: IntegerWeight, order: tuple[int, ...], axis: int) -> tuple[_Key, _Found]:
    integers = np.ascontiguousarray(weight.integers.transpose(order))
    return _key(weight.value.transpose(order)), _Found(integers, weight, axis)


def _float_constant(model: Any, tensor: Any) -> NDArray[np.float32] | None:
    data = model.buffers[tensor.buffer].data
    if tensor.type != _Type.FLOAT32 or data is None or len(data) == 0:
        return None
    return np.asarray(data, np.uint8).view(np.float32).reshape(tensor.shape)


def _pack(integers: NDArray[np.int8]) -> NDArray[np.uint8]:
    """int4, two a byte, the first in the low half."""
    halves = np.append(integers, np.zeros(len(integers) % 2, np.int8)).view(np.uint8) & 15
    return np.asarray(halves[::2] | halves[1::2] << 4, np.uint8)


def _branch(graph: Any, index: int, readers: Sequence[Any]) -> int:
    """Has these ops read a tensor of their own, a copy of another, and gives its index."""
    graph.tensors.append(copy.copy(graph.tensors[index]))
    branch = len(graph.tensors) - 1
    for op in readers:
        op.inputs = np.array([branch if each == index else each for each in op.inputs], np.int32)
    return branch


class _Editor:
    """One model being edited: its buffers of integers, those of the floats that they replace, and the op versions."""

    def __init__(self, model: Any, *, dynamic: bool) -> None:
        self._model = model
        self._dynamic = dynamic
        self._integers: dict[bytes, int] = {}
        self._replaced: set[int] = set()
        self._codes: dict[tuple[int, int], int] = {}

    def store(self, graph: Any, index: int, found: _Found) -> None:
        """Makes a float constant int8 or int4 for the ops that read it as a weight, and these fit for that.

        Others, such as a sum with a table that is zero as the weight is, go on reading floats.
        """
        readers = [op for op in graph.operators if self._reads_as_weight(op, index)]
        if not readers:
            return
        self._replaced.add(graph.tensors[index].buffer)
        if any(index in list(op.inputs) for op in graph.operators if op not in readers):
            index = _branch(graph, index, readers)
        tensor = graph.tensors[index]
        tensor.type = _Type.INT8 if found.weight.bits == 8 else _Type.INT4
        tensor.buffer = self._buffer(found)
        tensor.quantization = self._per_channel(found) if found.weight.bits == 8 else self._per_group(graph, found)
        widened = []
        for op in readers:
            kind = self._kind(op)
            if self._dynamic or kind == _Op.EMBEDDING_LOOKUP:
                op.opcodeIndex = self._code(kind, _WIDENING_KERNELS[kind] if found.weight.bits == 8 else _INT4)
            else:
                widened.append(op)
        if widened:
            self._widen(graph, index, widened)

    def drop_floats(self) -> None:
        """Frees the buffers of floats that no tensor reads any more."""
        read = {tensor.buffer for graph in self._model.subgraphs for tensor in graph.tensors}
        for buffer in self._replaced - read:
            self._model.buffers[buffer].data = None

    def _reads_as_weight(self, op: Any, index: int) -> bool:
        return self._kind(op) in _WIDENING_KERNELS and [at for at, each in enumerate(op.inputs) if each == index] == [1]

    def _per_channel(self, found: _Found) -> Any:
        quantisation = schema.QuantizationParametersT()
        quantisation.scale = found.weight.scale[:, 0]
        quantisation.zeroPoint = np.zeros(len(found.weight.scale), np.int64)
        quantisation.quantizedDimension = found.axis
        return quantisation

    def _per_group(self, graph: Any, found: _Found) -> Any:
        """Scales of groups stand in a float16 tensor of their own."""
        scales = schema.TensorT()
        scales.name = b"scales"
        scales.shape = np.array(found.weight.scale.shape, np.int32)
        scales.type = _Type.FLOAT16
        scales.buffer = self._add_buffer(found.weight.scale.astype(np.float16))
        graph.tensors.append(scales)
        details = schema.BlockwiseQuantizationT()
        details.scales = len(graph.tensors) - 1
        details.zeroPoints = -1
        details.blockSize = found.integers.shape[1] // found.weight.scale.shape[1]
        quantisation = schema.QuantizationParametersT()
        quantisation.detailsType = schema.QuantizationDetails.BlockwiseQuantization
        quantisation.details = details
        return quantisation

    def _kind(self, op: Any) -> int:
        return int(self._model.operatorCodes[op.opcodeIndex].builtinCode)

    def _buffer(self, found: _Found) -> int:
        """A buffer of the integers, the same for all weights that have them."""
        integers = found.integers.reshape(-1)
        content = integers if found.weight.bits == 8 else _pack(integers)
        key = hashlib.sha256(content.data).digest()
        if key not in self._integers:
            self._integers[key] = self._add_buffer(content)
        return self._integers[key]

    def _add_buffer(self, content: NDArray[Any]) -> int:
        buffer = schema.BufferT()
        buffer.data = np.ascontiguousarray(content).reshape(-1).view(np.uint8)
        self._model.buffers.append(buffer)
        return len(self._model.buffers) - 1

    def _code(self, kind: int, kernel: _Kernel) -> int:
        key = (kind, kernel.version)
        if key not in self._codes:
            code = schema.OperatorCodeT()
            code.builtinCode, code.version = kind, kernel.version
            code.deprecatedBuiltinCode = min(kind, 127)  # the schema's old field, of one byte
            self._model.operatorCodes.append(code)
            self._codes[key] = len(self._model.operatorCodes) - 1
            self._require(kernel.runtime)
        return self._codes[key]

    def _require(self, runtime: str) -> None:
        """Raises the file's own note of the first TensorFlow Lite that can run it."""
        for entry in self._model.metadata or ():
            if entry.name == b"min_runtime_version":
                buffer = self._model.buffers[entry.buffer]
                noted = bytes(buffer.data).rstrip(b"\0").decode("ascii")
                latest = max(noted, runtime, key=lambda version: [int(part) for part in version.split(".")])
                buffer.data = np.frombuffer(latest.encode("ascii").ljust(16, b"\0"), np.uint8)

    def _widen(self, graph: Any, index: int, readers: Sequence[Any]) -> None:
        """Puts a DEQUANTIZE between the integers and their readers."""
        output = _branch(graph, index, readers)
        wide = graph.tensors[output]
        wide.name = bytes(wide.name) + b"_wide"
        wide.type = _Type.FLOAT32
        wide.buffer = 0
        wide.quantization = None
        dequantize = schema.OperatorT()
        dequantize.opcodeIndex = self._code(_Op.DEQUANTIZE, _DEQUANTIZE)
        dequantize.inputs, dequantize.outputs = np.array([index], np.int32), np.array([output], np.int32)
        graph.operators.insert(0, dequantize)
