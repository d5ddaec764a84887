"""Computes once what two layers compute alike: those of equal weights that read the same input.

The targets' converters do so by themselves, after the integers have been decided, and then one layer's are missing in
the file. Done beforehand, what is decided is what is computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from edgevlm.compression.folding import parameter
from edgevlm.compression.layers import Layer


def merge_equal_layers(graph: GraphModule, layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Lets what reads a layer read an earlier one that computes the same, bit by bit, and gives those that are left.

    Args:
        graph: Of ATen ops, in floats; changed in place. One with an op that writes to its input is left as it is.
        layers: Those to merge; not with any other, which the recipe keeps in float. Equal constants stay as many.
    """
    if any(_writes(node) for node in graph.graph.nodes):
        return tuple(layers)
    ours = {layer.node for layer in layers}
    firsts: dict[Hashable, Node] = {}
    equal: dict[Node, Node] = {}  # to each node the first that computes the same
    for node in list(graph.graph.nodes):
        first = firsts.setdefault((node.name in ours, _key(graph, node, equal)), node)
        equal[node] = first
        if first is not node and node.name in ours:
            ours.remove(node.name)
            node.replace_all_uses_with(first)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return tuple(layer for layer in layers if layer.node in ours)


def _key(graph: GraphModule, node: Node, equal: Mapping[Node, Node]) -> Hashable:
    """The same for two nodes only where they compute the same."""
    if node.op == "get_attr":
        return _content(parameter(graph, node))
    if node.op != "call_function":
        return node
    return node.target, repr(map_arg((node.args, node.kwargs), equal.__getitem__))


def _content(constant: Tensor) -> Hashable:
    array = np.ascontiguousarray(constant.detach().cpu().numpy())
    return array.dtype.str, array.shape, hashlib.sha256(array.data).digest()


def _writes(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable
