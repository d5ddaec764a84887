"""Random numbers: of the named distribution, not the very numbers that Core ML draws, which nothing documents.

With a seed (any but -1) every prediction draws the same, as MIL's page promises; without one each draws anew.
"""

from __future__ import annotations

from typing import Literal

import torch

from edgevlm.runtimes.mlprogram.ops.registry import Ints, Tensor, op


def _generator(seed: int) -> torch.Generator:
    generator = torch.Generator()
    if seed == -1:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


@op("random_normal", pure=False)
def random_normal(shape: Ints, mean: float = 0.0, stddev: float = 1.0, seed: int = -1) -> Tensor:
    return mean + stddev * torch.randn(shape, generator=_generator(seed))


@op("random_uniform", pure=False)
def random_uniform(shape: Ints, low: float = 0.0, high: float = 1.0, seed: int = -1) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=_generator(seed))


@op("random_bernoulli", pure=False)
def random_bernoulli(shape: Ints, prob: float = 0.5, seed: int = -1) -> Tensor:
    return (torch.rand(shape, generator=_generator(seed)) < prob).float()


@op("random_categorical", pure=False)
def random_categorical(x: Tensor, mode: Literal["logits", "probs"] = "logits", size: int = 1, seed: int = -1) -> Tensor:
    shares = (x.softmax(-1) if mode == "logits" else x).reshape(-1, x.shape[-1])
    drawn = torch.multinomial(shares, size, replacement=True, generator=_generator(seed))
    return drawn.reshape(*x.shape[:-1], size).float()
