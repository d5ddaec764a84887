"""The integer weights of a TFLite file, read from its flatbuffer without running it.

Format: schema.fbs of https://github.com/google-ai-edge/LiteRT.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import repeat
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema  # type: ignore[import-untyped]
from numpy.typing import NDArray

from edgevlm.bundle.integer_weights import StoredWeight

_BITS = {schema.TensorType.INT8: 8, schema.TensorType.INT4: 4}


def stored_weights(data: bytes) -> dict[str, tuple[StoredWeight, ...]]:
    """Every constant of integers with scales, by the signature that reads it: each once for every op that does.

    Args:
        data: A model that the interpreter has loaded: a damaged one is not checked for here.
    """
    model = schema.Model.GetRootAs(data)
    signatures = (model.SignatureDefs(index) for index in range(model.SignatureDefsLength()))
    return {
        signature.SignatureKey().decode(): tuple(_weights(data, model, model.Subgraphs(signature.SubgraphIndex())))
        for signature in signatures
    }


def _weights(data: bytes, model: Any, graph: Any) -> Iterator[StoredWeight]:
    uses = _uses(model, graph)
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        content = _content(data, model.Buffers(tensor.Buffer()))
        quantisation = tensor.Quantization()
        if tensor.Type() not in _BITS or content.size == 0 or quantisation is None:
            continue
        shape, axis = tuple(tensor.ShapeAsNumpy()), quantisation.QuantizedDimension()
        if len(shape) < 2:
            continue
        bits = _BITS[tensor.Type()]
        values = (content.view(np.int8) if bits == 8 else _unpack(content, int(np.prod(shape)))).reshape(shape)
        scale, zero_point = _grid(data, model, graph, quantisation, rows=shape[axis])
        weight = StoredWeight(
            layer=tensor.Name().decode(),
            bits=bits,
            values=_to_torch(values, axis),
            scale=scale.reshape(shape[axis], -1),
            zero_point=zero_point.reshape(shape[axis], -1),
            scale_type="float16" if scale.dtype == np.float16 else "float32",
        )
        yield from repeat(weight, uses[index])


def _uses(model: Any, graph: Any) -> Counter[int]:
    """How many ops read each tensor: itself, or as a DEQUANTIZE widens it."""
    uses: Counter[int] = Counter()
    for operator in (graph.Operators(index) for index in reversed(range(graph.OperatorsLength()))):
        kind = model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode()
        read = uses[operator.Outputs(0)] if kind == schema.BuiltinOperator.DEQUANTIZE else 1
        for index in {operator.Inputs(each) for each in range(operator.InputsLength())}:
            uses[index] += read
    return uses


def _grid(
    data: bytes, model: Any, graph: Any, quantisation: Any, rows: int
) -> tuple[NDArray[np.floating], NDArray[np.int32]]:
    """Scales and zero points: in the tensor itself per channel, in a tensor of their own per group."""
    if quantisation.DetailsType() == schema.QuantizationDetails.BlockwiseQuantization:
        details = schema.BlockwiseQuantization()
        details.Init(quantisation.Details().Bytes, quantisation.Details().Pos)
        scale = _content(data, model.Buffers(graph.Tensors(details.Scales()).Buffer())).view(np.float16)
        return scale, np.zeros(scale.shape, np.int32)
    scale = np.broadcast_to(quantisation.ScaleAsNumpy(), rows)
    return scale, np.broadcast_to(quantisation.ZeroPointAsNumpy(), rows).astype(np.int32)


def _content(data: bytes, buffer: Any) -> NDArray[np.uint8]:
    if buffer.Offset() > 1:  # large files keep their buffers behind the flatbuffer
        return np.frombuffer(data, np.uint8, buffer.Size(), buffer.Offset())
    return np.asarray(buffer.DataAsNumpy(), np.uint8) if buffer.DataLength() else np.zeros(0, np.uint8)


def _unpack(content: NDArray[np.uint8], count: int) -> NDArray[np.int8]:
    """int4, two a byte, the first in the low half."""
    halves = np.stack([content << 4, content], axis=-1).reshape(-1)[:count].view(np.int8)
    return halves >> 4


def _to_torch(values: NDArray[np.int8], axis: int) -> NDArray[np.int8]:
    """[out, height, width, in], or [1, height, width, channels] of a depthwise one, as PyTorch lays them out."""
    if values.ndim != 4:
        return values
    return values.transpose(0, 3, 1, 2) if axis == 0 else values.transpose(3, 0, 1, 2)
