"""What a package says of its own results, read without the evaluator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from coremltools.proto import Model_pb2  # type: ignore[import-untyped]

_DTYPES = {1: "bool", 10: "float16", 11: "float32", 21: "int8", 22: "int16", 23: "int32", 24: "int64", 31: "uint8",
           32: "uint16", 33: "uint32"}  # fmt: skip


def contradictions(specification: bytes, function: str | None, answers: Mapping[str, Any]) -> list[str]:
    """Where answers are not of the names, types and shapes that the program declares.

    Args:
        specification: The model file's content.
        function: Name of the function that answered.
        answers: By name.
    """
    spec = Model_pb2.Model.FromString(specification)
    body = spec.mlProgram.functions[function or spec.description.defaultFunctionName or "main"]
    block = body.block_specializations[body.opset]
    declared = {each.name: each.type for each in body.inputs}
    declared |= {each.name: each.type for operation in block.operations for each in operation.outputs}
    found = [f"{name}: not asked for" for name in set(answers) ^ set(block.outputs)]
    for name, answer in answers.items():
        if name in declared and isinstance(answer, np.ndarray):
            tensor = declared[name].tensorType
            if _DTYPES.get(tensor.dataType, answer.dtype.name) != answer.dtype.name:
                found.append(f"{name}: {answer.dtype}, declared as {_DTYPES[tensor.dataType]}")
            if not _fits(answer.shape, tensor):
                found.append(f"{name}: {answer.shape}, declared as {tensor.dimensions}")
    return found


def _fits(shape: tuple[int, ...], tensor: Any) -> bool:
    """Whether a shape has the declared sizes, unknown ones left out; a scalar is returned as a vector of one."""
    sizes = tensor.dimensions
    if tensor.rank < 0 or any(each.unknown.variadic for each in sizes):
        return True
    if not sizes:
        return shape == (1,)
    return len(shape) == len(sizes) and all(
        each.WhichOneof("dimension") != "constant" or each.constant.size == size
        for each, size in zip(sizes, shape, strict=True)
    )
