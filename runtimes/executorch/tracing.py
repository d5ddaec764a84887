"""A .pte that also returns what it computes on the way: the same kernels on the same constants, nothing planned away.

ExecuTorch's wheel records no events, and XNNPACK keeps to itself what happens inside a delegate. So the program is
rewritten: each delegate's graph gives out every value that it computes, each kernel's result has memory of its own,
and all of them are outputs of the method. Formats: see `executorch_file`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.spec import F32
from edgevlm.process import interrupts
from edgevlm.runtimes.executorch.file import XnnpackGraph, read_methods

_ALIGNMENT = 64
_EXTERNAL_OUTPUT = 2  # XNN_VALUE_FLAG_EXTERNAL_OUTPUT in xnnpack.h
_GIVEN_OUT = {"fp32": "FLOAT", "fp16": "HALF", "qint8": "CHAR"}
"""What XNNPACK can give out, and ExecuTorch's name of the type; the rest exists inside it only."""


@dataclass(frozen=True)
class Intermediate:
    """One value that a method computes.

    Attributes:
        name: Of its own, such as `delegate 2, value 7`.
        kind: The op that computes it.
        reads: Names of the values that the op reads, constants left out.
        scale, zero_point: What its integers stand for; None for float32.
    """

    name: str
    kind: str
    reads: tuple[str, ...]
    scale: float | None = None
    zero_point: int = 0

    def real(self, array: NDArray[Any]) -> F32:
        """Its value in float32."""
        if self.scale is None:
            return np.asarray(array, np.float32)
        return np.asarray((array.astype(np.float32) - self.zero_point) * self.scale, np.float32)


def with_intermediates(path: Path, method: str) -> tuple[bytes, tuple[Intermediate, ...]]:
    """The file's bytes with one method, whose last outputs are what it computes on the way, in the order of its ops."""
    from executorch.exir._serialize._program import (  # type: ignore[import-untyped]
        deserialize_pte_binary,
        serialize_pte_binary,
    )

    file = deserialize_pte_binary(path.read_bytes())
    program = file.program
    plan = next(each for each in program.execution_plan if each.name == method)
    program.execution_plan = [plan]
    editor = _Editor(plan)
    graphs = read_methods(path)[method].graphs
    found: list[Intermediate] = []
    for chain in plan.chains:
        for instruction in chain.instructions:
            call = instruction.instr_args
            if type(call).__name__ == "KernelCall":
                found += editor.kernel(call)
            elif type(call).__name__ == "DelegateCall":
                graph, data = graphs[call.delegate_index], plan.delegates[call.delegate_index].processed
                if graph is not None:
                    found += editor.delegate(call, graph)
                    blob = program.backend_delegate_data[data.index]
                    blob.data = _with_graph(blob.data, graph)
    editor.separate()
    return bytes(serialize_pte_binary(file)), tuple(found)


