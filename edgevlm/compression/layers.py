"""The layers of a captured graph whose weights can be compressed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.fx import GraphModule, Node

from edgevlm.bundle.recipe import Recipe
from edgevlm.compression.folding import parameter
from edgevlm.errors import RecipeError
from edgevlm.graphs.capture import plain_attention, unlifted
from edgevlm.graphs.program import Program, Programs

_aten = torch.ops.aten
_CONVOLUTIONS = (_aten.conv2d.default, _aten.conv2d.padding)  # with padding in numbers, or by name
_EMBEDDING = _aten.embedding.default


@dataclass(frozen=True)
class Layer:
    """A weight that can be quantised.

    Attributes:
        name: The module's path in the program, such as `blocks.3.mlp.0`.
        node: Name of the graph's node that reads it.
        kind: `linear`, `conv2d`, `depthwise` (a convolution of one input channel a group) or `embedding`.
        shape: Of the weight.
    """

    name: str
    node: str
    kind: str
    shape: tuple[int, ...]


def find_layers(graph: GraphModule) -> tuple[Layer, ...]:
    """Every weight of a graph that a matrix product, a convolution or an embedding reads as it is."""
    found = []
    for node in graph.graph.nodes:
        if node.op != "call_function" or node.target not in (_aten.linear.default, *_CONVOLUTIONS, _EMBEDDING):
            continue
        weight = weight_of(node)
        if weight.op == "get_attr":
            tensor = parameter(graph, weight)
            if node.target is _EMBEDDING and not isinstance(tensor, nn.Parameter):
                continue  # a table that was computed, such as the angles of positions
            shape = tuple(tensor.shape)
            name = str(weight.target).removesuffix(".weight")
            found.append(Layer(name, node.name, _kind(node, shape), shape))
    return tuple(found)


def becomes_integers(name: str, kind: str, component: str, recipe: Recipe) -> bool:
    """Whether a recipe that quantises makes integers of a layer's weight.

    XNNPACK has no depthwise convolution whose input is quantised as it comes, and these weights are few: they stay as
    they are unless their inputs' ranges are fixed, or stay in float. Scores of labels lie so close that 8 bits in a
    fixed range do not tell them apart (top-1 agreement of the built-in student 0.895; 0.995 with the label table in
    float): with static ranges it stays as it is.
    """
    ranges = recipe.activations.ranges
    if any(fnmatchcase(f"{component}/{name}", pattern) for pattern in recipe.weights.float_layers):
        return False
    if ranges == "static" and component == "classify" and name == "labels":
        return False
    return ranges != "dynamic" or kind != "depthwise"


def layer_names(program: Program) -> tuple[str, ...]:
    """The names of a program's layers, in the order in which they run."""
    with plain_attention():
        return tuple(layer.name for layer in find_layers(unlifted(program.module, program.example)))


def refuse_unknown_layers(programs: Programs, recipe: Recipe) -> None:
    """Raises RecipeError for a `float_layers` pattern that names nothing, before the long work starts."""
    if not recipe.weights.float_layers:
        return
    refuse_unknown_patterns(
        [f"{component}/{name}" for component, program in programs.items() for name in layer_names(program)], recipe
    )


def refuse_unknown_patterns(names: Sequence[str], recipe: Recipe) -> None:
    """The same for names such as `encode_image/blocks.3.mlp.fc1` that are known already."""
    for pattern in recipe.weights.float_layers:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise RecipeError(
                f"recipe {recipe.name}: weights.float_layers: {pattern!r} names no layer: expected globs on names "
                f"such as {', '.join(names[:3])}",
                hint="edgevlm tune lists the layers with what each costs",
            )


def weight_of(node: Node) -> Node:
    """The node that a layer's node reads its weight from."""
    weight = node.args[0] if node.target is _EMBEDDING else node.args[1]
    if not isinstance(weight, Node):
        raise TypeError(f"{node.name}: expected a weight, got {weight!r}")
    return weight


def _kind(node: Node, shape: tuple[int, ...]) -> str:
    if node.target is _EMBEDDING:
        return "embedding"
    if node.target is _aten.linear.default:
        return "linear"
    groups = node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)
    return "depthwise" if groups != 1 and shape[1] == 1 else "conv2d"
