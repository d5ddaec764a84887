"""What a program computes with besides tensors and texts: lists that grow, and states that outlive a prediction."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from edgevlm.errors import TensorError


@dataclass(frozen=True)
class TensorList:
    """MIL's list: tensors of one type, each written before it is read.

    Attributes:
        items: None where nothing has been written yet.
        grows: Whether a write beyond the end makes it longer.
        blank: What is read where nothing has been written, if that is known.
    """

    items: tuple[torch.Tensor | None, ...]
    grows: bool
    blank: torch.Tensor | None = None

    def __getitem__(self, index: int) -> torch.Tensor:
        if not 0 <= index < len(self.items):
            raise TensorError(f"index {index} of a list of {len(self.items)}")
        found = self.items[index]
        if found is not None:
            return found
        if self.blank is None:
            raise TensorError(f"element {index} of a list of elements of any shape is read before it is written")
        return self.blank

    def with_item(self, index: int, value: torch.Tensor) -> TensorList:
        """A list that differs in one element."""
        if index < 0 or (index >= len(self.items) and not self.grows):
            raise TensorError(f"index {index} of a list of {len(self.items)}, which may not grow")
        items = [*self.items, *[None] * (index + 1 - len(self.items))]
        items[index] = value
        return replace(self, items=tuple(items))


@dataclass
class Cell:
    """One state of a program: read and replaced while the program runs, kept from one prediction to the next."""

    value: torch.Tensor


Value = torch.Tensor | str | tuple[str | int, ...] | TensorList | Cell | dict[str | int, float]


def from_halves(tensor: torch.Tensor) -> torch.Tensor:
    """float32 of halves; any other tensor as it is."""
    return tensor.float() if tensor.dtype == torch.half else tensor
