"""Counts a component's multiply-adds, without running it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgevlm.graphs.program import Program


def multiply_adds(program: Program) -> int:
    """Multiply-adds of the program's convolutions, matrix products and attention, as PyTorch's own counter has them.

    The module runs on fake tensors: shapes without data.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter, torch.no_grad():
        program.module(*(torch.empty(tensor.shape, dtype=tensor.dtype) for tensor in program.example))
    return int(counter.get_total_flops()) // 2  # which counts a multiply-add as two
