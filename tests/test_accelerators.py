"""What a phone's GPU answers: LiteRT's GPU delegate, run on a Vulkan in software, against the CPU's answers.

The delegate has faults that no parity on a CPU can show. SwiftShader computes in float32 alone, so that what float16
costs on a real GPU is not seen here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import library
import litert_gpu
import numpy as np
import pytest
import torch
from litert_gpu import RefusedError, needs_vulkan
from numpy.typing import NDArray
from torch import Tensor, nn

from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.recipe import BUILTIN
from edgevlm.models.layers import attend, causal_mask
from edgevlm.parity import golden
from edgevlm.targets import registry

pytestmark = needs_vulkan

COSINE = 0.99999
"""Of an embedding on the GPU with the CPU's: they differ by 3e-7 at most in any entry."""
COSINE_INT8 = 0.999
"""Of activations that are integers on the CPU: one that is rounded otherwise, a tie, moves an embedding further."""
LENGTH, WIDTH, HEADS = 48, 64, 4

Inputs = Mapping[str, NDArray[np.generic]]


def layer_inputs(bundle: Bundle) -> Inputs:
    return {name: torch.cat(library.layer_samples(name)).numpy() for name in bundle.components}


def least_cosines(bundle: Bundle, inputs: Inputs, *, whole: bool) -> dict[str, float]:
    """By component, of the GPU's embeddings with the CPU's."""
    (file,) = {component.file for component in bundle.components.values()}
    found = litert_gpu.answers(bundle.path / file, inputs, whole=whole)
    least = {}
    with registry.runtime("tflite").open(bundle, threads=1) as session:
        for name, rows in inputs.items():
            (taken,), (given,) = bundle.components[name].spec.inputs, bundle.components[name].spec.outputs
            expected = np.concatenate([session.run(name, {taken.name: row[None]})[given.name] for row in rows])
            lengths = np.linalg.norm(found[name], axis=1) * np.linalg.norm(expected, axis=1)
            least[name] = float(((found[name] * expected).sum(1) / lengths).min())
    return least


@pytest.mark.slow
def test_the_students_towers_answer_on_a_gpu_as_on_the_cpu() -> None:
    """Of fp16, whose embedding table the GPU leaves to the CPU; all that follows it is computed there."""
    bundle = library.student("tflite", "fp16")
    texts = golden.read(bundle.path)[0].texts
    pixels = np.random.default_rng(0).integers(0, 256, (2, *bundle.components["encode_image"].spec.inputs[0].shape[1:]))
    ids = np.array([text.token_ids for text in texts], np.int32)
    inputs = {"encode_image": pixels.astype(np.float32), "encode_text": ids}
    least = least_cosines(bundle, inputs, whole=False)
    assert min(least.values()) > COSINE, least


@pytest.mark.slow
def test_checkpoints_text_towers_are_computed_on_a_gpu_whole_and_as_on_the_cpu(tmp_path: Path) -> None:
    programs = {name: library.layers()[name] for name in ("clip_text", "siglip_text")}
    bundle = library.lower("tflite", BUILTIN["fp32"], programs, tmp_path)
    least = least_cosines(bundle, layer_inputs(bundle), whole=True)
    assert min(least.values()) > COSINE, least


@pytest.mark.slow
def test_integers_in_measured_ranges_answer_on_a_gpu_as_on_the_cpu() -> None:
    bundle = library.layer_bundle("tflite", "int8-static")
    least = least_cosines(bundle, layer_inputs(bundle), whole=False)
    assert min(least.values()) > COSINE_INT8, least


@pytest.mark.slow
def test_integers_in_ranges_as_they_come_are_refused_by_the_gpu_aloud() -> None:
    """When this fails, upstream has mended it, and the README no longer has to say so."""
    bundle = library.layer_bundle("tflite", "int8")
    with pytest.raises(RefusedError, match="Failed to modify graph with delegate"):
        litert_gpu.answers(bundle.path / bundle.components["clip_text"].file, {}, whole=False)


# LiteRT: the GPU delegate adds a mask of four axes to scores of three wrongly (issue 8980)


class Attention(nn.Module):
    """Tokens [1, 48, 64] that look at one another, as `attend` has it or with heads and a mask of four axes."""

    def __init__(self, axes: int) -> None:
        super().__init__()
        self.axes = axes
        self.register_buffer("mask", causal_mask(LENGTH).reshape((1,) * (axes - 2) + (LENGTH, LENGTH)))

    def forward(self, tokens: Tensor) -> Tensor:
        if self.axes == 3:
            return attend(tokens, tokens, tokens, HEADS, self.mask)
        split = tokens.reshape(1, LENGTH, HEADS, -1).transpose(1, 2)
        weights = (split @ split.transpose(2, 3) / split.shape[-1] ** 0.5 + self.mask).softmax(-1)
        return (weights @ split).transpose(1, 2).reshape(tokens.shape)


@pytest.mark.slow
def test_a_mask_of_as_many_axes_as_the_scores_is_still_needed(tmp_path: Path) -> None:
    import litert_torch

    tokens = torch.randn(1, LENGTH, WIDTH, generator=torch.Generator().manual_seed(0))
    expected = Attention(3)(tokens)
    torch.testing.assert_close(Attention(4)(tokens), expected, atol=1e-5, rtol=0)
    errors = {}
    for axes in (3, 4):
        path = tmp_path / f"{axes}.tflite"
        litert_torch.convert(Attention(axes).eval(), (tokens,)).export(str(path))
        found = litert_gpu.answers(path, {"serving_default": tokens.numpy()}, whole=True)["serving_default"]
        errors[axes] = np.abs(found - expected.numpy()).max()
    assert errors[3] < 1e-4, errors
    assert errors[4] > 0.1, "attend need not make the heads rows of a batch any more"
