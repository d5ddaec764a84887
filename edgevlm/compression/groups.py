"""int4 weights in groups: NNCF decides which layers, which integers and which scales."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import nncf  # type: ignore[import-untyped]
import torch
from nncf.quantization.advanced_parameters import AdvancedCompressionParameters, GroupSizeFallbackMode  # type: ignore[import-untyped]
from nncf.torch.quantization.layers import INT4SymmetricWeightsDecompressor, unpack_int4  # type: ignore[import-untyped]
from torch import Tensor
from torch.fx import GraphModule

from edgevlm.bundle.recipe import Recipe
from edgevlm.compression.folding import parameter
from edgevlm.compression.layers import Layer, find_layers

LOW, HIGH = -8, 7


@dataclass(frozen=True)
class Groups:
    """One weight.

    Attributes:
        integers: int8 [out, in], -8..7.
        scale: float32 [out, in / group size], positive; exact in float16.
    """

    integers: Tensor
    scale: Tensor


def decide_int4(graph: GraphModule, chosen: Collection[Layer], recipe: Recipe) -> dict[str, Groups]:
    """What becomes int4, by the name of the node that reads it: products whose inputs the group size divides.

    With `int4_share` below 1, NNCF leaves those out whose weights int4 would hurt most; they become int8.

    NNCF's scales have a sign, so that each group's largest magnitude is -8; the kernels want positive ones. So the
    sign moves into the integers, where a group's +8 becomes 7.
    """
    rivals = [layer.node for layer in chosen if layer.kind == "linear"]
    others = [layer.node for layer in find_layers(graph) if layer.node not in rivals]
    share = recipe.weights.int4_share
    compressed = nncf.compress_weights(
        torch.fx.GraphModule(graph, graph.graph.__deepcopy__()),
        mode=nncf.CompressWeightsMode.INT4_SYM,
        group_size=recipe.weights.group_size,
        ratio=share if share < 1 else None,
        all_layers=True,
        ignored_scope=nncf.IgnoredScope(names=others),
        backup_mode=nncf.BackupMode.INT8_SYM,
        advanced_parameters=AdvancedCompressionParameters(group_size_fallback_mode=GroupSizeFallbackMode.IGNORE),
    )
    found = {}
    for node in compressed.graph.nodes:
        if node.op != "call_module":
            continue
        widening = compressed.get_submodule(str(node.target))
        if isinstance(widening, INT4SymmetricWeightsDecompressor):
            packed = parameter(compressed, node.args[0])
            (reader,) = node.users
            found[reader.name] = _positive(unpack_int4(packed), widening._scale)
    return found


def store_groups(graph: GraphModule, name: str, groups: Groups) -> None:
    """Puts a weight's integers behind a `dequantize_per_channel_group`, in the node of that name."""
    (node,) = (each for each in graph.graph.nodes if each.name == name)
    owner = name.replace(".", "_")
    tensors = (groups.integers, groups.scale, torch.zeros_like(groups.scale, dtype=torch.int8))
    names = [f"{owner}_{part}" for part in ("integers", "scale", "zero_point")]
    for each, tensor in zip(names, tensors, strict=True):
        graph.register_buffer(each, tensor)
    group_size = groups.integers.shape[1] // groups.scale.shape[1]
    with graph.graph.inserting_before(node):
        read = [graph.graph.get_attr(each) for each in names]
        wide = graph.graph.call_function(
            torch.ops.quantized_decomposed.dequantize_per_channel_group.default,
            (*read, LOW, HIGH, torch.int8, group_size, torch.float32),
        )
    node.update_arg(1, wide)


def _positive(packed: Tensor, scale: Tensor) -> Groups:
    """[out, groups, size] or flat integers, and scales [out, groups, 1] of either sign."""
    signed = scale.float().reshape(scale.shape[0], -1)
    integers = packed.reshape(*signed.shape, -1).to(torch.int16)
    flipped = torch.where(signed.unsqueeze(-1) < 0, -integers, integers).clamp(LOW, HIGH)
    return Groups(flipped.to(torch.int8).reshape(signed.shape[0], -1), signed.abs())
