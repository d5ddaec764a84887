"""What each op of the float model computes on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgevlm.bundle.spec import F32, Array
from edgevlm.graphs import kv_cache
from edgevlm.graphs.attention import attention
from edgevlm.graphs.capture import capture, kind, place
from edgevlm.graphs.program import Program


@dataclass(frozen=True)
class Expected:
    """One op of the float model.

    Attributes:
        place: `component/module` that it stands in.
        kind: ATen's name of the op.
        name: The node's in the graph, after which converters call results.
        reads: The nodes that it reads.
        value: What it computes.
    """

    place: str
    kind: str
    name: str
    reads: tuple[str, ...]
    value: F32


def expected_values(program: Program, inputs: Mapping[str, Array]) -> tuple[Expected, ...]:
    """Runs the model as captured and once more in smaller ops: converters lower something between the two.

    Args:
        program: In float32.
        inputs: One sample, by the names of its spec.
    """
    captured = capture(program)
    table = {torch.ops.aten.scaled_dot_product_attention.default: _attention, kv_cache.UPDATE: kv_cache.written_out}
    smaller = captured.run_decompositions(table)
    found: list[Expected] = []
    for exported in (captured, smaller):
        recorder = _Recorder(exported.module(check_guards=False), program.spec.name)
        with torch.no_grad():
            recorder.run(
                *(torch.from_numpy(np.array(inputs[each.name])) for each in program.spec.inputs),
                enable_io_processing=False,
            )
        found += recorder.found
    return tuple(found)


def _attention(query: Tensor, key: Tensor, *others: Any, scale: float | None = None, **options: Any) -> Any:
    """Attention in smaller ops, scaled as torch does, of whose own decomposition TFLite's converter folds the roots."""
    root = (scale or query.shape[-1] ** -0.5) ** 0.5
    return attention(query * root, key * root, *others, scale=1.0, **options)


class _Recorder(torch.fx.Interpreter):
    """Notes every input and every result but truth values."""

    def __init__(self, module: Any, component: str) -> None:
        super().__init__(module)
        self._component = component
        self.found: list[Expected] = []

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        ran = n.op in ("call_function", "placeholder")
        if ran and isinstance(result, torch.Tensor) and result.dtype != torch.bool:
            value = result.detach().numpy().astype(np.float32)
            reads = tuple(each.name for each in n.all_input_nodes)
            self.found.append(Expected(place(self._component, n), kind(n), n.name, reads, value))
        return result
