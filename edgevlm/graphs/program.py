"""A component in float32 torch, ready to be lowered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from edgevlm.bundle.dialogue import DECODE
from edgevlm.bundle.spec import ComponentSpec

if TYPE_CHECKING:
    import torch

Programs: TypeAlias = "Mapping[str, Program]"


@dataclass(frozen=True)
class Program:
    """One component in float32 torch, ready to be lowered.

    Attributes:
        spec: Names, dtypes and shapes at the boundary.
        module: In eval mode, without gradients; its `forward` takes the inputs of `spec`, then its state, by position,
            and returns the outputs, then the new state (one tensor, or a tuple of them).
        example: Inputs that `module` accepts, of the shapes in `spec`, and a state; of its longest length.
    """

    spec: ComponentSpec
    module: torch.nn.Module
    example: tuple[torch.Tensor, ...]

    @property
    def lengths(self) -> tuple[int, ...]:
        """How many rows it is run with at once; 1 where it has no choice."""
        return self.spec.lengths or (1,)

    def explicit(self, length: int) -> Program:
        """The same for so many rows at once, its state among its inputs and its outputs."""
        spec = self.spec.explicit(length)
        cut = (tuple(slice(0, size) for size in tensor.shape) for tensor in spec.inputs)
        return Program(spec, self.module, tuple(each[part] for each, part in zip(self.example, cut, strict=True)))


def function_name(component: str, length: int, lengths: tuple[int, ...]) -> str:
    """What a file calls a component that is run with so many rows at once.

    >>> function_name("encode_image", 1, ()), function_name("decode", 1, (1, 64)), function_name("decode", 64, (1, 64))
    ('encode_image', 'decode', 'prefill_64')
    """
    if not lengths:
        return component
    if component == DECODE:
        return component if length == 1 else f"prefill_{length}"
    return f"{component}_{length}"


def unrolled(programs: Programs) -> dict[str, Program]:
    """Every component at each of its lengths, under the name that a file has for it; see `Program.explicit`."""
    return {
        function_name(name, length, program.spec.lengths): program.explicit(length) if program.spec.lengths else program
        for name, program in programs.items()
        for length in program.lengths
    }


def functions(programs: Programs) -> dict[str, dict[int, str]]:
    """Of each component that is run with several lengths, what a file calls it, by length."""
    return {
        name: {length: function_name(name, length, program.spec.lengths) for length in program.lengths}
        for name, program in programs.items()
        if program.spec.lengths
    }


def components(programs: Programs) -> tuple[str, ...]:
    """The components that programs are of, each once."""
    return tuple(dict.fromkeys(program.spec.name for program in programs.values()))
