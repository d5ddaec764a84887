"""What every loader returns: a model ready to be lowered, with the float original beside it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

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
from edgevlm.inputs.rows import EMBEDDING, PIXELS, TOKEN_IDS
from edgevlm.inputs.texts import Tokenizer
from edgevlm.models.reference import Original
from edgevlm.targets.isolation import IsolatedTokenizer


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
        notes: What a user should know about how it was read.
        logit_bias: What SigLIP adds to that before its sigmoid; None for models that were trained by softmax.
        programs: `encode_image` takes `pixels`, float32 [1, 3, H, W] in 0..255; `encode_text` takes `token_ids`,
            int32 [1, L]. Each returns `embedding`, float32 [1, D] of length one.
        original: The original's own float32 forward for each program, as a session. It shares no code with the
            programs, but weights: whoever changes a program's module in place works on a copy, and whoever moves the
            original to a device does not need the programs.
        labels: What a model without a text tower tells apart, with its label embeddings; None elsewhere.
        label_embeddings: float32 [L, D], a unit vector a label; None without `labels`.
        trusted: Whether it ships with EdgeVLM; the tokenizer of any other runs in a process of its own.
    """

    source: Source
    image: ImagePreprocessing
    text: TextPreprocessing | None
    tokenizer_json: bytes | None
    embedding_dim: int
    logit_scale: float
    programs: Programs
    original: Original
    labels: Labels | None = None
    label_embeddings: torch.Tensor | None = None
    logit_bias: float | None = None
    notes: tuple[str, ...] = ()
    trusted: bool = False

    @property
    def network(self) -> torch.nn.Module:
        """The modules of the float original."""
        return self.original.network

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """Of the text tower; None where there is none."""
        if self.text is None or self.tokenizer_json is None:
            return None
        kind = Tokenizer if self.trusted else IsolatedTokenizer
        return kind.from_bytes(self.text, self.tokenizer_json)


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
        PIXELS, "float32", (1, 3, image.height, image.width), "RGB, 0..255, channels first, resized and cropped"
    )
    embedding = TensorSpec(EMBEDDING, "float32", (1, embedding_dim), "unit vector")
    ramp = torch.linspace(0, 255, 3 * image.height * image.width)
    programs = {
        "encode_image": Program(
            ComponentSpec("encode_image", (pixels,), (embedding,)),
            encode_image.eval().requires_grad_(False),
            (ramp.reshape(pixels.shape),),
        )
    }
    if encode_text is not None and text is not None:
        token_ids = TensorSpec(TOKEN_IDS, "int32", (1, text.context_length), "token ids, padded on the right")
        programs["encode_text"] = Program(
            ComponentSpec("encode_text", (token_ids,), (embedding,)),
            encode_text.eval().requires_grad_(False),
            (torch.full(token_ids.shape, text.pad_id, dtype=torch.int32),),
        )
    return programs
