"""What structured pruning can remove from a tower, and which tensors hold it.

The families are few and their modules known, so what depends on what is written down rather than traced. Removing a
structure gives a smaller network that computes exactly what the whole one does with that structure's weights at zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, TypeVar, cast

import torch
from torch import Tensor, nn
from transformers.models.clip.modeling_clip import CLIPMLP
from transformers.models.siglip.modeling_siglip import SiglipMLP

from edgevlm.models.network import Network
from edgevlm.models.students.blocks import Block
from edgevlm.models.students.config import GridConfig, HybridConfig, ImageTowerConfig, TextTowerConfig
from edgevlm.models.students.hybrid import ConvolutionBlock
from edgevlm.models.students.reparameterised import RepConv

Kind: TypeAlias = Literal["heads", "mlp", "channels"]
Config = TypeVar("Config", bound=ImageTowerConfig | TextTowerConfig)


@dataclass(frozen=True)
class Group:
    """Structures that stand side by side in one place, any of which can be removed.

    Attributes:
        kind: What they are: attention heads, channels of an MLP, or channels of a stage of convolutions.
        count: How many there are.
        field, index: Where a student's config gives their number: an entry of `block_heads`, say.
        tensors: Names in the network's state, and the dimension along which the structures lie in each.
        gates: Names of the modules that write the structures' activations, along dimension 1 of four, else the last.
        rivals: Groups with the same value compete for the same places, as their structures cost the same.
        size: Neighbouring rows of a tensor, and channels of an activation, that belong to one structure.
    """

    kind: Kind
    count: int
    field: str
    index: int
    tensors: tuple[tuple[str, int], ...]
    gates: tuple[str, ...]
    rivals: str
    size: int = 1


def find_structures(tower: nn.Module, config: ImageTowerConfig | TextTowerConfig) -> tuple[Group, ...]:
    """All of a student's tower, in its training form; names are those within the tower."""
    groups: list[Group] = []
    for index, block in enumerate(cast(Sequence[Block], tower.blocks)):
        groups += _block(block, f"blocks.{index}", index)
    if isinstance(config, GridConfig):
        groups += [_stem_stage(stage, channels) for stage, channels in enumerate(config.stem_channels)]
    elif isinstance(config, HybridConfig):
        groups += _hybrid_stages(tower, config)
    return tuple(groups)


def find_hub_mlps(network: Network, half: Literal["vision_model", "text_model"]) -> tuple[Group, ...]:
    """The MLPs of one half of a CLIP or SigLIP; names are those within the network.

    The hub's format has one `intermediate_size` for all of a half's MLPs, so they do not compete but shrink alike;
    it has no place for the size of a head, so that heads must stay.
    """
    found = {
        name: module.fc1.out_features
        for name, module in network.named_modules()
        if isinstance(module, CLIPMLP | SiglipMLP) and name.startswith(f"{half}.")
    }
    return tuple(
        _linear_mlp(f"{name}.fc1", f"{name}.activation_fn", f"{name}.fc2", count, index, rivals=name)
        for index, (name, count) in enumerate(found.items())
    )


def keep(state: Mapping[str, Tensor], groups: Sequence[Group], kept: Sequence[Tensor]) -> dict[str, Tensor]:
    """A network's tensors without the structures that were not kept.

    Args:
        state: By name.
        groups: What there is.
        kept: Of each group, the structures that stay, int64 [K].
    """
    smaller = dict(state)
    for group, structures in zip(groups, kept, strict=True):
        rows = (structures[:, None] * group.size + torch.arange(group.size)).flatten()
        for name, dimension in group.tensors:
            smaller[name] = smaller[name].index_select(dimension, rows)
    return smaller


def resize(config: Config, groups: Sequence[Group], kept: Sequence[Tensor]) -> Config:
    """A student's config with the sizes that are left; arguments as `keep`'s."""
    sizes: dict[str, dict[int, int]] = {}
    for group, structures in zip(groups, kept, strict=True):
        before = getattr(config, group.field) or ()
        sizes.setdefault(group.field, dict(enumerate(before)))[group.index] = len(structures)
    changed: dict[str, Any] = {field: tuple(found[i] for i in sorted(found)) for field, found in sizes.items()}
    return replace(config, **changed)


