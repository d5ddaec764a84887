"""The bundles that tests look at, and the small real models that they are of: converted once, by whoever asks first.

Two groups of components, since each hides what the other shows. Towers are wide, and amplified, so that float16's sums
can overflow and a structural fault shows in every answer; amplified integers would differ by more than any limit
could tell from a fault. Layers are of every kind that can become integers, as training leaves them.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import talkers
import torch
from checkpoints import write_clip_checkpoint, write_siglip_checkpoint
from made import apart, once
from torch import Tensor, nn

import edgevlm
from edgevlm.benchmarks.bundles import bundle_for_tests
from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.manifest import BundledComponent
from edgevlm.bundle.recipe import BUILTIN, Recipe
from edgevlm.bundle.spec import Array, ComponentSpec, TensorSpec
from edgevlm.compression.compression import Compressed, compress
from edgevlm.data.scenes import Scenes
from edgevlm.graphs.program import Program, Programs
from edgevlm.inference.generator import Generator, TalkingSession
from edgevlm.models import catalogue
from edgevlm.models.checkpoints import talking
from edgevlm.models.model import assemble_programs
from edgevlm.models.students.config import GridConfig, HybridConfig, ImageTowerConfig, square_pictures
from edgevlm.models.students.reparameterised import fuse
from edgevlm.models.students.towers import build_image_tower
from edgevlm.models.talker import Talker
from edgevlm.process.progress import silent
from edgevlm.targets import registry

IMAGE, CONTEXT = 32, 8
"""Of both groups: pixels a side, and ids a text."""
WIDTH, VOCABULARY, DIM, LABELS = 512, 3000, 32, 5
"""Of towers."""
EOT = VOCABULARY - 1
LAYERS_DIM, SAMPLES = 24, 16
"""Of layers."""
LOWERED = ("clip_text", "siglip_image", "hybrid")
"""What bundles of layers hold: an embedding, a pooling head, a convolutional stem and depthwise convolutions."""
QUICK = (("coreml", "int8"), ("tflite", "int8"))
"""Which bundles of layers are made in the tests that one waits for."""
STUDENTS: dict[str, ImageTowerConfig] = {
    "hybrid": HybridConfig(image_size=IMAGE, widths=(16, 24, 32), depths=(1, 1, 1), heads=2, copies=2),
    "grid": GridConfig(image_size=IMAGE, stem_channels=(8, 12, 16), width=32, blocks=1, heads=2, token_features=8),
}


AT_ONCE = ("paligemma", "paligemma-2", "blip-vqa", "florence-2")
"""Kinds that take picture and question at once."""
TALKERS = (
    *(("blip", "coreml", "fp32"), ("llava-next", "executorch", "fp32"), ("smolvlm", "tflite", "fp32")),
    *(("qwen2.5-vl", "executorch", "int8"), ("blip-2", "executorch", "int8")),
    *(("smolvlm", "coreml", "fp16"), ("qwen3-vl", "coreml", "int4-weights"), ("florence-2", "coreml", "fp16")),
    *(("blip", "tflite", "int8"), ("internvl", "tflite", "fp32"), ("paligemma-2", "tflite", "fp32")),
    *(("idefics", "tflite", "fp32"), ("blip-vqa", "tflite", "fp32")),
)
"""Kinds, targets and recipes that the second tier converts; the first one has BLIP's captioner for TFLite."""


# Bundles


@functools.cache
def tower_bundle(target: str, precision: str) -> Bundle:
    """`towers`, in fp32 or fp16."""

    def make(folder: Path) -> None:
        lower(target, BUILTIN[precision], towers(), folder)

    return Bundle.open(once(f"towers-{target}-{precision}", make))


@functools.cache
def layer_bundle(target: str, recipe: str) -> Bundle:
    """`LOWERED` of `layers`, by a built-in recipe."""

    def make(folder: Path) -> None:
        lower(target, BUILTIN[recipe], compressed(recipe, LOWERED).programs, folder)

    return Bundle.open(once(f"layers-{target}-{recipe}", make))


