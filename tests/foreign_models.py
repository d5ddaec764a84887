"""Small models of kinds that this project does not contain, with weights that let no part go unseen.

Each `forward` names its inputs as the package then does. Comments say where a formulation was chosen because
coremltools 9.0 has no converter for the usual one, or a wrong one.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def lively(module: Module, seed: int = 0) -> Module:
    """The module in evaluation mode, with weights that keep the scale of what passes through and hide no fault.

    Offsets, gains and running statistics are those of a trained layer rather than 0 and 1, so that one that is left
    out shows; products are a little larger than usual, so that attention is sharp and no branch of a sum is noise.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2, generator=generator)
            elif name.endswith("running_mean") or "bias" in name.rpartition(".")[2]:
                tensor.normal_(0, 0.4, generator=generator)
            elif tensor.ndim == 1 and name.endswith("weight"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif name.endswith("weight") or "weight_" in name or "table" in name:
                fan_in = max(1, tensor[0].numel())
                tensor.normal_(0, 1.6 * fan_in**-0.5, generator=generator)
    return module.requires_grad_(False).eval()


class Gate(nn.Module):
    """Squeeze and excite: channels scaled by what the whole picture shows."""

    def __init__(self, channels: int, last: nn.Module) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels // 4, 1)
        self.expand = nn.Conv2d(channels // 4, channels, 1)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        return x * self.last(self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1)))))


class Bottleneck(nn.Module):
    """The inverted residual block of MobileNetV2 and V3 and EfficientNet: wider, depthwise, gate, narrower."""

    def __init__(
        self, inputs: int, outputs: int, *, kernel: int, stride: int, activation: nn.Module, gate: nn.Module
    ) -> None:
        super().__init__()
        wide = 4 * inputs
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            activation,
            nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            activation,
            Gate(wide, gate),
            nn.Conv2d(wide, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class PhoneNet(nn.Module):
    """A MobileNet and EfficientNet in one: [1, 3, 32, 32] to the probabilities of 7 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        self.blocks = nn.Sequential(
            Bottleneck(8, 8, kernel=3, stride=1, activation=nn.ReLU6(), gate=nn.Sigmoid()),
            Bottleneck(8, 12, kernel=5, stride=2, activation=nn.Hardswish(), gate=nn.Hardsigmoid()),
            Bottleneck(12, 12, kernel=3, stride=1, activation=nn.SiLU(), gate=nn.Sigmoid()),
        )
        self.head = nn.Linear(12, 7)

    def forward(self, image: Tensor) -> Tensor:
        features = self.blocks(self.stem(image))
        return self.head(features.mean((2, 3))).softmax(-1)


class UNet(nn.Module):
    """Down and up again, with three ways up: [1, 2, 24, 20] to [1, 3, 24, 20]."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = self._level(2, 8, nn.GroupNorm(2, 8))
        self.down = self._level(8, 12, nn.InstanceNorm2d(12, affine=True))
        self.bottom = self._level(12, 16, nn.GroupNorm(4, 16))
        self.transposed = nn.ConvTranspose2d(16, 12, 3, 2, 1, output_padding=1)
        self.up = self._level(24, 8, nn.BatchNorm2d(8))
        self.narrow = nn.ConvTranspose2d(8, 8, 2, 2, groups=4)
        self.leave = nn.Conv2d(24, 3, 3, padding=1, padding_mode="reflect")
        self.bend = nn.PReLU(3)

    @staticmethod
    def _level(inputs: int, outputs: int, norm: nn.Module) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), norm, nn.LeakyReLU(0.2))

    def forward(self, picture: Tensor) -> Tensor:
        wide = self.enter(picture)
        middle = self.down(F.max_pool2d(wide, 2, 2))
        bottom = self.bottom(F.avg_pool2d(middle, 2))
        middle = self.up(torch.cat((self.transposed(bottom), middle), 1))
        smooth = F.interpolate(middle, scale_factor=2, mode="bilinear", align_corners=False)
        return self.bend(self.leave(torch.cat((self.narrow(middle), smooth, wide), 1)))


class Recurrent(nn.Module):
    """Two bidirectional layers of one kind of cell over [2, 3, 5], with every state that they end in."""

    def __init__(self, kind: Literal["lstm", "gru"]) -> None:
        super().__init__()
        layer = {"lstm": nn.LSTM, "gru": nn.GRU}[kind]
        self.layers = layer(5, 4, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, sequence: Tensor) -> tuple[Tensor, ...]:
        states, last = self.layers(sequence)
        return (self.head(states), *(last if isinstance(last, tuple) else (last,)))


class Windows(nn.Module):
    """Swin's attention: within windows of [size, size] of a grid that is rolled by `shift`, wrapping round."""

    def __init__(self, width: int, heads: int, grid: int, size: int, shift: int) -> None:
        super().__init__()
        self.heads, self.grid, self.size, self.shift = heads, grid, size, shift
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.table = nn.Parameter(torch.empty((2 * size - 1) ** 2, heads))
        places = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")).flatten(1)
        apart = places[:, :, None] - places[:, None] + size - 1
        self.register_buffer("pairs", apart[0] * (2 * size - 1) + apart[1], persistent=False)
        self.register_buffer("mask", self._mask(), persistent=False)

    def _mask(self) -> Tensor:
        """[windows, 1, tokens, tokens]: what the roll brought side by side does not attend to one another."""
        region = torch.zeros(self.grid)
        if self.shift:
            region[-self.size :], region[-self.shift :] = 1, 2
        regions = self._windows((3 * region[:, None] + region)[None, :, :, None])[..., 0]
        return torch.where(regions[:, None, :, None] == regions[:, None, None, :], 0.0, -100.0)

    def _windows(self, x: Tensor) -> Tensor:
        """[1, grid, grid, width] -> [windows, size * size, width]."""
        count, width = self.grid // self.size, x.shape[-1]
        x = x.reshape(count, self.size, count, self.size, width).permute(0, 2, 1, 3, 4)
        return x.reshape(count * count, self.size * self.size, width)

    def forward(self, x: Tensor) -> Tensor:
        windows = self._windows(torch.roll(x, (-self.shift, -self.shift), (1, 2)))
        count, tokens, width = windows.shape
        q, k, v = self.qkv(windows).reshape(count, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5
        scores = scores + self.table[self.pairs].permute(2, 0, 1) + self.mask
        mixed = self.project((scores.softmax(-1) @ v).transpose(1, 2).reshape(count, tokens, width))
        across = self.grid // self.size
        mixed = mixed.reshape(across, across, self.size, self.size, width).permute(0, 2, 1, 3, 4)
        return torch.roll(mixed.reshape(1, self.grid, self.grid, width), (self.shift, self.shift), (1, 2))


class SwinBlock(nn.Module):
    """Windows, then a pair of linear layers, each beside a residual."""

    def __init__(self, width: int, grid: int, shift: int) -> None:
        super().__init__()
        self.attend = nn.Sequential(nn.LayerNorm(width), Windows(width, 2, grid, 4, shift))
        self.think = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(x)
        return x + self.think(x)


class Swin(nn.Module):
    """Patches, two blocks of which one is shifted, and merging: [1, 3, 32, 32] to [1, 6]."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.first = nn.Sequential(SwinBlock(8, 8, 0), SwinBlock(8, 8, 2))
        self.merge = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 16, bias=False))
        self.head = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 6))

    def forward(self, image: Tensor) -> Tensor:
        x = self.first(self.patches(image).permute(0, 2, 3, 1))
        corners = (x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2])
        return self.head(self.merge(torch.cat(corners, -1)).mean((1, 2)))


class Detector(nn.Module):
    """The best 5 of the boxes that two levels of a pyramid propose: [1, 3, 32, 32] to boxes, scores and classes."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.SiLU())
        self.coarse = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.SiLU())
        self.classes = nn.Conv2d(8, 4, 1)
        self.boxes = nn.Conv2d(8, 4, 3, padding=1)
        self.register_buffer("anchors", torch.cat([self._anchors(8, 4.0), self._anchors(4, 8.0)]), persistent=False)

    @staticmethod
    def _anchors(grid: int, stride: float) -> Tensor:
        """[grid * grid, 3]: the middle's x and y, and the stride, in pixels."""
        middle = (torch.arange(grid) + 0.5) * stride
        y, x = torch.meshgrid(middle, middle, indexing="ij")
        return torch.stack([x, y, torch.full_like(x, stride)], -1).reshape(-1, 3)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine = self.fine(image)
        levels = (fine, self.coarse(fine))
        scores = torch.cat([self.classes(level).flatten(2) for level in levels], 2)[0].transpose(0, 1)
        sides = torch.cat([self.boxes(level).flatten(2) for level in levels], 2)[0].transpose(0, 1)
        sides = F.softplus(sides) * self.anchors[:, 2:]
        boxes = torch.cat([self.anchors[:, :2] - sides[:, :2], self.anchors[:, :2] + sides[:, 2:]], -1)
        best, kinds = scores.max(-1)
        confidence, chosen = best.topk(5)
        return boxes[chosen].clamp(0, 32), confidence.sigmoid(), kinds.gather(0, chosen)


class RMSNorm(nn.Module):
    """Scaled to a mean square of one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * self.weight


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary positions: each half of the last axis turned against the other."""
    left, right = x.chunk(2, -1)
    return (
        x * torch.cat((angles, angles), -1).cos()
        + torch.cat((-right, left), -1) * torch.cat((angles, angles), -1).sin()
    )


class CachedAttention(nn.Module):
    """Grouped queries: 4 heads of queries share 2 of keys and values."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width // 4
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, width, bias=False)
        self.project = nn.Linear(width, width, bias=False)

    def heads(self, x: Tensor, angles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [1, 4, n, d], and keys and values [1, 2, n, d], the first two turned by their place."""
        q = self.q(x).unflatten(-1, (4, self.width)).transpose(1, 2)
        k, v = self.kv(x).unflatten(-1, (4, self.width)).transpose(1, 2).chunk(2, 1)
        return rotated(q, angles), rotated(k, angles), v

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """Of queries [1, 4, n, d] over keys and values [1, 2, m, d]; mask [1, 1, n, m]."""
        k, v = (each.repeat_interleave(2, 1) for each in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.project(mixed.transpose(1, 2).flatten(2))


class DecoderBlock(nn.Module):
    """Attention and a gated pair of linear layers, each beside a residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attend, self.attention = RMSNorm(width), CachedAttention(width)
        self.think = RMSNorm(width)
        self.gate, self.up = nn.Linear(width, 2 * width, bias=False), nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """What follows attention."""
        normal = self.think(x)
        return x + self.down(F.silu(self.gate(normal)) * self.up(normal))


class Decoder(nn.Module):
    """A language model in Llama's manner that keeps the keys and values of what it has read.

    Attributes:
        keys, values: [layers, 1, 2, CONTEXT, d], filled from the beginning.
    """

    CONTEXT = 12

    def __init__(self) -> None:
        super().__init__()
        width, layers = 16, 2
        self.embed = nn.Embedding(11, width)
        self.blocks = nn.ModuleList(DecoderBlock(width) for _ in range(layers))
        self.norm = RMSNorm(width)
        self.head = nn.Linear(width, 11, bias=False)
        self.register_buffer("keys", torch.zeros(layers, 1, 2, self.CONTEXT, width // 4))
        self.register_buffer("values", torch.zeros(layers, 1, 2, self.CONTEXT, width // 4))
        places = torch.arange(self.CONTEXT)[:, None] / torch.tensor([1.0, 10.0])
        self.register_buffer("angles", places, persistent=False)

    def clear(self) -> None:
        """Forgets what it has read."""
        self.keys.zero_()
        self.values.zero_()


class GrowingDecoder(Decoder):
    """Reads any number of tokens at once, and says by the mask's width how many it then has: Apple's own way.

    tokens [1, n] and mask [1, 1, n, m] to logits [1, n, 11]; m is what was read before plus n.
    """

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        end = mask.shape[-1]
        begin = end - tokens.shape[-1]
        x = self.embed(tokens)
        for layer, block in enumerate(self.blocks):
            q, k, v = block.attention.heads(block.attend(x), self.angles[begin:end])
            self.keys[layer, :, :, begin:end] = k
            self.values[layer, :, :, begin:end] = v
            known = (self.keys[layer, :, :, :end], self.values[layer, :, :, :end])
            x = block(x + block.attention(q, *known, mask))
        return self.head(self.norm(x))


class FixedDecoder(Decoder):
    """Reads one token at a place: token [1, 1] and place [1] to logits [1, 1, 11]. All of its shapes are fixed."""

    def forward(self, token: Tensor, place: Tensor) -> Tensor:
        ahead = torch.arange(self.CONTEXT)
        here = (ahead == place).float()[:, None]
        mask = torch.where(ahead <= place, 0.0, -1e4).reshape(1, 1, 1, -1)
        x = self.embed(token)
        for layer, block in enumerate(self.blocks):
            q, k, v = block.attention.heads(block.attend(x), self.angles[place])
            self.keys[layer] = self.keys[layer] * (1 - here) + k * here
            self.values[layer] = self.values[layer] * (1 - here) + v * here
            x = block(x + block.attention(q, self.keys[layer], self.values[layer], mask))
        return self.head(self.norm(x))


class Pyramid(nn.Module):
    """What the whole, the brightest and the last row of any picture [1, 3, h, w] show, [1, 24]."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.SiLU(), nn.Conv2d(8, 8, 3, 2, 1))
        self.attend = nn.Linear(8, 24)

    def forward(self, picture: Tensor) -> Tensor:
        x = self.convs(picture)
        # 1 and 8 rather than their places in `shape`: tracing casts a size that is known with `int`, which numpy 2.4
        # refuses there.
        high, wide = x.shape[2:]
        q, k, v = self.attend(x.reshape(1, 8, high * wide).transpose(1, 2)).chunk(3, -1)
        mixed = ((q @ k.transpose(1, 2)).softmax(-1) @ v).transpose(1, 2).reshape(1, 8, high, wide)
        # By factor: a size that is computed, here or by `torch.arange`, has no sound converter on either route.
        enlarged = F.interpolate(mixed, scale_factor=2.0, mode="nearest")
        rows = torch.ones_like(enlarged).cumsum(2)
        return torch.cat([(enlarged * rows).mean((2, 3)), mixed.amax((2, 3)), mixed[:, :, -1, 0]], 1)


class Mixture(nn.Module):
    """Convolutions, linear layers, an embedding and an LSTM: every op that has weights to compress."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.Sequential(nn.Conv2d(3, 32, 4, 4), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.GELU())
        self.layers = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64))
        self.embed = nn.Embedding(48, 64)
        self.lstm = nn.LSTM(64, 32)

    def forward(self, image: Tensor, tokens: Tensor) -> Tensor:
        x = self.convs(image).flatten(2).transpose(1, 2)
        x = self.layers(x) + self.embed(tokens).mean(1, keepdim=True)
        return self.lstm(x.transpose(0, 1))[0]


class Look(nn.Module):
    """A few convolutions over a picture [1, channels, h, w] of any size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(channels, 6, 3, 2), nn.SiLU(), nn.Conv2d(6, 4, 3))

    def forward(self, picture: Tensor) -> Tensor:
        return self.layers(picture)
