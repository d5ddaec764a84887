"""A component of a model that talks, as ExecuTorch's runner calls it.

The runner's contract is that of extension/llm/runner in ExecuTorch's repository: multimodal_prefiller.cpp and
text_decoder_runner.cpp.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgevlm.bundle.dialogue import LOGITS, POSITIONS
from edgevlm.bundle.spec import ComponentSpec


class Called(nn.Module):
    """Takes ids as int64 and positions as int64 [T], and keeps the state of a run to the next.

    Args:
        spec: Of the function, its state among its inputs and outputs.
        module: Takes the inputs of `spec` and gives its outputs, both by position.
    """

    def __init__(self, spec: ComponentSpec, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        spec = spec.implicit()
        self.kept, self.given = spec.state, spec.inputs
        self.answers = [output.name for output in spec.outputs]
        for tensor in self.kept:
            self.register_buffer(tensor.name, torch.zeros(tensor.shape), persistent=False)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = [
            (value[None] if tensor.name == POSITIONS else value).to(getattr(torch, tensor.dtype))
            for tensor, value in zip(self.given, tensors, strict=True)
        ]
        kept = [getattr(self, tensor.name) for tensor in self.kept]
        answers = self.module(*given, *kept)
        answers = answers if isinstance(answers, tuple) else (answers,)
        answers, written = answers[: len(self.answers)], answers[len(self.answers) :]
        for buffer, new in zip(kept, written, strict=True):
            buffer.copy_(new)
        return tuple(
            value[:, None] if name == LOGITS else value for name, value in zip(self.answers, answers, strict=True)
        )

    def inputs(self, example: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """An example, as it is called."""
        wide = (each.long() if each.dtype == torch.int32 else each for each in example[: len(self.given)])
        return tuple(
            each[0] if tensor.name == POSITIONS else each for tensor, each in zip(self.given, wide, strict=True)
        )

    def axes(self) -> list[list[int]]:
        """Which axes of each input, as it is called, are as long as there are rows."""
        found = []
        for tensor in self.given:
            shape = tensor.shape[1:] if tensor.name == POSITIONS else tensor.shape
            found.append([axis for axis, size in enumerate(shape) if size == -1])
        return found