@functools.cache
def student(target: str, recipe: str, *, image_only: bool = False) -> Bundle:
    """The built-in student as `edgevlm convert` makes it, under the name that it gives it."""

    def make(folder: Path) -> None:
        edgevlm.convert(target=target, recipe=recipe, image_only=image_only, out=folder)

    folder = once(f"student-{target}-{recipe}{'-image' if image_only else ''}", make)
    return Bundle.open(folder / f"edgevlm-student-{target}-{recipe}.edgevlm")


@functools.cache
def talker(kind: str, target: str, recipe: str) -> Bundle:
    """A small model that talks, as `edgevlm convert` makes it; `talkers.KINDS` has which there are."""

    def make(folder: Path) -> None:
        edgevlm.convert(talker_checkpoint(kind), target=target, recipe=recipe, out=folder, **talker_options(kind))

    return Bundle.open(once(f"talker-{kind}-{target}-{recipe}", make) / f"{kind}-{target}-{recipe}.edgevlm")


def talker_options(kind: str) -> dict[str, Any]:
    """What its bundles are converted with."""
    return {
        "context_length": {"blip": 32, "blip-vqa": 128}.get(kind, 256),
        "lengths": (1, 64 if kind in AT_ONCE else 16),
        "picture_size": talkers.SIZES.get(kind),
    }


@functools.cache
def talker_checkpoint(kind: str) -> Path:
    """Its checkpoint, in its own file format."""
    return once(f"talker-{kind}", lambda folder: talkers.KINDS[kind](folder / kind)) / kind


@functools.cache
def talker_model(kind: str) -> Talker:
    """What is loaded of it, at the usual context and lengths."""
    return talking.load(talker_checkpoint(kind), name=kind, picture_size=talkers.SIZES.get(kind))


def asking(model: Talker, session: TalkingSession | None = None) -> Generator:
    """A model to be asked: by its original, or by whoever else has its components."""
    specs = {name: program.spec for name, program in model.programs.items()}
    return Generator(session or model.original, specs, model.image, model.dialogue, model.tokenizer)


@functools.cache
def labelled_student(labels: tuple[str, ...]) -> Bundle:
    """The built-in student in fp32 for Core ML with labels baked in beside both towers: every component."""

    def make(folder: Path) -> None:
        edgevlm.convert(target="coreml", recipe="fp32", labels=labels, out=folder)

    return Bundle.open(once("student-labelled", make) / "edgevlm-student-labels-coreml-fp32.edgevlm")


def lower(target: str, recipe: Recipe, programs: Mapping[str, Program], folder: Path) -> Bundle:
    """Converts into a folder and seals it."""
    folder.mkdir(parents=True, exist_ok=True)
    files = registry.converter(target).lower(programs, recipe, folder)
    found = {name: BundledComponent(programs[name].spec, file.path) for file in files for name in file.components}
    requires = {platform: least for file in files for platform, least in file.requires.items()}
    return bundle_for_tests(folder, found, target=target, recipe=recipe, requires=requires)


# Towers: a transformers CLIP of one layer each; `classify` shares the vision tower, as a baked label set does


class Vision(nn.Module):
    """pixels float32 [1, 3, 32, 32] in 0..255 -> unit-norm float32 [1, 32]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.tower, self.project = model.vision_model, model.visual_projection

    def forward(self, pixels: Tensor) -> Tensor:
        return _unit(self.project(self.tower(pixel_values=(pixels / 255 - 0.45) / 0.27).pooler_output))


class Text(nn.Module):
    """token_ids int32 [1, 8] -> unit-norm float32 [1, 32], pooled where the first end-of-text stands."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.tower, self.project = model.text_model, model.text_projection
        self.register_buffer("mask", torch.full((1, 1, CONTEXT, CONTEXT), torch.finfo(torch.float32).min).triu(1))

    def forward(self, token_ids: Tensor) -> Tensor:
        hidden = self.tower.embeddings(input_ids=token_ids)
        hidden = self.tower.encoder(inputs_embeds=hidden, attention_mask=self.mask).last_hidden_state
        is_end = (token_ids == EOT).float()
        first_end = is_end * (is_end.cumsum(-1) <= 1).float()
        return _unit(self.project(torch.bmm(first_end[:, None], self.tower.final_layer_norm(hidden))[:, 0]))


