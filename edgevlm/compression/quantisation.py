"""Quantises programs with NNCF: one set of decisions, which every target's converter then carries.

A quantised program is the graph of the float one in which each decided weight is int8 behind a `dequantize_per_channel`
(int4: `dequantize_per_channel_group`) and, with static ranges, each input and output of such a layer passes through a
`quantize_per_tensor` and a `dequantize_per_tensor`, all of `torch.ops.quantized_decomposed`. In torch it computes what
the artefact will.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import nncf  # type: ignore[import-untyped]
import torch
from nncf.experimental.torch.fx import quantize_pt2e  # type: ignore[import-untyped]
from nncf.quantization.advanced_parameters import AdvancedSmoothQuantParameters  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.fx import GraphModule

from edgevlm.bundle.integer_weights import StoredWeight
from edgevlm.bundle.recipe import Recipe
from edgevlm.compression import patches
from edgevlm.compression.allocation import mapped_activations
from edgevlm.compression.annotation import Annotator
from edgevlm.compression.folding import fold_layer_norms, fold_output_scales, parameter
from edgevlm.compression.groups import decide_int4, store_groups
from edgevlm.compression.layers import Layer, becomes_integers, find_layers, weight_of
from edgevlm.compression.merging import merge_equal_layers
from edgevlm.errors import RecipeError
from edgevlm.graphs.capture import plain_attention, shapes_of, unlifted
from edgevlm.graphs.program import Program
from edgevlm.process.quiet import quiet


def quantise(program: Program, recipe: Recipe, samples: Sequence[Tensor]) -> tuple[Program, tuple[StoredWeight, ...]]:
    """The program with NNCF's integers in place of its weights, and what was decided.

    Args:
        program: In float32; its module is left as it is.
        recipe: One whose weights are `int8` or `int4`.
        samples: Inputs to measure ranges on; may be empty where `recipe.needs_calibration` is not set.

    Raises:
        RecipeError: no layer is left to quantise.
    """
    with quiet(), torch.no_grad(), plain_attention(), patches.applied():
        shapes = list(shapes_of(program).values()) if program.most else None
        graph = unlifted(program.module, program.example, shapes)
        folded = fold_layer_norms(graph)
        if fold_output_scales(graph) or folded:
            graph = unlifted(graph, program.example, shapes)  # anew, for what folding added has no recorded shape
        chosen = _choose(graph, program.spec.name, recipe)
        if not chosen:
            raise RecipeError(
                f"recipe {recipe.name}: {program.spec.name} has no layer left to quantise",
                hint="narrow weights.float_layers",
            )
        chosen = merge_equal_layers(graph, chosen)
        graph = _quantise_graph(graph, chosen, recipe, list(samples) or [_one(program.example)])
    decided = _read_decisions(graph, chosen)
    return replace(program, module=graph), decided


def _one(example: tuple[Tensor, ...]) -> Any:
    """An example as NNCF takes it: a tensor, or several."""
    return example[0] if len(example) == 1 else example


def _choose(graph: GraphModule, component: str, recipe: Recipe) -> tuple[Layer, ...]:
    """What becomes integers."""
    return tuple(layer for layer in find_layers(graph) if becomes_integers(layer.name, layer.kind, component, recipe))


def _quantise_graph(graph: GraphModule, chosen: Collection[Layer], recipe: Recipe, samples: list[Any]) -> GraphModule:
    activations = recipe.activations
    smooth = activations.smooth_quant
    groups = decide_int4(graph, chosen, recipe) if recipe.weights.dtype == "int4" else {}
    in_int8 = [each.node for each in chosen if each.kind != "embedding" and each.node not in groups]
    with mapped_activations():
        quantised: GraphModule = quantize_pt2e(
            graph,
            Annotator(in_int8, static=activations.ranges == "static"),
            nncf.Dataset(samples),
            subset_size=len(samples),
            fast_bias_correction=True if activations.bias_correction else None,
            smooth_quant=smooth is not None,
            smooth_quant_params=AdvancedSmoothQuantParameters(matmul=smooth) if smooth is not None else None,
            fold_quantize=True,
        )
    for layer in chosen:
        if layer.kind == "embedding":
            _quantise_embedding(quantised, layer)
        elif layer.node in groups:
            store_groups(quantised, layer.node, groups[layer.node])
    quantised.graph.eliminate_dead_code()
    quantised.recompile()
    return quantised


def _quantise_embedding(graph: GraphModule, layer: Layer) -> None:
    """A token embedding, a scale a token.

    NNCF has a scale per column for an embedding, which no target's kernel takes, and one per row for a product: it
    decides on the table as the weight of a product.
    """
    (node,) = (each for each in graph.graph.nodes if each.name == layer.node)
    table = parameter(graph, node.args[0])
    product = nn.Linear(table.shape[1], table.shape[0], bias=False).requires_grad_(False)
    product.weight = nn.Parameter(table, requires_grad=False)
    example = torch.zeros(1, table.shape[1])
    alone = unlifted(product.eval(), (example,))
    (only,) = find_layers(alone)
    decided = quantize_pt2e(
        alone, Annotator([only.node], static=False), nncf.Dataset([example]), subset_size=1, fast_bias_correction=None
    )
    (source,) = decided.graph.find_nodes(
        op="call_function", target=torch.ops.quantized_decomposed.dequantize_per_channel.default
    )
    tensors = [parameter(decided, each) for each in source.args[:3]]
    names = [f"{layer.name}_{part}".replace(".", "_") for part in ("integers", "scale", "zero_point")]
    for name, tensor in zip(names, tensors, strict=True):
        graph.register_buffer(name, tensor)
    with graph.graph.inserting_before(node):
        read = [graph.graph.get_attr(name) for name in names]
        wide = graph.graph.call_function(source.target, (*read, *source.args[3:]))
    node.update_arg(0, wide)


def _read_decisions(graph: GraphModule, chosen: Collection[Layer]) -> tuple[StoredWeight, ...]:
    """What the quantised graph says of each chosen layer.

    Raises:
        RecipeError: NNCF left a layer in float.
    """
    nodes = {node.name: node for node in graph.graph.nodes}
    decided = {}
    for layer in chosen:
        wide = weight_of(nodes[layer.node])
        if "dequantize_per_channel" not in str(wide.target):
            raise RecipeError(f"NNCF left {layer.name} in floating point", hint="name it in weights.float_layers")
        integers, scale, zero_point = (parameter(graph, each).cpu().numpy() for each in wide.all_input_nodes[:3])
        rows = len(integers)
        decided[layer.name] = StoredWeight(
            layer=layer.name,
            bits=4 if "group" in str(wide.target) else 8,
            values=integers,
            scale=scale.astype("float32").reshape(rows, -1),
            zero_point=zero_point.astype("int32").reshape(rows, -1),
        )
    return tuple(decided.values())
