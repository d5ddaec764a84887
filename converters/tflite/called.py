"""A component of a model that talks, as LiteRT-LM calls it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from edgevlm.graphs.capture import answers_of
from edgevlm.graphs.program import Program
from edgevlm.targets.litert_lm import EMBEDDER, VISION_ENCODER, called


def as_called(function: str, program: Program) -> Program:
    """A function of the container, which takes and gives what `edgevlm.targets.litert_lm.called` says.

    Args:
        function: What the container calls it.
        program: With its state among its inputs and outputs.
    """
    spec, example = called(function, program.spec), program.example
    if function == VISION_ENCODER:
        images = example[0].permute(0, 2, 3, 1) / 255
        return replace(program, spec=spec, module=_Vision(program.module), example=(images,))
    if function == EMBEDDER:
        return replace(program, spec=spec)
    rows, positions, *state = example
    decode = _Decode(program.module, rows.shape[1], context=state[0].shape[2])
    return replace(program, spec=spec, module=decode, example=(rows, positions[0], *state))


class _Vision(nn.Module):
    """Pictures float32 [1, H, W, 3] in 0..1.

    Channels are put first by way of a matrix: litert-torch would move a plain permutation behind the normalisation of
    pixels, whose factor would then become one with the weights of the first convolution, which NNCF has decided on.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        batch, height, width, colours = images.shape
        channels = images.reshape(batch, height * width, colours).transpose(1, 2).reshape(batch, colours, height, width)
        return answers_of(self.module, channels * 255)


class _Decode(nn.Module):
    """Rows that stand behind each other, from the first of the positions, int32 [T]; behind the context as padding."""

    ramp: Tensor

    def __init__(self, module: nn.Module, length: int, *, context: int) -> None:
        super().__init__()
        self.module, self.context = module, context
        self.register_buffer("ramp", torch.arange(length, dtype=torch.int32), persistent=False)

    def forward(self, rows: Tensor, positions: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        places = positions[:1] + self.ramp
        inside = (places < self.context).to(torch.int32)
        places = places * inside + (inside - 1)
        logits, *written = answers_of(self.module, rows, places[None], *state)
        return logits[:, None], *written
