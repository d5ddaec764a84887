"""What a .pte holds, read with ExecuTorch's own schema and without running it. Importing the schema takes seconds.

Formats: https://docs.pytorch.org/executorch/stable/pte-file-format.html, and XNNPACK's graph in
backends/xnnpack/serialization/schema.fbs of https://github.com/pytorch/executorch.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.integer_weights import StoredWeight
from edgevlm.process import interrupts
from edgevlm.targets.inspection import OpCount

_DTYPES = {"FLOAT": "fp32", "HALF": "fp16", "INT": "int32", "LONG": "int64", "CHAR": "int8"}
_XNNPACK = "XnnpackBackend"
_EMBEDDING = "quantized_decomposed::embedding_byte"
# Weights: XNNPACK's name of the type -> bits.
_BITS = {"qcint8": 8, "qcint4": 4, "qbint4": 4}


@dataclass(frozen=True)
class Method:
    """One method of a program.

    Attributes:
        plan: Its execution plan, as ExecuTorch's schema has it.
        constants: The program's constant buffers.
        graphs: XNNPACK's graph of each delegate, None where another backend has it.
    """

    plan: Any
    constants: list[bytes]
    graphs: tuple[XnnpackGraph | None, ...]


@dataclass(frozen=True)
class XnnpackGraph:
    """One delegate's graph.

    Attributes:
        content: As JSON, by XNNPACK's schema.
        payload: The delegate's bytes, where constants may lie.
        constants_at: Where they begin there.
        named: The program's named data, where they may lie as well.
    """

    content: Mapping[str, Any]
    payload: bytes
    constants_at: int
    named: Mapping[str, bytes]

    @cached_property
    def values(self) -> dict[int, Mapping[str, Any]]:
        """By id: the type and size of each value, with `grid`, its quantisation, where it has one."""
        found: dict[int, Mapping[str, Any]] = {}
        for value in self.content["xvalues"]:
            union = value["xvalue_union"]
            tensor = union.get("tensor_value", union)
            found[tensor["id_out"]] = {
                **tensor,
                "datatype": tensor["datatype"].removeprefix("xnn_datatype_"),
                "grid": union.get("quant_params"),
            }
        return found

    def nodes(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Kind and arguments of each op."""
        for node in self.content["xnodes"]:
            yield node["xnode_union_type"].removeprefix("XNN"), node["xnode_union"]

    def constant(self, index: int) -> bytes:
        """One constant's bytes."""
        entry = self.content["constant_data"][index]
        if entry["named_key"]:
            return self.named[entry["named_key"]][: entry["size"]]
        start = self.constants_at + entry["offset"]
        return self.payload[start : start + entry["size"]]


def read_methods(path: Path) -> dict[str, Method]:
    """The methods of a file that ExecuTorch itself has checked, by name."""
    from executorch.exir._serialize._program import deserialize_pte_binary  # type: ignore[import-untyped]

    file = deserialize_pte_binary(path.read_bytes())
    program, named = file.program, _named_data(file.named_data)
    constants = [buffer.storage for buffer in program.constant_buffer]
    methods = {}
    for plan in program.execution_plan:
        graphs = []
        for delegate in plan.delegates:
            payload = program.backend_delegate_data[delegate.processed.index].data
            graphs.append(_read_graph(payload, named) if delegate.id == _XNNPACK else None)
        methods[plan.name] = Method(plan, constants, tuple(graphs))
    return methods


def count_ops(method: Method) -> tuple[OpCount, ...]:
    """One row per kind, type and place."""
    plan = method.plan
    rows: Counter[tuple[str, str, str, str]] = Counter()
    for call in _calls(plan):
        if type(call).__name__ == "KernelCall":
            name = plan.operators[call.op_index].name
            weights = "int8" if name == _EMBEDDING else ""
            rows[name, _kernel_dtype(plan, call), "portable", weights] += 1
        elif type(call).__name__ == "DelegateCall":
            graph = method.graphs[call.delegate_index]
            if graph is None:
                backend = plan.delegates[call.delegate_index].id
                rows[backend, "unknown", backend, ""] += 1
            else:
                rows.update((kind, dtype, "xnnpack", weights) for kind, dtype, weights in _xnnpack_ops(graph))
    return tuple(
        OpCount(kind, count, dtype, place, weights) for (kind, dtype, place, weights), count in sorted(rows.items())
    )


def stored_weights(method: Method) -> Iterator[StoredWeight]:
    """Every weight that is stored as integers, once for every op that reads it."""
    for graph in method.graphs:
        for kind, node in graph.nodes() if graph is not None else ():
            filter_id = node.get("filter_id", -1)
            value = graph.values.get(filter_id, {}) if graph is not None else {}
            if graph is not None and value.get("datatype") in _BITS:
                yield _delegated_weight(graph, value, f"{kind} {filter_id}", depthwise="Depthwise" in kind)
    for call in _calls(method.plan):
        if type(call).__name__ == "KernelCall" and method.plan.operators[call.op_index].name == _EMBEDDING:
            yield _embedding(method, call)