class Classify(nn.Module):
    """pixels float32 [1, 3, 32, 32] in 0..255 -> scores float32 [1, 5] that sum to 1."""

    def __init__(self, vision: Vision) -> None:
        super().__init__()
        self.vision = vision
        self.register_buffer("labels", _unit(torch.randn(LABELS, DIM)))

    def forward(self, pixels: Tensor) -> Tensor:
        return (10 * self.vision(pixels) @ self.labels.T).softmax(-1)


@functools.cache
def towers() -> Programs:
    """The three components, the same ones in every process."""
    with apart():
        from transformers import CLIPConfig, CLIPModel

        torch.set_num_threads(1)
        torch.manual_seed(0)
        common = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 8}
        common["hidden_act"] = "gelu_pytorch_tanh"
        text = {**common, "vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT}
        text |= {"bos_token_id": EOT - 1, "eos_token_id": EOT}
        vision = {**common, "image_size": IMAGE, "patch_size": 16}
        config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=DIM)
        model = CLIPModel(config).eval().requires_grad_(False)
        _amplify(model)
        see = Vision(model).eval()
        modules = {"encode_image": see, "classify": Classify(see).eval(), "encode_text": Text(model).eval()}

    def example(taken: TensorSpec) -> Tensor:
        return _tensor(tower_samples(taken.name, 1)[0])

    pixels = TensorSpec("pixels", "float32", (1, 3, IMAGE, IMAGE), "RGB, 0..255")
    token_ids = TensorSpec("token_ids", "int32", (1, CONTEXT), "ids, padded with the end-of-text id")
    embedding = TensorSpec("embedding", "float32", (1, DIM), "unit norm")
    scores = TensorSpec("scores", "float32", (1, LABELS), "probabilities")
    values = {
        "encode_image": (pixels, embedding),
        "classify": (pixels, scores),
        "encode_text": (token_ids, embedding),
    }
    return {
        name: Program(
            ComponentSpec(name, (taken,), (given,)), modules[name], (_tensor(tower_samples(taken.name, 1)[0]),)
        )
        for name, (taken, given) in values.items()
    }


def tower_samples(name: str, count: int) -> list[Array]:
    """Inputs called `pixels` or `token_ids`, seeded; the texts have their end in different places."""
    rng = np.random.default_rng(5)
    if name == "pixels":
        return [rng.integers(0, 256, (1, 3, IMAGE, IMAGE)).astype(np.float32) for _ in range(count)]
    texts = []
    for index in range(count):
        ids = rng.integers(0, EOT, (1, CONTEXT)).astype(np.int32)
        ids[:, 2 + index % (CONTEXT - 2) :] = EOT
        texts.append(ids)
    return texts


@functools.cache
def tower_answers(component: str, count: int = 4) -> list[Array]:
    """The float modules' own answers to `tower_samples`."""
    program = towers()[component]
    with torch.no_grad():
        return [program.module(_tensor(each)).numpy() for each in tower_samples(program.spec.inputs[0].name, count)]


# Layers: a tiny CLIP and SigLIP checkpoint's towers, and two students' image towers: `hybrid` with depthwise
# convolutions, `grid` with a convolutional stem and the widest products


@functools.cache
def checkpoint(family: str) -> Path:
    """A CLIP or SigLIP of one layer a tower, in its own file format."""
    text, vision = {"num_hidden_layers": 1, "max_position_embeddings": CONTEXT}, {"num_hidden_layers": 1}
    write = {"clip": write_clip_checkpoint, "siglip": write_siglip_checkpoint}[family]
    return write(Path(_scratch().name, family), text=text, vision=vision, amplified=False)


