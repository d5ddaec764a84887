"""Softmax and normalisation layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from edgevlm.runtimes.mlprogram.ops.registry import Ints, Tensor, op


@op("softmax")
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    return x.softmax(axis)


@op("layer_norm")
def layer_norm(
    x: Tensor,
    axes: Ints | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    chosen = range(x.ndim) if axes is None else sorted(axis % x.ndim for axis in axes)
    sizes = [x.shape[axis] for axis in chosen]
    if list(chosen) == list(range(x.ndim - len(chosen), x.ndim)):
        return F.layer_norm(x, sizes, gamma, beta, epsilon)
    # gamma and beta have the shape of the normalised axes only, in the order of x.
    spread = [size if axis in chosen else 1 for axis, size in enumerate(x.shape)]
    variance, mean = torch.var_mean(x, dim=tuple(chosen), correction=0, keepdim=True)
    normalised = (x - mean) * torch.rsqrt(variance + epsilon)
    if gamma is not None:
        normalised = normalised * gamma.reshape(spread)
    return normalised if beta is None else normalised + beta.reshape(spread)


@op("batch_norm")
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    return F.batch_norm(x, mean, variance, gamma, beta, training=False, eps=epsilon)


@op("instance_norm")
def instance_norm(x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5) -> Tensor:
    return F.instance_norm(x, weight=gamma, bias=beta, eps=epsilon)


@op("l2_norm")
def l2_norm(x: Tensor, epsilon: float = 1e-6) -> Tensor:
    return x * torch.rsqrt(x.square().sum((-3, -2, -1), keepdim=True) + epsilon)


@op("local_response_norm")
def local_response_norm(x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    # An even window reaches one channel further back than forward, as torch's does.
    return F.local_response_norm(x, size, alpha, beta, k)