def _block(block: Block, name: str, index: int) -> list[Group]:
    attention, hidden = block.attention, cast(nn.Linear, block.mlp[0])
    projections = [f"{name}.attention.{part}" for part in ("query", "key", "value")]
    heads = Group(
        kind="heads",
        count=attention.heads,
        field="block_heads",
        index=index,
        tensors=(
            *((f"{projection}.{tensor}", 0) for projection in projections for tensor in ("weight", "bias")),
            (f"{name}.attention.out.weight", 1),
        ),
        gates=(f"{name}.attention.value",),
        rivals="block_heads",
        size=attention.value.out_features // attention.heads,
    )
    mlp = _linear_mlp(
        f"{name}.mlp.0", f"{name}.mlp.1", f"{name}.mlp.2", hidden.out_features, index, rivals="block_mlps"
    )
    return [heads, mlp]


def _linear_mlp(first: str, activation: str, second: str, count: int, index: int, *, rivals: str) -> Group:
    tensors = ((f"{first}.weight", 0), (f"{first}.bias", 0), (f"{second}.weight", 1))
    return Group("mlp", count, "block_mlps", index, tensors, gates=(activation,), rivals=rivals)


def _stem_stage(stage: int, channels: int) -> Group:
    """Of `grid.ImageTower.stem`: a convolution, its norm and ReLU, a residual, and the next stage's convolution."""
    convolution, norm, relu, residual, following = (f"stem.{4 * stage + offset}" for offset in range(5))
    inner, inner_norm = f"{residual}.layers.0.weight", f"{residual}.layers.1"
    return Group(
        kind="channels",
        count=channels,
        field="stem_channels",
        index=stage,
        tensors=(
            (f"{convolution}.weight", 0),
            *_norm(norm),
            (inner, 0),
            (inner, 1),
            *_norm(inner_norm),
            (f"{following}.weight", 1),
        ),
        gates=(relu, f"{residual}.layers"),
        rivals=f"stem_channels {stage}",
    )


def _hybrid_stages(tower: nn.Module, config: HybridConfig) -> list[Group]:
    """Of `hybrid.ImageTower.convolutions`: the channels of each stage but the last, and of each block's MLP."""
    last = len(config.widths) - 1
    tensors: list[list[tuple[str, int]]] = [[] for _ in config.widths]
    gates: list[list[str]] = [[] for _ in config.widths]
    mlps: list[Group] = []
    stage = 0
    for index, module in enumerate(cast(Sequence[nn.Module], tower.convolutions)):
        name = f"convolutions.{index}"
        if isinstance(module, ConvolutionBlock):
            first, second = cast(tuple[RepConv, RepConv], (module.mlp[0], module.mlp[2]))
            tensors[stage] += _writes(module.mixer, f"{name}.mixer") + _reads(first, f"{name}.mlp.0")
            tensors[stage] += _writes(second, f"{name}.mlp.2")
            gates[stage].append(f"{name}.mlp.2")
            hidden = (*_writes(first, f"{name}.mlp.0"), *_reads(second, f"{name}.mlp.2"))
            place, rivals = len(mlps), f"convolution_mlps {stage}"
            mlps.append(Group("mlp", first.shape[1], "convolution_mlps", place, hidden, (f"{name}.mlp.1",), rivals))
        elif isinstance(module, RepConv) and module.shape[-1] > 1:
            tensors[stage] += _writes(module, name)
        elif isinstance(module, RepConv):
            if index > 0:
                tensors[stage] += _reads(module, name)
                # The only other one that mixes channels and keeps their number is the first stage's own.
                stage += module.identity is None
            tensors[stage] += _writes(module, name)
            gates[stage].append(name)
    stages = [
        Group("channels", config.widths[i], "widths", i, tuple(tensors[i]), tuple(gates[i]), rivals=f"widths {i}")
        for i in range(last)
    ]
    return stages + mlps


def _reads(convolution: RepConv, name: str) -> list[tuple[str, int]]:
    """Where a convolution that mixes channels holds those that it takes."""
    return [(f"{name}.branches.{branch}.0.weight", 1) for branch in range(len(convolution.branches))]


def _writes(convolution: RepConv, name: str) -> list[tuple[str, int]]:
    """Where a convolution holds the channels that it gives; a depthwise one gives those that it takes."""
    found: list[tuple[str, int]] = []
    for branch in range(len(convolution.branches)):
        found += [(f"{name}.branches.{branch}.0.weight", 0), *_norm(f"{name}.branches.{branch}.1")]
    return found + (list(_norm(f"{name}.identity")) if convolution.identity is not None else [])


def _norm(name: str) -> tuple[tuple[str, int], ...]:
    return tuple((f"{name}.{tensor}", 0) for tensor in ("weight", "bias", "running_mean", "running_var"))