def _named_data(named: Any) -> dict[str, bytes]:
    return {key: named.buffers[entry.buffer_index] for key, entry in named.pte_data.items()} if named else {}


def _read_graph(payload: bytes, named: Mapping[str, bytes]) -> XnnpackGraph:
    from executorch.backends.xnnpack.serialization import (  # type: ignore[import-untyped]
        xnnpack_graph_serialize as xnnpack,
    )
    from executorch.exir._serialize._flatbuffer import _flatc_decompile  # type: ignore[import-untyped]

    header = xnnpack.XNNHeader.from_bytes(payload[: xnnpack.XNNHeader.EXPECTED_LENGTH])
    graph = payload[header.flatbuffer_offset : header.flatbuffer_offset + header.flatbuffer_size]
    with interrupts.temporary_folder() as folder:
        schema, binary = folder / "schema.fbs", folder / "graph.bin"
        schema.write_bytes(xnnpack._get_schema_bytes())
        binary.write_bytes(graph)
        _flatc_decompile(str(folder), str(schema), str(binary), ["--raw-binary"])
        text = (folder / "graph.json").read_text(encoding="utf-8")
    # flatc writes infinity, which a ReLU has as its upper bound, in C's spelling.
    content = json.loads(re.sub(r"(?<=: )(-?)inf\b", r"\1Infinity", text))
    return XnnpackGraph(content, payload, header.constant_data_offset, named)


def _calls(plan: Any) -> Iterator[Any]:
    for chain in plan.chains:
        for instruction in chain.instructions:
            yield instruction.instr_args


def _kernel_dtype(plan: Any, call: Any) -> str:
    """The type of what a kernel writes: its last tensor; of the first one where it answers yes or no."""
    values = [plan.values[index].val for index in call.args]
    types = [value.scalar_type.name for value in values if type(value).__name__ == "Tensor"]
    written = types[-1] if types and types[-1] != "BOOL" else next(iter(types), "UNKNOWN")
    return _DTYPES.get(written, written.lower())


def _xnnpack_ops(graph: XnnpackGraph) -> Iterator[tuple[str, str, str]]:
    """Kind, type and type of the weights of each op. An op with integer weights computes in integers."""
    for kind, node in graph.nodes():
        filter_type = graph.values.get(node.get("filter_id", -1), {}).get("datatype", "")
        bits = _BITS.get(filter_type)
        result = graph.values.get(node["output_id"], {}).get("datatype", "unknown")
        yield kind, "int8" if bits else result, f"int{bits}" if bits else ""


def _delegated_weight(graph: XnnpackGraph, value: Mapping[str, Any], name: str, *, depthwise: bool) -> StoredWeight:
    content = graph.constant(value["constant_buffer_idx"])
    shape, bits, grid = value["dims"], _BITS[value["datatype"]], value["grid"]
    packed = np.frombuffer(content, np.uint8)
    values = packed.view(np.int8) if bits == 8 else _unpack(packed)
    # Convolutions: [out, height, width, in], depthwise ones [1, height, width, channels]; PyTorch has `in` second.
    values = values[: int(np.prod(shape))].reshape(shape)
    if values.ndim == 4:
        values = values.transpose(3, 0, 1, 2) if depthwise else values.transpose(0, 3, 1, 2)
    blockwise = value["datatype"] == "qbint4"
    scale = _scales(graph, grid, blockwise=blockwise).reshape(len(values), -1)
    return StoredWeight(
        layer=name,
        bits=bits,
        values=values,
        scale=scale,
        zero_point=np.zeros(scale.shape, np.int32),
        scale_type="bfloat16" if blockwise else "float32",
    )


def _scales(graph: XnnpackGraph, grid: Mapping[str, Any], *, blockwise: bool) -> NDArray[np.float32]:
    if grid.get("scale"):
        return np.asarray(grid["scale"], np.float32)
    content = graph.constant(grid["scale_buffer_idx"])
    if blockwise:  # bfloat16: float32's upper half
        return (np.frombuffer(content, np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(content, np.float32)


def _unpack(packed: NDArray[np.uint8]) -> NDArray[np.int8]:
    """int4 with 8 added, two a byte, the first in the low half."""
    halves = np.stack([packed & 15, packed >> 4], axis=-1).reshape(-1)
    return (halves.astype(np.int16) - 8).astype(np.int8)


def _embedding(method: Method, call: Any) -> StoredWeight:
    table, scale = (_tensor(method, call.args[index]) for index in range(2))
    rows = len(table)
    return StoredWeight("token embedding", 8, table, scale.reshape(rows, -1), np.zeros((rows, 1), np.int32))


def _tensor(method: Method, index: int) -> NDArray[Any]:
    """A constant tensor of the plan."""
    value = method.plan.values[index].val
    dtype = {"CHAR": np.int8, "FLOAT": np.float32}[value.scalar_type.name]
    content = np.frombuffer(method.constants[value.data_buffer_idx], dtype)
    return content[: int(np.prod(value.sizes))].reshape(value.sizes)