@functools.cache
def layers() -> Programs:
    """Every component, under a name that says where it is from."""
    with apart():
        torch.set_num_threads(1)
        found = {}
        for family in ("clip", "siglip"):
            for name, program in catalogue.load(checkpoint(family)).programs.items():
                found[f"{family}_{name.removeprefix('encode_')}"] = program
        for family, config in STUDENTS.items():
            image = square_pictures(config.image_size)
            tower = fuse(_trained(config))
            parts = assemble_programs(tower, None, image=image, text=None, embedding_dim=LAYERS_DIM)
            found[family] = parts["encode_image"]
        return {name: replace(program, spec=replace(program.spec, name=name)) for name, program in found.items()}


def layer_samples(component: str) -> tuple[Tensor, ...]:
    """Inputs of a component, other than its example."""
    program = layers()[component]
    if program.spec.inputs[0].name == "pixels":
        return _pictures()
    (table,) = (each for each in program.module.modules() if isinstance(each, nn.Embedding))
    return _texts(table.num_embeddings)


@functools.cache
def compressed(recipe: str, components: tuple[str, ...]) -> Compressed:
    """Layers by a built-in recipe."""
    with apart():
        chosen = {name: layers()[name] for name in components}
        inputs = {name: layer_samples(name) for name in components} if BUILTIN[recipe].needs_calibration else {}
        return compress(chosen, BUILTIN[recipe], inputs, silent)


def embed(program: Program, inputs: tuple[Tensor, ...]) -> Array:
    """What a program's module answers, [N, D]."""
    with torch.no_grad():
        return np.concatenate([program.module(each).numpy() for each in inputs])


def layer_answers(target: str, recipe: str, component: str, inputs: tuple[Tensor, ...]) -> Array:
    """What the file of a bundle of layers answers, [N, D]."""
    made = layer_bundle(target, recipe)
    (taken,), (given,) = made.components[component].spec.inputs, made.components[component].spec.outputs
    with registry.runtime(target).open(made, threads=1) as session:
        return np.concatenate([session.run(component, {taken.name: each.numpy()})[given.name] for each in inputs])


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="library-")


@functools.cache
def _pictures() -> tuple[Tensor, ...]:
    """Rendered scenes, float32 [1, 3, 32, 32] in 0..255, off the whole grey levels: quantised, those are all ties."""
    pixels = torch.from_numpy(Scenes(5).batch(0, SAMPLES).pixels).permute(0, 3, 1, 2).float()
    return (nn.functional.adaptive_avg_pool2d(pixels, IMAGE) * 0.93 + 5.3).split(1)


@functools.cache
def _texts(vocabulary: int) -> tuple[Tensor, ...]:
    """Token ids int32 [1, 8] that end in the last id, from the third place on."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, vocabulary - 2, (SAMPLES, CONTEXT), generator=generator, dtype=torch.int32)
    for index, row in enumerate(ids):
        row[2 + index % (CONTEXT - 2) :] = vocabulary - 1
    return ids.split(1)


def _trained(config: ImageTowerConfig) -> nn.Module:
    """As training leaves it: norms with gains, offsets and statistics of their own."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        tower = build_image_tower(config, LAYERS_DIM)
        for module in tower.modules():
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
        for _ in range(10):
            tower.train()(torch.cat(_pictures()))
    return tower.eval()


def _amplify(model: nn.Module) -> None:
    """Plain initialisation makes attention uniform and hides, say, a softmax over the wrong axis."""
    for name, parameter in model.named_parameters():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            parameter.mul_(8)
        elif name.endswith(("v_proj.weight", "out_proj.weight", "fc1.weight", "fc2.weight")):
            parameter.mul_(3)
        elif "norm" not in name and name.endswith("bias"):
            parameter.add_(torch.randn(parameter.shape) * 0.05)


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(array)
