"""A component in float32 torch, ready to be lowered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from edgevlm.bundle.dialogue import DECODE
from edgevlm.bundle.spec import ComponentSpec

if TYPE_CHECKING:
    import torch

Programs: TypeAlias = "Mapping[str, Program]"


@dataclass(frozen=True)
class Program:
    """One component in float32 torch, ready to be lowered.

    >>> import torch
    >>> from edgevlm.bundle import TensorSpec
    >>> x, y = (TensorSpec(name, "float32", (1, 2), "numbers") for name in "xy")
    >>> program = Program(ComponentSpec("same", (x,), (y,)), torch.nn.Identity(), (torch.ones(1, 2),))
    >>> program.module(*program.example).shape, program.lengths
    (torch.Size([1, 2]), (1,))

    Attributes:
        spec: Names, dtypes and shapes at the boundary.
        module: In eval mode, without gradients; its `forward` takes the inputs of `spec`, then its state, by position,
            and returns the outputs, then the new state (one tensor, or a tuple of them).
        example: Inputs that `module` accepts, of the shapes in `spec`, and a state; of its longest length.
        answers: Of a file's function, the lengths of its component that it is run with; 1 where that has no choice.
        most: Of a function that takes as many rows as there are, -1 in its shapes, how many those are at most.
        constants: What the file says to whoever runs it, where a file has a place for that, by name.
    """

    spec: ComponentSpec
    module: torch.nn.Module
    example: tuple[torch.Tensor, ...]
    answers: tuple[int, ...] = ()
    most: int = 0
    constants: Mapping[str, object] = field(default_factory=dict)

    @property
    def lengths(self) -> tuple[int, ...]:
        """How many rows it is run with at once; 1 where it has no choice."""
        return self.spec.lengths or (1,)

    @property
    def longest(self) -> tuple[torch.Tensor, ...]:
        """The example, of as many rows as it takes at once at most."""
        if not self.most:
            return self.example
        shapes = [tensor.at(self.most) for tensor in self.spec.inputs]
        return tuple(each.new_zeros(shape) for each, shape in zip(self.example, shapes, strict=True))

    @property
    def state_bytes(self) -> int:
        """What it keeps from one run to the next, in float32."""
        return self.spec.state_bytes

    def explicit(self, length: int) -> Program:
        """The same for so many rows at once, its state among its inputs and its outputs."""
        spec = self.spec.explicit(length)
        cut = (tuple(slice(0, size) for size in tensor.shape) for tensor in spec.inputs)
        example = tuple(each[part] for each, part in zip(self.example, cut, strict=True))
        return Program(spec, self.module, example, (length,))

    def implicit(self) -> Program:
        """The contrary of `explicit`: its state is kept from run to run."""
        return replace(self, spec=self.spec.implicit())

    def ranged(self, most: int) -> Program:
        """The same for any number of rows up to `most`, its state among its inputs and its outputs."""
        if not self.spec.lengths:
            return replace(self, answers=(1,))
        return Program(self.spec.explicit(-1), self.module, self.example, self.spec.lengths, most)


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


def functions(arranged: Programs) -> dict[str, dict[int, str]]:
    """What a file calls each component that it does not call by its own name, by length.

    Args:
        arranged: By the names in the file.
    """
    found: dict[str, dict[int, str]] = {}
    for name, program in arranged.items():
        if program.answers:
            found.setdefault(program.spec.name, {}).update(dict.fromkeys(program.answers, name))
    return found


def components(programs: Programs) -> tuple[str, ...]:
    """The components that programs are of, each once."""
    return tuple(dict.fromkeys(program.spec.name for program in programs.values()))
