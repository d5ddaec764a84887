"""How much an embedding depends on each structure of a tower, and which ones should go.

A structure's importance is by how much the squared distance from the whole network's embedding would grow without it,
the embedding taken as linear: its activations are scaled by a gate, and where J is d embedding / d gate and e what the
embedding has moved already, |e - J|^2 - |e|^2 = |J|^2 - 2 J . e, a mean over calibration data.
Molchanov et al. (CVPR 2019, arXiv 1906.10771) judge by this gate's effect on a training loss; Michel et al. (NeurIPS
2019, arXiv 1905.10650) do so for heads. The distance to the network's own embedding has no slope where it is whole,
so its curvature |J|^2 counts, as in Fisher pruning (Theis et al., 2018, arXiv 1801.05787). That needs neither labels
nor a teacher. A random direction v stands for all of the embedding's numbers, since the mean of (v . J)^2 is |J|^2
(Hutchinson, 1990).

Heads and MLP channels are judged once. The few channels of a convolutional stage each carry much, and what one is worth
depends on which others are left, so they go in steps and are judged again after each: of the built-in student's a
quarter in eight steps leaves a mean cosine of 0.80, in one 0.48 to 0.72, no better than chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from edgevlm.compression.structures import Group, Kind

_AT_ONCE = 8
_STEPS: Mapping[Kind, int] = {"heads": 1, "mlp": 1, "channels": 8}
# Kernels work on vectors of this many channels, and compute the rest of an odd number in vain.
_MULTIPLES: Mapping[Kind, int] = {"heads": 1, "mlp": 8, "channels": 8}


def select(
    network: nn.Module,
    groups: Sequence[Group],
    embed: Callable[[Tensor], Tensor],
    samples: Tensor,
    ratios: Mapping[Kind, float],
    seed: int,
    progress: Callable[[float], None],
) -> list[Tensor]:
    """The structures that stay, int64 [K] a group, ascending.

    Args:
        network: Where the groups' names start; in eval mode, without gradients.
        groups: What there is.
        embed: Runs the network: samples -> unit vectors [N, D].
        samples: What the tower takes, in batches along dimension 0.
        ratios: Share of a kind's structures to remove, at least 0 and below 1.
        seed: Of the directions.
        progress: Told the share that is done.
    """
    steps = max((_STEPS[group.kind] for group in groups if ratios[group.kind] > 0), default=1)
    values = [torch.zeros(group.count) for group in groups]  # below zero: gone, and the lower the earlier
    for step in range(steps):
        gone = [each < 0 for each in values]
        found = score(network, groups, gone, embed, samples, seed + step, _part(progress, step, steps))
        lowest = torch.cat(found).min()
        values = [value.where(away, new - lowest) for value, away, new in zip(values, gone, found, strict=True)]
        for places in _rivals(groups):
            rivals = torch.cat([values[place] for place in places])
            ratio = ratios[groups[places[0]].kind] * (step + 1) / steps
            doomed = rivals.argsort()[: round(len(rivals) * ratio)]
            rivals[doomed] = torch.arange(len(doomed)) - float(len(rivals))
            parts = torch.split(rivals, [groups[place].count for place in places])
            for place, value in zip(places, parts, strict=True):
                values[place] = value
    return choose(groups, values, ratios)


def score(
    network: nn.Module,
    groups: Sequence[Group],
    gone: Sequence[Tensor],
    embed: Callable[[Tensor], Tensor],
    samples: Tensor,
    seed: int,
    progress: Callable[[float], None],
) -> list[Tensor]:
    """The importance of every structure, float32 [count] a group; of those that are gone it means nothing.

    Args:
        network: Where the groups' names start; in eval mode, without gradients.
        groups: What is judged.
        gone: Which structures are removed already, bool [count] a group.
        embed: Runs the network: samples -> unit vectors [N, D].
        samples: What the tower takes, in batches along dimension 0.
        seed: Of the directions.
        progress: Told the share that is done.
    """
    generator = torch.Generator().manual_seed(seed)
    totals = [torch.zeros(group.count) for group in groups]
    for start in range(0, len(samples), _AT_ONCE):
        batch = samples[start : start + _AT_ONCE]
        gates = [(~away).float().repeat(len(batch), 1).requires_grad_() for away in gone]
        with _gated(network, groups, gates):
            embeddings = embed(batch)
        with torch.no_grad():
            moved = embeddings - embed(batch)
        directions = torch.randn(embeddings.shape, generator=generator)
        slopes = torch.autograd.grad((embeddings * directions).sum(), gates, retain_graph=True)
        drifts = torch.autograd.grad((embeddings * moved).sum(), gates)
        for total, slope, drift in zip(totals, slopes, drifts, strict=True):
            total += (slope.square() - 2 * drift).sum(0)
        progress(min(start + _AT_ONCE, len(samples)) / len(samples))
    return [total / len(samples) for total in totals]


def choose(groups: Sequence[Group], scores: Sequence[Tensor], ratios: Mapping[Kind, float]) -> list[Tensor]:
    """The structures that stay, int64 [K] a group, ascending.

    The least valuable go, whichever of several rival groups they are in. What stays of a group's channels is a
    multiple of 8, or all of them.

    Args:
        groups: What there is.
        scores: Of each group, the worth of its structures.
        ratios: Share of a kind's structures to remove, at least 0 and below 1.
    """
    left = [group.count for group in groups]
    for places in _rivals(groups):
        owners = torch.cat([torch.full((groups[place].count,), place) for place in places])
        doomed = torch.cat([scores[place] for place in places]).argsort()
        doomed = doomed[: round(len(owners) * ratios[groups[places[0]].kind])]
        for place in places:
            left[place] -= int((owners[doomed] == place).sum())
    return [
        found.argsort(descending=True)[: _round(count, group)].sort().values
        for group, found, count in zip(groups, scores, left, strict=True)
    ]


def _part(progress: Callable[[float], None], step: int, steps: int) -> Callable[[float], None]:
    return lambda share: progress((step + share) / steps)


def _rivals(groups: Sequence[Group]) -> list[list[int]]:
    """The places of groups whose structures compete."""
    rivals: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        rivals.setdefault(group.rivals, []).append(place)
    return list(rivals.values())


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