class _Editor:
    """Gives values to a plan, and its own place to each."""

    def __init__(self, plan: Any) -> None:
        self._plan = plan
        self._names = {index: f"value {index}" for index in range(len(plan.values))}
        calls = [each.instr_args for chain in plan.chains for each in chain.instructions]
        writes = [each for each in calls if type(each).__name__ == "KernelCall" and self._kind(each) == "copy_"]
        self._computed = {*plan.inputs, *(each.args[0] for each in writes)}  # a state is there before it is written
        self._aliases: dict[str, str] = {}

    def kernel(self, call: Any) -> list[Intermediate]:
        """A kernel's results, the tensors among its arguments that nothing has computed before, as outputs."""
        tensors = [index for index in call.args if type(self._plan.values[index].val).__name__ == "Tensor"]
        planned = [index for index in tensors if self._plan.values[index].val.allocation_info is not None]
        reads = tuple(self._names[index] for index in planned if index in self._computed)
        results = [index for index in dict.fromkeys(planned) if index not in self._computed]
        self._computed.update(results)
        self._plan.outputs += results
        return [Intermediate(self._names[each], self._kind(call), reads) for each in results]

    def delegate(self, call: Any, graph: XnnpackGraph) -> list[Intermediate]:
        """What a delegate computes, as outputs of its graph, of the call and of the method."""
        content: Any = graph.content
        outside = dict(zip((*content["input_ids"], *content["output_ids"]), call.args, strict=True))
        found = []
        for kind, node in list(graph.nodes()):
            value = graph.values[node["output_id"]]
            ids = [each for key, each in node.items() if re.fullmatch(r"input\d*_id", key)]
            reads = [graph.values[each] for each in ids if each in graph.values]
            name = self._called(call, outside, node["output_id"])
            sources = tuple(
                self._called(call, outside, each["id_out"]) for each in reads if not each["constant_buffer_idx"]
            )
            grid = value["grid"] or {}
            whole = Intermediate(name, kind, sources, grid.get("scale"), grid.get("zero_point", 0))
            if node["output_id"] in outside:
                index = outside[node["output_id"]]
                self._computed.add(index)
                self._plan.outputs.append(index)
                found.append(whole)
            elif value["datatype"] in _GIVEN_OUT:
                self._give_out(call, content, value)
                found.append(whole)
            else:  # such as activations that XNNPACK quantises as they come: what they stand for is what they are of
                self._aliases[name] = sources[0]
        return found

    def _kind(self, call: Any) -> str:
        return str(self._plan.operators[call.op_index].name.partition("::")[2])

    def separate(self) -> None:
        """Lays every planned tensor where no other lies."""
        sizes = {"FLOAT": 4, "INT": 4, "LONG": 8, "CHAR": 1, "BYTE": 1, "BOOL": 1, "HALF": 2, "SHORT": 2, "DOUBLE": 8}
        end = 0
        for value in self._plan.values:
            tensor = value.val
            if type(tensor).__name__ != "Tensor" or tensor.allocation_info is None:
                continue
            place = tensor.allocation_info
            place.memory_id, place.memory_offset_low, place.memory_offset_high = 1, end & 0xFFFFFFFF, end >> 32
            length = math.prod(tensor.sizes) * sizes[tensor.scalar_type.name]
            end += -(-length // _ALIGNMENT) * _ALIGNMENT
        self._plan.non_const_buffer_sizes = [0, max(end, _ALIGNMENT)]

    def _called(self, call: Any, outside: Mapping[int, int], value: int) -> str:
        own = f"delegate {call.delegate_index}, value {value}"
        return self._names[outside[value]] if value in outside else self._aliases.get(own, own)

    def _give_out(self, call: Any, content: Any, value: Mapping[str, Any]) -> None:
        from executorch.exir.schema import (  # type: ignore[import-untyped]
            AllocationDetails,
            EValue,
            ScalarType,
            Tensor,
            TensorShapeDynamism,
        )

        stored = next(
            each["xvalue_union"].get("tensor_value", each["xvalue_union"])
            for each in content["xvalues"]
            if each["xvalue_union"].get("tensor_value", each["xvalue_union"])["id_out"] == value["id_out"]
        )
        stored["external_id"], stored["flags"] = content["num_externs"], stored["flags"] | _EXTERNAL_OUTPUT
        content["num_externs"] += 1
        content["output_ids"].append(value["id_out"])
        tensor = Tensor(
            scalar_type=ScalarType[_GIVEN_OUT[value["datatype"]]],
            storage_offset=0,
            sizes=list(value["dims"]),
            dim_order=list(range(len(value["dims"]))),
            requires_grad=False,
            layout=0,
            data_buffer_idx=0,
            allocation_info=AllocationDetails(memory_id=1, memory_offset_low=0, memory_offset_high=0),
            shape_dynamism=TensorShapeDynamism.DYNAMIC_BOUND,
        )
        index = len(self._plan.values)
        self._plan.values.append(EValue(tensor))
        call.args.append(index)
        self._plan.outputs.append(index)


def _with_graph(payload: bytes, graph: XnnpackGraph) -> bytes:
    """A delegate's bytes with another graph before the same constants."""
    from executorch.backends.xnnpack.serialization import (  # type: ignore[import-untyped]
        xnnpack_graph_serialize as xnnpack,
    )
    from executorch.exir._serialize._flatbuffer import _flatc_compile  # type: ignore[import-untyped]

    header = xnnpack.XNNHeader.from_bytes(payload[: xnnpack.XNNHeader.EXPECTED_LENGTH])
    text = re.sub(r"(?<=: )(-?)Infinity\b", r"\1inf", json.dumps(graph.content))
    with interrupts.temporary_folder() as folder:
        schema, source = folder / "schema.fbs", folder / "graph.json"
        schema.write_bytes(xnnpack._get_schema_bytes())
        source.write_text(text, encoding="utf-8")
        _flatc_compile(str(folder), str(schema), str(source))
        flatbuffer = next(each for each in folder.glob("graph.*") if each != source).read_bytes()
    start = -(-xnnpack.XNNHeader.EXPECTED_LENGTH // 16) * 16
    constants_at = start + -(-len(flatbuffer) // 16) * 16
    new = xnnpack.XNNHeader(start, len(flatbuffer), constants_at, header.constant_data_size).to_bytes()
    constants = payload[header.constant_data_offset : header.constant_data_offset + header.constant_data_size]
    return bytes(new.ljust(start, b"\0") + flatbuffer.ljust(constants_at - start, b"\0") + constants)
