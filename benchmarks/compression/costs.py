"""What share of a component's multiply-adds has its weight stored as integers."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import torch

from edgevlm.bundle.integer_weights import StoredWeight
from edgevlm.compression.layers import find_layers
from edgevlm.graphs.capture import plain_attention
from edgevlm.graphs.outline import outline
from edgevlm.graphs.program import Program

Shape = tuple[int, ...]


def integer_shares(program: Program, stored: Iterable[StoredWeight]) -> dict[str, float]:
    """`int8` and `int4` -> share of the float graph's multiply-adds, 0..1; a token embedding has none.

    A file does not name its weights as the model does, so they are recognised by their shape; layers of one shape
    count as their mean.
    """
    costs = layer_multiply_adds(program)
    counts = Counter((f"int{weight.bits}", weight.values.shape) for weight in stored)
    total = outline(program).multiply_adds
    return {
        kind: sum(
            min(count, len(costs[shape])) * math.fsum(costs[shape]) / len(costs[shape])
            for (of_kind, shape), count in counts.items()
            if of_kind == kind and costs.get(shape)
        )
        / total
        for kind in ("int8", "int4")
    }


def layer_multiply_adds(program: Program) -> Mapping[Shape, list[int]]:
    """Multiply-adds of every layer that can be compressed, by the shape of its weight."""
    with plain_attention():
        graph = torch.export.export(program.module, program.example, strict=False).module(check_guards=False)
    nodes = {node.name: node for node in graph.graph.nodes}
    found: dict[Shape, list[int]] = defaultdict(list)
    for layer in find_layers(graph):
        if layer.kind != "embedding":
            answers = nodes[layer.node].meta["val"].numel()
            found[layer.shape].append(answers * math.prod(layer.shape[1:]))
    return found
