"""Convolutions with several branches in training and one on the device, and their fusion.

RepVGG (Ding et al., 2021, arXiv 2101.03697) adds a 1x1 convolution and the input itself to a k x k convolution, each
behind a BatchNorm of its own; MobileOne (Vasu et al., 2022, arXiv 2206.04040) puts several copies of the k x k side
by side; FastViT (Vasu et al., 2023, arXiv 2303.14189) folds a block's skip connection in as well. All of it is linear
once BatchNorm's statistics are fixed, and so equals one convolution.
"""

from __future__ import annotations

import functools
from copy import deepcopy
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

M = TypeVar("M", bound=nn.Module)


class RepConv(nn.Module):
    """float32 [N, C, H, W] -> [N, W, H / stride, W / stride], without an activation.

    Args:
        channels: C.
        width: Channels of the result.
        kernel: Odd; the input is padded so that only `stride` changes the size.
        stride: 1 or 2.
        groups: Equal to `channels` for a depthwise convolution.
        copies: How many k x k convolutions stand side by side.
        skip: Whether the input itself is added; needs `channels == width` and stride 1.
        identity: Whether the input is added behind a BatchNorm of its own where `channels == width` and the stride is
            1; False where these are equal by chance.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        copies: int = 1,
        skip: bool = False,
        identity: bool = True,
    ) -> None:
        super().__init__()
        self.shape = (channels, width, kernel, stride, groups)
        self.skip = skip
        self.kernels = [kernel] * copies + ([1] if kernel > 1 else [])
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, width, size, stride if size > 1 else 1, size // 2, groups=groups, bias=False),
                nn.BatchNorm2d(width),
            )
            for size in self.kernels
        )
        self.identity = nn.BatchNorm2d(channels) if identity and channels == width and stride == 1 else None

    def forward(self, maps: Tensor) -> Tensor:
        # A 1x1 convolution sees every other pixel only, which are taken here: torch 2.13's gradient of a strided one of
        # few channels, channels last and 128 pixels wide, reads beyond its memory.
        stride = self.shape[3]
        sampled = maps[..., ::stride, ::stride]
        sums = [
            branch(maps if kernel > 1 else sampled) for branch, kernel in zip(self.branches, self.kernels, strict=True)
        ]
        if self.identity is not None:
            sums.append(self.identity(maps))
        if self.skip:
            sums.append(maps)
        total: Tensor = functools.reduce(torch.add, sums)
        return total

    @torch.no_grad()
    def fuse(self) -> nn.Conv2d:
        """The one convolution that this is in eval mode; summed in float64, so that only its own rounding differs."""
        channels, width, kernel, stride, groups = self.shape
        device = next(self.parameters()).device
        weight = torch.zeros(width, channels // groups, kernel, kernel, dtype=torch.float64, device=device)
        bias = torch.zeros(width, dtype=torch.float64, device=device)
        centre = torch.zeros_like(weight)
        rows = torch.arange(width, device=device)
        centre[rows, rows % (channels // groups), kernel // 2, kernel // 2] = 1.0
        for branch in self.branches:
            conv, norm = cast(tuple[nn.Conv2d, nn.BatchNorm2d], tuple(branch.children()))
            scale, shift = _scale_and_shift(norm)
            margin = (kernel - conv.weight.shape[-1]) // 2
            weight += scale.reshape(-1, 1, 1, 1) * nn.functional.pad(conv.weight.double(), [margin] * 4)
            bias += shift
        if self.identity is not None:
            scale, shift = _scale_and_shift(self.identity)
            weight += scale.reshape(-1, 1, 1, 1) * centre
            bias += shift
        if self.skip:
            weight += centre
        fused = nn.Conv2d(channels, width, kernel, stride, kernel // 2, groups=groups, device="meta")
        fused.weight, fused.bias = nn.Parameter(weight.float()), nn.Parameter(bias.float())
        return fused


def fuse(tower: M) -> M:
    """A copy in eval mode in which every `RepConv`, and every convolution followed by a BatchNorm, is one convolution.

    It answers what `tower` answers in eval mode; towers without such parts are copied as they are.
    """
    fused = deepcopy(tower).eval()
    _fuse_children(fused)
    return fused


def _fuse_children(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, RepConv):
            setattr(module, name, child.fuse())
        elif isinstance(child, nn.BatchNorm2d) and isinstance(module, nn.Sequential):
            before = str(int(name) - 1)
            setattr(module, before, fuse_conv_bn_eval(getattr(module, before), child))
            setattr(module, name, nn.Identity())
        else:
            _fuse_children(child)


def _scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What it does in eval mode, `scale * x + shift`, float64 [C] each."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise ValueError("a BatchNorm without running statistics cannot be fused")
    scale = norm.weight.double() / (variance.double() + norm.eps).sqrt()
    return scale, norm.bias.double() - mean.double() * scale
