"""Rewrites a quantised program's graph into what each backend's own converter carries without changing an integer.

What comes in is what `edgevlm.compression.quantisation` writes: int8 constants behind `dequantize_per_channel` (or
`..._group`), and `quantize_per_tensor` / `dequantize_per_tensor` around layers whose ranges are fixed.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torchao.quantization.pt2e  # type: ignore[import-untyped]  # noqa: F401 - registers quantized_decomposed
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Node

from edgevlm.graphs.program import Program

_aten = torch.ops.aten
_decomposed = torch.ops.quantized_decomposed
_WIDENINGS = (_decomposed.dequantize_per_channel.default, _decomposed.dequantize_per_channel_group.default)
_PRODUCTS = (_aten.linear.default, _aten.conv2d.default, _aten.conv2d.padding)
# XNNPACK's: float32's epsilon, below which a scale counts as zero.
_LEAST_SCALE = 1.1920928955078125e-07


@dataclass(frozen=True)
class IntegerWeight:
    """A weight and the integers that it is made of.

    Attributes:
        value: float32, `scale * integers`.
        integers: int8, of the same shape; -8..7 where `bits` is 4.
        scale: float32 [out, groups], with a scale for `in / groups` second indices each.
        bits: 8 or 4.
    """

    value: NDArray[np.float32]
    integers: NDArray[np.int8]
    scale: NDArray[np.float32]
    bits: int


def baked(program: Program) -> tuple[Program, tuple[IntegerWeight, ...]]:
    """The program with every widened weight as a float32 constant, and what each is made of."""
    graph = _copy(program.module)
    weights = tuple(_bake(graph, wide) for wide in _widenings(graph))
    return _rewritten(program, graph), weights


def requantising(program: Program) -> tuple[Program, tuple[IntegerWeight, ...]]:
    """The program with every int8 constant as a float32 one that is quantised again, to the same integers.

    litert-torch takes integers in this form only, and stores them once it has folded the quantisation. It does not do
    so for token embeddings: those are baked, and returned.
    """
    graph = _copy(program.module)
    tables = []
    for wide in _widenings(graph):
        if any(reader.target is _aten.embedding.default for reader in wide.users):
            tables.append(_bake(graph, wide))
            continue
        constant = _float_constant(graph, wide)
        with graph.graph.inserting_before(wide):
            arguments = (constant, *wide.args[1:])
            narrow = graph.graph.call_function(_decomposed.quantize_per_channel.default, arguments)
        wide.update_arg(0, narrow)
    return _rewritten(program, graph), tuple(tables)


def with_dynamic_activations(program: Program) -> Program:
    """The program with the input of every int8 or int4 layer quantised to int8 as it comes, in the range it has."""
    graph = _copy(program.module)
    for node in graph.graph.nodes:
        if node.op == "call_function" and node.target in _PRODUCTS and node.args[1].target in _WIDENINGS:
            node.update_arg(0, _quantised_as_it_comes(graph, node))
    return _rewritten(program, graph)


def with_int8_embeddings(program: Program) -> Program:
    """The program with each lookup in a widened table as one op of ExecuTorch's, which widens a row at a time."""
    import executorch.exir.passes._quant_patterns_and_replacements  # type: ignore[import-untyped]  # noqa: F401 - registers it

    graph = _copy(program.module)
    for node in graph.graph.find_nodes(op="call_function", target=_aten.embedding.default):
        wide = node.args[0]
        if wide.target in _WIDENINGS:
            integers, scale, _, _, low, high, _ = wide.args
            with graph.graph.inserting_before(node):
                indices = graph.graph.call_function(_aten.to.dtype, (node.args[1], torch.int64))  # it takes no int32
                lookup = graph.graph.call_function(
                    _decomposed.embedding_byte.default, (integers, scale, None, low, high, indices)
                )
            node.replace_all_uses_with(lookup)
    return _rewritten(program, graph)


def _quantised_as_it_comes(graph: GraphModule, layer: Node) -> Node:
    x, bounds, new = layer.args[0], (-128, 127), graph.graph.call_function
    with graph.graph.inserting_before(layer):
        parameters = new(_decomposed.choose_qparams.tensor, (x, *bounds, _LEAST_SCALE, torch.int8))
        scale, zero_point = (new(operator.getitem, (parameters, index)) for index in range(2))
        narrow = new(_decomposed.quantize_per_tensor.tensor, (x, scale, zero_point, *bounds, torch.int8))
        return new(_decomposed.dequantize_per_tensor.tensor, (narrow, scale, zero_point, *bounds, torch.int8))


def _widenings(graph: GraphModule) -> Iterator[Node]:
    for node in list(graph.graph.nodes):
        if node.op == "call_function" and node.target in _WIDENINGS:
            yield node


def _bake(graph: GraphModule, wide: Node) -> IntegerWeight:
    """Puts a float32 constant in a widening's place."""
    constant = _float_constant(graph, wide)
    wide.replace_all_uses_with(constant)
    integers, scale = (_constant(graph, each).numpy() for each in wide.all_input_nodes[:2])
    return IntegerWeight(
        value=_constant(graph, constant).numpy(),
        integers=integers,
        scale=scale.astype(np.float32).reshape(len(integers), -1),
        bits=8 if wide.target is _WIDENINGS[0] else 4,
    )


def _float_constant(graph: GraphModule, wide: Node) -> Node:
    """What a widening of constants computes, as a constant before it."""
    arguments = [_constant(graph, each) if isinstance(each, Node) else each for each in wide.args]
    value: Tensor = wide.target(*arguments)  # type: ignore[operator]
    name = f"{wide.name}_value"
    graph.register_buffer(name, value.contiguous())
    with graph.graph.inserting_before(wide):
        return graph.graph.get_attr(name)


def _constant(graph: GraphModule, node: Node) -> Tensor:
    owner, _, name = str(node.target).rpartition(".")
    value: Tensor = getattr(graph.get_submodule(owner), name)
    return value


def _copy(module: torch.nn.Module) -> GraphModule:
    """Another graph over the same tensors."""
    if not isinstance(module, GraphModule):
        raise TypeError(f"expected a quantised program's graph, got {type(module).__name__}")
    return GraphModule(module, copy.deepcopy(module.graph))


def _rewritten(program: Program, graph: GraphModule) -> Program:
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.recompile()
    return replace(program, module=graph)
