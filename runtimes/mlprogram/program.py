"""An ML Program as plain values: functions, blocks, ops, and what the model's description says of the inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["tensor", "list", "state", "dictionary", "other"]
Shape = tuple[int | None, ...]
"""None where a size is known only at run time."""
ImageLayout = Literal["rgb", "bgr", "grey", "grey fp16"]
"""The channels of a picture in the graph's order; the pixels of `grey fp16` are half floats rather than bytes."""
IMAGE_CHANNELS: Mapping[ImageLayout, int] = {"rgb": 3, "bgr": 3, "grey": 1, "grey fp16": 1}
Literals = NDArray[np.generic] | str | tuple[str | int, ...]
"""What a constant can be: an array, a text, or a list of texts or whole numbers."""


@dataclass(frozen=True)
class ValueType:
    """The type of a value in a program.

    Attributes:
        dtype: Element type by MIL's name; of a list or state, that of the tensors in it.
        shape: None if not even the rank is known. Of a list or state, that of the tensors in it.
        kind: What holds the elements.
    """

    dtype: str
    shape: Shape | None
    kind: Kind = "tensor"


@dataclass(frozen=True)
class Named:
    """A value that a function or block takes, or that an op produces."""

    name: str
    type: ValueType


@dataclass(frozen=True)
class Constant:
    """A value written in the program; `read` loads it."""

    type: ValueType
    read: Callable[[], Literals]


@dataclass(frozen=True)
class Operation:
    """One op. An argument is one or more names of earlier results or constants written in place."""

    kind: str
    arguments: Mapping[str, tuple[str | Constant, ...]]
    outputs: tuple[Named, ...]
    blocks: tuple[Block, ...] = ()

    @property
    def name(self) -> str:
        """Its first result's name, by which Core ML's own tools call it."""
        return self.outputs[0].name if self.outputs else ""


@dataclass(frozen=True)
class Block:
    """Ops in the order in which they run; a nested block sees the names of those around it."""

    inputs: tuple[Named, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]

    def walk(self) -> Iterator[Operation]:
        """Every op, those of nested blocks after the op that has them."""
        for operation in self.operations:
            yield operation
            for block in operation.blocks:
                yield from block.walk()


@dataclass(frozen=True)
class Described:
    """What the model's description says of an input or output beyond its type in the program.

    Attributes:
        image: For a picture, its channel order.
        sizes: For each axis the least and the greatest size, None where there is no greatest; None where the
            description sets no bounds.
        choices: The shapes to choose from, where they are enumerated.
        example: A shape that is allowed.
        default: The value of an input that may be left out, in every element.
        plain: Whether it is a text or a whole number rather than an array.
    """

    image: ImageLayout | None = None
    sizes: tuple[tuple[int, int | None], ...] | None = None
    choices: tuple[tuple[int, ...], ...] = ()
    example: tuple[int, ...] | None = None
    default: float | None = None
    plain: bool = False


@dataclass(frozen=True)
class Function(Block):
    """One function of a program.

    Attributes:
        opset: The version of MIL in which its ops are written, as the program calls it.
        described: What the model's description says, by name of input or output.
    """

    name: str
    opset: str
    described: Mapping[str, Described]
