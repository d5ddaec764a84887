"""Small real towers and their bundles for every target, converted once a test run and shared by its files.

The towers are a transformers CLIP of one layer each, wide enough for float16 sums to overflow and amplified so
that a structural fault shows; `classify` shares the vision tower, as a baked label set does.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn

from edgevlm.bundle import bundle as bundles
from edgevlm.bundle import manifest
from edgevlm.bundle.recipe import BUILTIN
from edgevlm.bundle.spec import Array, ComponentSpec, ImagePreprocessing, Source, TensorSpec
from edgevlm.graphs.program import Program, Programs
from edgevlm.targets import registry

WIDTH, IMAGE, CONTEXT, VOCABULARY, DIM, LABELS = 512, 32, 8, 3000, 32, 5
EOT = VOCABULARY - 1
_scratch = tempfile.TemporaryDirectory(prefix="towers-")


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
def programs() -> Programs:
    """The three components, the same ones in every process."""
    from transformers import CLIPConfig, CLIPModel

    torch.set_num_threads(1)
    torch.manual_seed(0)
    common = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 8}
    common["hidden_act"] = "gelu_pytorch_tanh"
    text = {**common, "vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT}
    text |= {"bos_token_id": EOT - 1, "eos_token_id": EOT}
    vision = {**common, "image_size": IMAGE, "patch_size": 16}
    model = (
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=DIM)).eval().requires_grad_(False)
    )
    _amplify(model)
    pixels = TensorSpec("pixels", "float32", (1, 3, IMAGE, IMAGE), "RGB, 0..255")
    token_ids = TensorSpec("token_ids", "int32", (1, CONTEXT), "ids, padded with the end-of-text id")
    embedding = TensorSpec("embedding", "float32", (1, DIM), "unit norm")
    scores = TensorSpec("scores", "float32", (1, LABELS), "probabilities")
    see = Vision(model).eval()
    rows = (
        ("encode_image", pixels, embedding, see),
        ("classify", pixels, scores, Classify(see).eval()),
        ("encode_text", token_ids, embedding, Text(model).eval()),
    )
    return {
        name: Program(ComponentSpec(name, (taken,), (given,)), module, (torch.from_numpy(samples(taken.name, 1)[0]),))
        for name, taken, given, module in rows
    }


def samples(name: str, count: int) -> list[Array]:
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
def reference(component: str, count: int = 4) -> list[Array]:
    """The float modules' own answers to `samples`."""
    program = programs()[component]
    with torch.no_grad():
        return [
            program.module(torch.from_numpy(array)).numpy() for array in samples(program.spec.inputs[0].name, count)
        ]


def lower(target: str, precision: str, folder: Path) -> Path:
    """Converts into an empty folder and returns it."""
    folder.mkdir(parents=True)
    registry.converter(target).lower(programs(), BUILTIN[precision], folder)
    return folder


def lower_all(folder: Path) -> None:
    """Converts for every target, with the precision in which most can differ between two processes."""
    for target in registry.CONVERTERS:
        lower(target, "fp16", folder / target)


@functools.cache
def bundle(target: str, precision: str) -> bundles.Bundle:
    """A sealed bundle, made once a test run and shared by its workers."""
    home = Path(os.environ.get("EDGEVLM_CACHE_DIR", _scratch.name), "towers")
    kept = home / f"{target}-{precision}"
    if not kept.exists():
        home.mkdir(parents=True, exist_ok=True)
        made = _make(target, precision, Path(tempfile.mkdtemp(dir=home)))
        with contextlib.suppress(OSError):  # another worker was quicker
            made.path.rename(kept)
    return bundles.Bundle.open(kept)


def _make(target: str, precision: str, folder: Path) -> bundles.Bundle:
    files = registry.converter(target).lower(programs(), BUILTIN[precision], folder)
    components = {
        name: manifest.BundledComponent(programs()[name].spec, file.path) for file in files for name in file.components
    }
    requires = {key: value for file in files for key, value in file.requires.items()}
    return bundles.seal(folder, _manifest(target, precision, components, requires))


def _manifest(
    target: str, precision: str, components: dict[str, manifest.BundledComponent], requires: dict[str, str]
) -> manifest.Manifest:
    image = ImagePreprocessing(IMAGE, IMAGE, "exact", IMAGE, IMAGE, "bicubic", False, 1 / 255, (0.45,) * 3, (0.27,) * 3)
    return manifest.Manifest(
        format_version=manifest.FORMAT_VERSION,
        name="towers",
        target=target,
        components=MappingProxyType(components),
        image=image,
        text=None,
        labels=None,
        embedding_dim=DIM,
        logit_scale=10.0,
        embedding_space_id="",
        recipe=BUILTIN[precision],
        source=Source("towers", "clip", "none", "Apache-2.0"),
        requires=requires,
        estimated_peak_memory_bytes=0,
        parity=None,
        tool_versions={},
    )


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def _amplify(model: nn.Module) -> None:
    """Plain initialisation makes attention uniform and hides, say, a softmax over the wrong axis."""
    for name, parameter in model.named_parameters():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            parameter.mul_(8)
        elif name.endswith(("v_proj.weight", "out_proj.weight", "fc1.weight", "fc2.weight")):
            parameter.mul_(3)
        elif "norm" not in name and name.endswith("bias"):
            parameter.add_(torch.randn(parameter.shape) * 0.05)
