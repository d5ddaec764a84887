"""A small tower, and the same with one fault each: what a faulty converter would have made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgevlm.benchmarks.bundles import bundle_for_tests
from edgevlm.blame.blame import Blame, blame
from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.integer_weights import StoredWeight
from edgevlm.bundle.manifest import BundledComponent
from edgevlm.bundle.recipe import BUILTIN
from edgevlm.bundle.spec import Array, ComponentSpec, TensorSpec
from edgevlm.compression.compression import compress
from edgevlm.errors import BundleError
from edgevlm.graphs.program import Program, Programs
from edgevlm.process.progress import silent
from edgevlm.targets import registry

COMPONENT = "encode_image"
SIDE, PATCH, WIDTH, HEADS, BLOCKS, DIM = 32, 8, 64, 4, 3, 16


@dataclass(frozen=True)
class Plant:
    """One fault.

    Attributes:
        name: What was done.
        place: The layer in which it was done.
        recipe: In which it is converted.
    """

    name: str
    place: str
    recipe: str = "fp32"


PLANTS = (
    Plant("softmax over the wrong axis", f"{COMPONENT}/blocks.1.attention"),
    Plant("gelu tanh -> exact", f"{COMPONENT}/blocks.1.mlp"),
    Plant("dropped mask", f"{COMPONENT}/blocks.1.attention"),
    Plant("swapped mean and std", COMPONENT),
    Plant("transposed weights", f"{COMPONENT}/blocks.1.attention.value"),
    Plant("reversed query", f"{COMPONENT}/blocks.1.attention.query", recipe="fp16"),
    Plant("one flipped scale", f"{COMPONENT}/blocks.1.mlp.down", recipe="int8"),
)


class Attention(nn.Module):
    """Causal self-attention of [1, tokens, WIDTH]."""

    mask: Tensor

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.register_buffer("mask", torch.full((tokens, tokens), -1e4).triu(1))
        self.axis, self.masked = -1, True

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            layer(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-1, -2) / (WIDTH / HEADS) ** 0.5
        if self.masked:
            scores = scores + self.mask
        mixed: Tensor = scores.softmax(self.axis) @ value
        answer: Tensor = self.out(mixed.transpose(1, 2).flatten(-2))
        return answer


class Mlp(nn.Module):
    """WIDTH -> 2 * WIDTH -> WIDTH, with GELU's tanh approximation."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.approximate = "tanh"

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.down(nn.functional.gelu(self.up(x), approximate=self.approximate))
        return answer


class Block(nn.Module):
    """One transformer block."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention, self.mlp = Attention(tokens), Mlp()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        answer: Tensor = x + self.mlp(self.mlp_norm(x))
        return answer


class Tower(nn.Module):
    """pixels [1, 3, SIDE, SIDE] in 0..255 -> unit-norm [1, DIM]."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        tokens = (SIDE // PATCH) ** 2
        self.register_buffer("mean", torch.tensor([0.48, 0.46, 0.41]).reshape(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.27, 0.26, 0.28]).reshape(3, 1, 1))
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.blocks = nn.ModuleList(Block(tokens) for _ in range(BLOCKS))
        self.norm, self.project = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, DIM)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patches((pixels / 255 - self.mean) / self.std).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return nn.functional.normalize(self.project(self.norm(x).mean(1)), dim=-1)


def tower(plant: Plant | None = None) -> Tower:
    """The tower, its weights amplified so that attention is no mean of all tokens, with a fault or without."""
    torch.manual_seed(1)
    built = Tower().eval().requires_grad_(False)
    for name, parameter in built.named_parameters():
        if name.endswith("weight") and parameter.ndim == 2:
            parameter.mul_(5 if ".query" in name or ".key" in name else 2)
    if plant is None:
        return built
    block = built.blocks[1]
    assert isinstance(block, Block)
    match plant.name:
        case "softmax over the wrong axis":
            block.attention.axis = -2
        case "gelu tanh -> exact":
            block.mlp.approximate = "none"
        case "dropped mask":
            block.attention.masked = False
        case "swapped mean and std":
            built.mean, built.std = built.std, built.mean
        case "transposed weights":
            block.attention.value.weight.copy_(block.attention.value.weight.T.clone())
        case "reversed query":
            block.attention.query.weight.copy_(block.attention.query.weight.flip(0))
    return built


def programs(plant: Plant | None = None) -> Programs:
    """The tower as a component."""
    pixels = TensorSpec("pixels", "float32", (1, 3, SIDE, SIDE), "RGB, 0..255")
    spec = ComponentSpec(COMPONENT, (pixels,), (TensorSpec("embedding", "float32", (1, DIM), "unit norm"),))
    return {COMPONENT: Program(spec, tower(plant), (torch.from_numpy(sample()["pixels"]),))}


def sample() -> Mapping[str, Array]:
    """One picture of noise."""
    rng = np.random.default_rng(3)
    return {"pixels": rng.integers(0, 256, (1, 3, SIDE, SIDE)).astype(np.float32)}


def blamed(plant: Plant | None, target: str, folder: Path) -> Blame:
    """Converts the tower with a fault, or without, and asks what is to blame.

    Args:
        folder: Empty or missing; the bundle is written there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    recipe = BUILTIN[plant.recipe if plant else "fp32"]
    lowered = compress(programs(plant), recipe, {}, silent)
    files = registry.converter(target).lower(lowered.programs, recipe, folder)
    spec = programs()[COMPONENT].spec
    component = BundledComponent(spec, files[0].path)
    bundle = bundle_for_tests(folder, {COMPONENT: component}, target=target, recipe=recipe)
    if plant is not None and plant.name == "one flipped scale":
        _flip_scale(bundle)
    ops = registry.runtime(target).trace(bundle, COMPONENT, sample())
    return blame(programs()[COMPONENT], ops, sample(), recipe)


def _flip_scale(bundle: Bundle) -> None:
    """Flips a bit of one scale of blocks.1.mlp.down in the shipped file, wherever it keeps it."""
    layer = tower().blocks[1]
    assert isinstance(layer, Block)
    weight = layer.mlp.down.weight.numpy()
    stored = registry.runtime(bundle.manifest.target).stored_weights(bundle)[COMPONENT]
    found = min((each for each in stored if each.values.size == weight.size), key=lambda each: _distance(each, weight))
    scales = found.scale.reshape(-1)
    channel = int(np.argmax(scales))
    file = bundle.path / bundle.components[COMPONENT].file
    for path in sorted(each for each in [file, *file.rglob("*")] if each.is_file()):
        content = path.read_bytes()
        for dtype, bits, lowest in ((np.float32, np.uint32, 23), (np.float16, np.uint16, 10)):
            before = scales.astype(dtype)
            after = before.copy()
            exponent = int(after.view(bits)[channel]) >> lowest
            step = next(step for step in (2, 1, 3) if not exponent >> step & 1)  # 4, 16 or 256 times as large
            after.view(bits)[channel] ^= 1 << (lowest + step)
            if before.tobytes() in content:
                path.write_bytes(content.replace(before.tobytes(), after.tobytes()))
                return
    raise BundleError(f"{bundle.path}: the scales of {found.layer} are not where they were expected")


def _distance(stored: StoredWeight, weight: Array) -> float:
    """How far a stored weight is from a float one; infinite for one of another shape."""
    values = stored.values.reshape(len(stored.values), -1).astype(np.float32)
    if values.shape != weight.shape:
        return float("inf")
    return float(np.linalg.norm(values * stored.scale.reshape(len(values), -1) - weight))
