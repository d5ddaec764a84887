"""How much an embedding depends on each structure of a tower, and which ones should go.

A structure's importance is the squared distance that the embedding would move without it, to the first order: its
activations are scaled by a gate, and the importance is |d embedding / d gate|^2 at 1, a mean over calibration data.
Molchanov et al. (CVPR 2019, arXiv 1906.10771) judge by this gate's effect on a training loss; Michel et al. (NeurIPS
2019, arXiv 1905.10650) do so for heads. The distance to the network's own embedding has no slope where it is whole,
so its curvature is taken instead, as in Fisher pruning (Theis et al., 2018, arXiv 1801.05787). That needs neither
labels nor a teacher. A random direction v stands for all of the embedding's numbers, since the mean of (v . J)^2 is
|J|^2 (Hutchinson, 1990).

Being of the first order, it tells MLP channels apart well, and structures that each carry much, as the few channels of
a narrow stage do, no better than chance: what those cost is seen, and mended, by training on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from edgevlm.compression.structures import Group, Kind

_AT_ONCE = 8
# Kernels work on vectors of this many channels, and compute the rest of an odd number in vain.
_MULTIPLES: Mapping[Kind, int] = {"heads": 1, "mlp": 8, "channels": 8}


def score(
    network: nn.Module,
    groups: Sequence[Group],
    embed: Callable[[Tensor], Tensor],
    samples: Tensor,
    seed: int,
    progress: Callable[[float], None],
) -> list[Tensor]:
    """The importance of every structure, float32 [count] a group.

    Args:
        network: Where the groups' names start; in eval mode, without gradients.
        groups: What is judged.
        embed: Runs the network: samples -> unit vectors [N, D].
        samples: What the tower takes, in batches along dimension 0.
        seed: Of the directions.
        progress: Told the share that is done.
    """
    generator = torch.Generator().manual_seed(seed)
    totals = [torch.zeros(group.count) for group in groups]
    for start in range(0, len(samples), _AT_ONCE):
        batch = samples[start : start + _AT_ONCE]
        gates = [torch.ones(len(batch), group.count, requires_grad=True) for group in groups]
        with _gated(network, groups, gates):
            embeddings = embed(batch)
        directions = torch.randn(embeddings.shape, generator=generator)
        slopes = torch.autograd.grad((embeddings * directions).sum(), gates)
        for total, slope in zip(totals, slopes, strict=True):
            total += slope.square().sum(0)
        progress(min(start + _AT_ONCE, len(samples)) / len(samples))
    return [total / len(samples) for total in totals]


def choose(groups: Sequence[Group], scores: Sequence[Tensor], ratios: Mapping[Kind, float]) -> list[Tensor]:
    """The structures that stay, int64 [K] a group, ascending.

    The least important go, whichever of several rival groups they are in. What stays of a group's channels is a
    multiple of 8, or all of them.

    Args:
        groups: What there is.
        scores: Of each group, the importance of its structures.
        ratios: Share of a kind's structures to remove, at least 0 and below 1.
    """
    rivals: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        rivals.setdefault(group.rivals, []).append(place)
    left = [group.count for group in groups]
    for places in rivals.values():
        owners = torch.cat([torch.full((groups[place].count,), place) for place in places])
        doomed = torch.cat([scores[place] for place in places]).argsort()
        doomed = doomed[: round(len(owners) * ratios[groups[places[0]].kind])]
        for place in places:
            left[place] -= int((owners[doomed] == place).sum())
    return [
        found.argsort(descending=True)[: _round(count, group)].sort().values
        for group, found, count in zip(groups, scores, left, strict=True)
    ]


def _round(count: int, group: Group) -> int:
    multiple = _MULTIPLES[group.kind]
    return min(group.count, max(1, (count + multiple // 2) // multiple) * multiple)


@contextmanager
def _gated(network: nn.Module, groups: Sequence[Group], gates: Sequence[Tensor]) -> Iterator[None]:
    """While the block runs, each group's activations are multiplied by its gates, [N, count]."""
    with ExitStack() as hooks:
        for group, gate in zip(groups, gates, strict=True):
            wide = gate.repeat_interleave(group.size, 1)
            for name in group.gates:
                hooks.enter_context(network.get_submodule(name).register_forward_hook(_multiply(wide)))
        yield


def _multiply(gate: Tensor) -> Callable[[nn.Module, object, Tensor], Tensor]:
    def hook(_: nn.Module, __: object, activations: Tensor) -> Tensor:
        maps = activations.ndim == 4
        return activations * (gate[:, :, None, None] if maps else gate[:, None, :])

    return hook
