"""A component of a model that talks, as LiteRT-LM calls it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from edgevlm.bundle.dialogue import DECODE
from edgevlm.graphs.capture import answers_of
from edgevlm.graphs.program import Program
from edgevlm.targets.litert_lm import EMBEDDER, VISION_ENCODER, Beside, called


def as_called(function: str, program: Program, beside: Beside) -> Program:
    """A function of the container, which takes and gives what `edgevlm.targets.litert_lm.called` says.

    Args:
        function: What the container calls it.
        program: With its state among its inputs and outputs.
        beside: What the decoder takes beside its rows.
    """
    spec, example, module = called(function, program.spec, beside), program.example, program.module
    if function == VISION_ENCODER:
        images = example[0].permute(0, 2, 3, 1) / 255
        vision = _SideBySide(_Vision(module), beside) if beside.tensors else _Vision(module)
        return replace(program, spec=spec, module=vision, example=(images,))
    if function == EMBEDDER:
        added = spec.outputs[0].shape[-1] - program.spec.outputs[0].shape[-1]
        return replace(program, spec=spec, module=_Widened(module, added) if added else module)
    rows, positions, *given = example
    if not beside.tensors:
        context = given[0].shape[2]
        decode = _DecodePrefix(module) if spec.prefix else _Decode(module, rows.shape[1], context=context)
        return replace(program, spec=spec, module=decode, example=(rows, positions[0], *given))
    wide = nn.functional.pad(rows, (0, spec.inputs[0].shape[-1] - rows.shape[-1]))
    flat = (each.reshape(tensor.shape) for each, tensor in zip(given, spec.inputs[2:], strict=True))
    decode_beside = _DecodeBeside(program, beside, writes=function != DECODE)
    return replace(program, spec=spec, module=decode_beside, example=(wide, positions[0], *flat))


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


class _DecodePrefix(nn.Module):
    """Rows that may see each other, at positions int32 [T], -1 for padding, which nobody may take for a row.

    The runtime does not ask such a decoder: it has no word for padding.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, rows: Tensor, positions: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        logits, *written = answers_of(self.module, rows, positions[None], *state)
        return logits[:, None], *written


class _SideBySide(nn.Module):
    """What a module answers in tensors [1, heads, P, D] as rows, patch by patch, tensor by tensor, head by head."""

    def __init__(self, module: nn.Module, beside: Beside) -> None:
        super().__init__()
        self.module, self.beside = module, beside

    def forward(self, images: Tensor) -> Tensor:
        answers = self.module(images)
        missing = self.beside.positions * self.beside.patches - answers[0].shape[2]
        parts = [nn.functional.pad(each.transpose(1, 2).flatten(2), (0, 0, 0, missing)) for each in answers]
        return torch.cat(parts, -1).reshape(1, self.beside.positions, -1)


class _Widened(nn.Module):
    """Rows of words, with so many zeros behind each."""

    def __init__(self, module: nn.Module, added: int) -> None:
        super().__init__()
        self.module, self.added = module, added

    def forward(self, token_ids: Tensor) -> Tensor:
        (rows,) = answers_of(self.module, token_ids)
        return nn.functional.pad(rows, (0, self.added))


class _DecodeBeside(nn.Module):
    """The same of a decoder that looks at a picture beside its words: see `edgevlm.targets.litert_lm.Beside`.

    The picture's rows stand first. They are padding to the decoder, and are written into caches of their own by a
    product with the one-hot slots of their patches: a chunk may have the picture's end and the first words, and a
    gather would cut XNNPACK's part of the graph in two, with all that it gathers between them.

    Args:
        program: The decoder, with its state among its inputs and outputs.
        beside: What it takes beside its rows.
        writes: Whether there may be rows of a picture.
    """

    ramp: Tensor
    patch_ramp: Tensor
    slots: Tensor

    def __init__(self, program: Program, beside: Beside, *, writes: bool) -> None:
        super().__init__()
        self.module, self.beside, self.writes = program.module, beside, writes
        _, length, self.width = program.spec.inputs[0].shape
        self.shapes = [each.shape for each in program.spec.inputs[2:]]
        self.context = self.shapes[-1][2]
        sizes = {"ramp": length, "patch_ramp": length * beside.patches, "slots": self.shapes[0][2]}
        for name, size in sizes.items():
            self.register_buffer(name, torch.arange(size, dtype=torch.int32), persistent=False)

    def forward(self, rows: Tensor, positions: Tensor, *flat: Tensor) -> tuple[Tensor, ...]:
        places = positions[:1] + self.ramp
        caches = [each.reshape(shape) for each, shape in zip(flat, self.shapes, strict=True)]
        count = len(self.beside.tensors)
        if self.writes:
            caches[:count] = self._written(caches[:count], rows, positions[:1])
        words = places - self.beside.positions
        inside = ((words >= 0) & (words < self.context)).to(torch.int32)
        words = words * inside + (inside - 1)
        logits, *written = answers_of(self.module, rows[..., : self.width], words[None], *caches)
        if self.writes:
            written += caches[:count]
        return logits[:, None], *(each.reshape(1, 1, -1) for each in written)

    def _written(self, caches: Iterable[Tensor], rows: Tensor, first: Tensor) -> list[Tensor]:
        """Caches [1, heads, P, D] with the patches of rows in their slots, of which the first row's have the first."""
        patches = rows.reshape(-1, sum(self.beside.widths))
        one_hot = (self.slots[:, None] == first * self.beside.patches + self.patch_ramp).float()
        kept = 1 - one_hot.sum(1, keepdim=True)
        return [
            cache * kept + one_hot @ part.reshape(len(part), cache.shape[1], -1).transpose(0, 1)
            for cache, part in zip(caches, torch.split(patches, list(self.beside.widths), -1), strict=True)
        ]
