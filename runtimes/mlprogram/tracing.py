"""What each op of a program computes on the way."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from edgevlm.bundle.spec import Array
from edgevlm.runtimes.mlprogram.evaluator import MLProgram
from edgevlm.runtimes.mlprogram.program import Operation
from edgevlm.runtimes.mlprogram.values import Value
from edgevlm.targets.runtime import TracedOp


def trace(program: MLProgram, inputs: Mapping[str, Array]) -> tuple[TracedOp, ...]:
    """Predicts once, and returns every tensor that an op computed, in order.

    Raises:
        TensorError, BundleError: see `MLProgram.predict`.
    """
    found: list[TracedOp] = []
    computed = set(inputs)

    def note(operation: Operation, results: Mapping[str, Value]) -> None:
        # By name: a protobuf's map has another order in each process.
        sources = [each for _, argument in sorted(operation.arguments.items()) for each in argument]
        reads = tuple(dict.fromkeys(each for each in sources if isinstance(each, str) and each in computed))
        for name, value in results.items():
            if isinstance(value, torch.Tensor):
                found.append(TracedOp(name, operation.kind, reads, value.numpy().astype(np.float32), origin=name))
        computed.update(results)

    program.predict(inputs, observe=note)
    return tuple(found)
