"""The networks whose published latencies are counted: random weights, and each normalisation folded into its convolution.

That is how a backend runs them, and what int8 is made from; what is executed does not depend on the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

SIDE = 224
CLASSES = 1000


class Squeeze(nn.Module):
    """Squeeze-and-excitation of MobileNetV3 (section 5.3): [1, C, H, W] weighted channel by channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = _divisible(channels / 4)
        self.reduce, self.expand = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = functional.relu(self.reduce(functional.adaptive_avg_pool2d(x, 1)))
        return x * functional.hardsigmoid(self.expand(pooled))


class Residual(nn.Module):
    """The sum of two branches, and what follows it."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, after: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut, self.after = body, shortcut or nn.Identity(), after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.after(self.body(x) + self.shortcut(x))
        return answer


def mobilenet_v1() -> nn.Module:
    """Width 1 (arXiv 1704.04861, table 1)."""
    layers: list[nn.Module] = [_convolution(3, 32, 3, 2, nn.ReLU6)]
    channels = 32
    for out, stride in (
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        *[(512, 1)] * 5,
        (1024, 2),
        (1024, 1),
    ):
        layers += [_depthwise(channels, 3, stride, nn.ReLU6), _convolution(channels, out, 1, 1, nn.ReLU6)]
        channels = out
    return nn.Sequential(*layers, *_classifier(channels))


def mobilenet_v2() -> nn.Module:
    """Width 1 (arXiv 1801.04381, table 2)."""
    layers: list[nn.Module] = [_convolution(3, 32, 3, 2, nn.ReLU6)]
    channels = 32
    for expansion, out, repeats, stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ):  # fmt: skip
        for index in range(repeats):
            layers.append(_inverted(channels, channels * expansion, out, 3, stride if index == 0 else 1, nn.ReLU6))
            channels = out
    return nn.Sequential(*layers, _convolution(channels, 1280, 1, 1, nn.ReLU6), *_classifier(1280))


def mobilenet_v3_large() -> nn.Module:
    """Width 1 (arXiv 1905.02244, table 1)."""
    rows = (
        (3, 16, 16, False, nn.ReLU, 1), (3, 64, 24, False, nn.ReLU, 2), (3, 72, 24, False, nn.ReLU, 1),
        (5, 72, 40, True, nn.ReLU, 2), (5, 120, 40, True, nn.ReLU, 1), (5, 120, 40, True, nn.ReLU, 1),
        (3, 240, 80, False, nn.Hardswish, 2), (3, 200, 80, False, nn.Hardswish, 1),
        (3, 184, 80, False, nn.Hardswish, 1), (3, 184, 80, False, nn.Hardswish, 1),
        (3, 480, 112, True, nn.Hardswish, 1), (3, 672, 112, True, nn.Hardswish, 1),
        (5, 672, 160, True, nn.Hardswish, 2), (5, 960, 160, True, nn.Hardswish, 1), (5, 960, 160, True, nn.Hardswish, 1),
    )  # fmt: skip
    return _mobilenet_v3(rows, 960, 1280)


def mobilenet_v3_small() -> nn.Module:
    """Width 1 (arXiv 1905.02244, table 2)."""
    rows = (
        (3, 16, 16, True, nn.ReLU, 2), (3, 72, 24, False, nn.ReLU, 2), (3, 88, 24, False, nn.ReLU, 1),
        (5, 96, 40, True, nn.Hardswish, 2), (5, 240, 40, True, nn.Hardswish, 1), (5, 240, 40, True, nn.Hardswish, 1),
        (5, 120, 48, True, nn.Hardswish, 1), (5, 144, 48, True, nn.Hardswish, 1), (5, 288, 96, True, nn.Hardswish, 2),
        (5, 576, 96, True, nn.Hardswish, 1), (5, 576, 96, True, nn.Hardswish, 1),
    )  # fmt: skip
    return _mobilenet_v3(rows, 576, 1024)


def resnet_18() -> nn.Module:
    """Basic blocks (arXiv 1512.03385, table 1)."""
    layers = [_convolution(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for out, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        for step in (stride, 1):
            body = nn.Sequential(_convolution(channels, out, 3, step), _convolution(out, out, 3, 1, nn.Identity))
            layers.append(Residual(body, _shortcut(channels, out, step), nn.ReLU()))
            channels = out
    return nn.Sequential(*layers, *_classifier(channels))


def resnet_50() -> nn.Module:
    """Bottlenecks whose convolution of 3 x 3 has the stride (arXiv 1512.03385, table 1)."""
    layers = [_convolution(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for inner, repeats, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for index in range(repeats):
            step, out = stride if index == 0 else 1, 4 * inner
            body = nn.Sequential(
                _convolution(channels, inner, 1),
                _convolution(inner, inner, 3, step),
                _convolution(inner, out, 1, 1, nn.Identity),
            )
            layers.append(Residual(body, _shortcut(channels, out, step), nn.ReLU()))
            channels = out
    return nn.Sequential(*layers, *_classifier(channels))


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "MobileNetV1": mobilenet_v1,
    "MobileNetV2": mobilenet_v2,
    "MobileNetV3 Large": mobilenet_v3_large,
    "MobileNetV3 Small": mobilenet_v3_small,
    "ResNet-18": resnet_18,
    "ResNet-50": resnet_50,
}
"""Each maps [1, 3, SIDE, SIDE] to [1, CLASSES]."""


def build(name: str) -> nn.Module:
    """A network of that name, the same each time."""
    torch.manual_seed(0)
    return NETWORKS[name]().eval().requires_grad_(False)


def multiply_adds(network: nn.Module) -> int:
    """Of the convolutions and matrix products for one picture; SIDE gives its size."""
    total = 0

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        weight = layer.weight
        if isinstance(weight, Tensor):
            total += output.numel() * weight[0].numel()

    hooks = [
        layer.register_forward_hook(add) for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))
    ]
    with torch.no_grad():
        network(torch.zeros(1, 3, SIDE, SIDE))
    for hook in hooks:
        hook.remove()
    return total


def _mobilenet_v3(
    rows: tuple[tuple[int, int, int, bool, type[nn.Module], int], ...], last: int, hidden: int
) -> nn.Module:
    layers: list[nn.Module] = [_convolution(3, 16, 3, 2, nn.Hardswish)]
    channels = 16
    for kernel, inner, out, squeezed, activation, stride in rows:
        layers.append(_inverted(channels, inner, out, kernel, stride, activation, squeezed=squeezed))
        channels = out
    layers += [_convolution(channels, last, 1, 1, nn.Hardswish), nn.AdaptiveAvgPool2d(1)]
    head = (nn.Flatten(), nn.Linear(last, hidden), nn.Hardswish(), nn.Linear(hidden, CLASSES))
    return nn.Sequential(*layers, *head)


def _inverted(
    channels: int,
    inner: int,
    out: int,
    kernel: int,
    stride: int,
    activation: type[nn.Module],
    *,
    squeezed: bool = False,
) -> nn.Module:
    """An inverted residual: widened, filtered channel by channel, narrowed."""
    layers: list[nn.Module] = [] if inner == channels else [_convolution(channels, inner, 1, 1, activation)]
    layers.append(_depthwise(inner, kernel, stride, nn.Identity if squeezed else activation))
    if squeezed:
        layers += [Squeeze(inner), activation()]
    body = nn.Sequential(*layers, _convolution(inner, out, 1, 1, nn.Identity))
    return Residual(body) if stride == 1 and channels == out else body


def _convolution(
    channels: int, out: int, kernel: int, stride: int = 1, activation: type[nn.Module] = nn.ReLU
) -> nn.Module:
    layer = nn.Conv2d(channels, out, kernel, stride, kernel // 2)
    return layer if activation is nn.Identity else nn.Sequential(layer, activation())


def _depthwise(channels: int, kernel: int, stride: int, activation: type[nn.Module]) -> nn.Module:
    layer = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels)
    return layer if activation is nn.Identity else nn.Sequential(layer, activation())


def _shortcut(channels: int, out: int, stride: int) -> nn.Module | None:
    return None if channels == out and stride == 1 else _convolution(channels, out, 1, stride, nn.Identity)


def _classifier(channels: int) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)


def _divisible(channels: float) -> int:
    """The nearest multiple of 8 that is not more than a tenth less, as in the authors' code."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8
