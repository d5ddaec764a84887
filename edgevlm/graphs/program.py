"""A component in float32 torch, ready to be lowered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgevlm.bundle.spec import ComponentSpec

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Program:
    """One component in float32 torch, ready to be lowered.

    Attributes:
        spec: Names, dtypes and shapes at the boundary.
        module: In eval mode, without gradients; its `forward` takes the inputs of `spec` by position and
            returns the outputs (one tensor, or a tuple of them).
        example: Inputs that `module` accepts, of the shapes in `spec`.
    """

    spec: ComponentSpec
    module: torch.nn.Module
    example: tuple[torch.Tensor, ...]


Programs = Mapping[str, Program]
