"""What every loader returns: a model ready to be lowered, with the float original beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from edgevlm.bundle.manifest import Labels
from edgevlm.bundle.spec import (
    ComponentSpec,
    ImagePreprocessing,
    Source,
    TensorSpec,
    TextPreprocessing,
)
from edgevlm.graphs.program import Program, Programs

Reference = Mapping[str, Callable[[torch.Tensor], torch.Tensor]]


@dataclass(frozen=True)
class Model:
    """A dual encoder: pictures and texts become unit vectors of one space; or its image tower with fixed labels.

    Attributes:
        source: Where it came from.
        image: How a picture becomes `pixels`.
        text: How a text becomes `token_ids`; None where there is no text tower, and then no `encode_text` either.
        tokenizer_json: What a bundle ships as `text.tokenizer_file`; None without a text tower.
        embedding_dim: Length of an embedding.
        logit_scale: Factor on the cosine of a picture and a text before softmax, `exp` already applied.
        programs: `encode_image` takes `pixels`, float32 [1, 3, H, W] in 0..255; `encode_text` takes `token_ids`,
            int32 [1, L]. Each returns `embedding`, float32 [1, D] of length one.
        reference: The original's own float32 forward for each program, with the same tensors at its boundary
            (any batch size), on the device that `network` is on. It shares no code with the programs, but weights:
            whoever changes a program's module in place works on a copy.
        network: The float original that `reference` runs, so that `network.to(device)` moves it. The programs share
            weights with it: move it only where they are not needed.
        labels: What a model without a text tower tells apart, with its label embeddings; None elsewhere.
        label_embeddings: float32 [L, D], a unit vector a label; None without `labels`.
    """

    source: Source
    image: ImagePreprocessing
    text: TextPreprocessing | None
    tokenizer_json: bytes | None
    embedding_dim: int
    logit_scale: float
    programs: Programs
    reference: Reference
    network: torch.nn.Module
    labels: Labels | None = None
    label_embeddings: torch.Tensor | None = None


def assemble_programs(
    encode_image: torch.nn.Module,
    encode_text: torch.nn.Module | None,
    *,
    image: ImagePreprocessing,
    text: TextPreprocessing | None,
    embedding_dim: int,
) -> Programs:
    """The two components of a dual encoder, or the one of an image tower, frozen and in eval mode.

    Args:
        encode_image: Its `forward(pixels)` takes float32 [1, 3, H, W] and returns unit vectors [1, D].
        encode_text: Its `forward(token_ids)` takes int32 [1, L] and returns unit vectors [1, D]. None leaves it out.
        image, text: Sizes of what they take.
        embedding_dim: D.
    """
    pixels = TensorSpec(
        "pixels", "float32", (1, 3, image.height, image.width), "RGB, 0..255, channels first, resized and cropped"
    )
    embedding = TensorSpec("embedding", "float32", (1, embedding_dim), "unit vector")
    ramp = torch.linspace(0, 255, 3 * image.height * image.width)
    programs = {
        "encode_image": Program(
            ComponentSpec("encode_image", (pixels,), (embedding,)),
            encode_image.eval().requires_grad_(False),
            (ramp.reshape(pixels.shape),),
        )
    }
    if encode_text is not None and text is not None:
        token_ids = TensorSpec("token_ids", "int32", (1, text.context_length), "token ids, padded on the right")
        programs["encode_text"] = Program(
            ComponentSpec("encode_text", (token_ids,), (embedding,)),
            encode_text.eval().requires_grad_(False),
            (torch.full(token_ids.shape, text.pad_id, dtype=torch.int32),),
        )
    return programs
