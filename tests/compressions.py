"""Small real models of every kind of layer, compressed and lowered once a process: one bundle a target and recipe.

The components are the towers of a tiny CLIP and SigLIP checkpoint and two students' image towers: `hybrid` with
depthwise convolutions, `grid` with a convolutional stem and the widest products.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from checkpoints import write_clip_checkpoint, write_siglip_checkpoint
from torch import Tensor, nn

from edgevlm.bundle import bundle as bundles
from edgevlm.bundle.manifest import FORMAT_VERSION, BundledComponent, Manifest
from edgevlm.bundle.recipe import BUILTIN, Recipe
from edgevlm.bundle.spec import Source
from edgevlm.compression.compression import Compressed, compress
from edgevlm.data.scenes import Scenes
from edgevlm.graphs.program import Program, Programs
from edgevlm.models import catalogue
from edgevlm.models.model import assemble_programs
from edgevlm.models.students.config import GridConfig, HybridConfig, ImageTowerConfig, square_pictures
from edgevlm.models.students.reparameterised import fuse
from edgevlm.models.students.towers import build_image_tower
from edgevlm.process.progress import silent
from edgevlm.targets import registry

SIZE, CONTEXT, DIM = 32, 8, 24
SAMPLES = 16
LOWERED = ("clip_text", "siglip_image", "hybrid")
"""What bundles hold: an embedding, a pooling head, a convolutional stem and depthwise convolutions among them."""
STUDENTS: dict[str, ImageTowerConfig] = {
    "hybrid": HybridConfig(image_size=SIZE, widths=(16, 24, 32), depths=(1, 1, 1), heads=2, copies=2),
    "grid": GridConfig(image_size=SIZE, stem_channels=(8, 12, 16), width=32, blocks=1, heads=2, token_features=8),
}
_scratch = tempfile.TemporaryDirectory(prefix="compressions-")


@functools.cache
def checkpoint(family: str) -> Path:
    """A CLIP or SigLIP of one layer a tower, in its own file format."""
    text, vision = {"num_hidden_layers": 1, "max_position_embeddings": CONTEXT}, {"num_hidden_layers": 1}
    write = {"clip": write_clip_checkpoint, "siglip": write_siglip_checkpoint}[family]
    return write(Path(_scratch.name, family), text=text, vision=vision, amplified=False)


@functools.cache
def programs() -> Programs:
    """Every component, under a name that says where it is from."""
    torch.set_num_threads(1)
    found = {}
    for family in ("clip", "siglip"):
        for name, program in catalogue.load(checkpoint(family)).programs.items():
            found[f"{family}_{name.removeprefix('encode_')}"] = program
    for family, config in STUDENTS.items():
        image = square_pictures(config.image_size)
        tower = fuse(_tower(config))
        found[family] = assemble_programs(tower, None, image=image, text=None, embedding_dim=DIM)["encode_image"]
    return {name: replace(program, spec=replace(program.spec, name=name)) for name, program in found.items()}


def _tower(config: ImageTowerConfig) -> nn.Module:
    """As training leaves it: norms with gains, offsets and statistics of their own."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        tower = build_image_tower(config, DIM)
        for module in tower.modules():
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
        for _ in range(10):
            tower.train()(torch.cat(pictures()))
    return tower.eval()


@functools.cache
def pictures() -> tuple[Tensor, ...]:
    """Rendered scenes, float32 [1, 3, 32, 32] in 0..255, off the whole grey levels: quantised, those are all ties."""
    pixels = torch.from_numpy(Scenes(5).batch(0, SAMPLES).pixels).permute(0, 3, 1, 2).float()
    return (nn.functional.adaptive_avg_pool2d(pixels, SIZE) * 0.93 + 5.3).split(1)


@functools.cache
def texts(vocabulary: int) -> tuple[Tensor, ...]:
    """Token ids int32 [1, 8] that end in the last id, from the third place on."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, vocabulary - 2, (SAMPLES, CONTEXT), generator=generator, dtype=torch.int32)
    for index, row in enumerate(ids):
        row[2 + index % (CONTEXT - 2) :] = vocabulary - 1
    return ids.split(1)


def samples(component: str) -> tuple[Tensor, ...]:
    """Inputs of a component, other than its example."""
    program = programs()[component]
    if program.spec.inputs[0].name == "pixels":
        return pictures()
    (table,) = (each for each in program.module.modules() if isinstance(each, nn.Embedding))
    return texts(table.num_embeddings)


@functools.cache
def compressed(recipe: str, components: tuple[str, ...]) -> Compressed:
    """Components by a built-in recipe."""
    chosen = {name: programs()[name] for name in components}
    inputs = {name: samples(name) for name in components} if BUILTIN[recipe].needs_calibration else {}
    return compress(chosen, BUILTIN[recipe], inputs, silent)


@functools.cache
def bundle(target: str, recipe: str) -> bundles.Bundle:
    """A sealed bundle of `LOWERED`."""
    folder = Path(_scratch.name, f"{target}-{recipe}")
    return lower(target, BUILTIN[recipe], compressed(recipe, LOWERED).programs, folder)


def lower(target: str, recipe: Recipe, lowered: Mapping[str, Program], folder: Path) -> bundles.Bundle:
    """Converts into a new folder and seals it."""
    folder.mkdir(parents=True)
    files = registry.converter(target).lower(lowered, recipe, folder)
    answered = {name: file.path for file in files for name in file.components}
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name="compressions",
        target=target,
        components={name: BundledComponent(lowered[name].spec, file) for name, file in answered.items()},
        image=square_pictures(SIZE),
        text=None,
        labels=None,
        embedding_dim=DIM,
        logit_scale=10.0,
        embedding_space_id="",
        recipe=recipe,
        source=Source("compressions", "clip", "none", "Apache-2.0"),
        requires={platform: least for file in files for platform, least in file.requires.items()},
        estimated_peak_memory_bytes=0,
        parity=None,
        tool_versions={},
    )
    return bundles.seal(folder, manifest)


def embed(program: Program, inputs: tuple[Tensor, ...]) -> np.ndarray:
    """What a program's module answers, [N, D]."""
    with torch.no_grad():
        return np.concatenate([program.module(each).numpy() for each in inputs])


def answers(target: str, recipe: str, component: str, inputs: tuple[Tensor, ...]) -> np.ndarray:
    """What a bundle's file answers, [N, D]."""
    made = bundle(target, recipe)
    (taken,), (given,) = made.components[component].spec.inputs, made.components[component].spec.outputs
    with registry.runtime(target).open(made, threads=1) as session:
        return np.concatenate([session.run(component, {taken.name: each.numpy()})[given.name] for each in inputs])
