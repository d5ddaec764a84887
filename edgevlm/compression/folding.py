"""Folds what scales a matrix product's input or output into its weights.

TFLite's converter does so by itself, after the integers have been decided, and so breaks their grid. Done beforehand,
for every target, each of them gets the same integers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

_aten = torch.ops.aten


@torch.no_grad()
def fold_layer_norms(graph: GraphModule) -> bool:
    """Rewrites `linear(layer_norm(x) * weight + bias)` as one product, where nothing else reads the layer norm.

    Args:
        graph: Of ATen ops, its parameters under their own names; changed in place. It shares tensors with the module
            that it was exported from, so they are replaced, not written to.

    Returns:
        Whether there was one.
    """
    folded = False
    for norm in graph.graph.find_nodes(op="call_function", target=_aten.layer_norm.default):
        weight, bias = _argument(norm, 2), _argument(norm, 3)
        readers = list(norm.users)
        if weight is None or not all(_is_product_of(reader, norm) for reader in readers):
            continue
        if any(len(_read(reader, 1).users) > 1 for reader in readers):  # a weight that other products share
            continue
        scale = parameter(graph, weight)
        shift = parameter(graph, bias) if bias is not None else torch.zeros_like(scale)
        for reader in readers:
            _fold(graph, reader, scale, shift)
        norm.args = (*norm.args[:2], None, None, *norm.args[4:])  # what follows is epsilon
        folded = True
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return folded


@torch.no_grad()
def fold_output_scales(graph: GraphModule) -> bool:
    """Rewrites `linear(x) * number`, such as attention's scaled queries, as one product. See `fold_layer_norms`."""
    folded = False
    for scaled in graph.graph.find_nodes(op="call_function", target=_aten.mul.Tensor):
        product, factor = scaled.args
        if not isinstance(product, Node) or product.target is not _aten.linear.default:
            continue
        if not isinstance(factor, int | float):
            continue
        weight, bias = _argument(product, 1), _argument(product, 2)
        constants = [each for each in (weight, bias) if each is not None]
        if len(product.users) > 1 or any(each.op != "get_attr" or len(each.users) > 1 for each in constants):
            continue
        for constant in constants:
            set_parameter(graph, str(constant.target), parameter(graph, constant) * factor)
        scaled.replace_all_uses_with(product)
        folded = True
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return folded


def parameter(graph: GraphModule, node: Node) -> Tensor:
    """The tensor that a `get_attr` node reads."""
    owner, _, name = str(node.target).rpartition(".")
    value: Tensor = getattr(graph.get_submodule(owner), name)
    return value


def set_parameter(graph: GraphModule, target: str, value: Tensor) -> None:
    """Puts a tensor where `get_attr` nodes of that target read it."""
    owner, _, name = target.rpartition(".")
    module = graph.get_submodule(owner)
    if name in module._parameters:
        module._parameters[name] = nn.Parameter(value, requires_grad=False)
    else:
        module.register_buffer(name, value)


def _fold(graph: GraphModule, product: Node, scale: Tensor, shift: Tensor) -> None:
    weight_node, bias_node = _read(product, 1), _argument(product, 2)
    weight = parameter(graph, weight_node)
    bias = weight @ shift
    if bias_node is not None:
        bias = bias + parameter(graph, bias_node)
    set_parameter(graph, str(weight_node.target), weight * scale)
    bias_name = f"{str(weight_node.target).rpartition('.')[0]}.folded_bias".lstrip(".")
    set_parameter(graph, bias_name, bias)
    with graph.graph.inserting_before(product):
        product.args = (product.args[0], weight_node, graph.graph.get_attr(bias_name))


def _is_product_of(node: Node, factor: Node) -> bool:
    return (
        node.op == "call_function"
        and node.target is _aten.linear.default
        and node.args[0] is factor
        and isinstance(node.args[1], Node)
        and node.args[1].op == "get_attr"
    )


def _read(node: Node, index: int) -> Node:
    """A node's positional argument that must be one."""
    value = _argument(node, index)
    if value is None:
        raise TypeError(f"{node.name}: expected a node as argument {index}, got {node.args}")
    return value


def _argument(node: Node, index: int) -> Node | None:
    """A node's positional argument, or None where it has fewer."""
    value = node.args[index] if len(node.args) > index else None
    return value if isinstance(value, Node) else None
