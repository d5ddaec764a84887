"""An op of a program together with what is known of its arguments without running it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.runtimes.mlprogram.opsets import Known
from edgevlm.runtimes.mlprogram.program import Block, Constant, Function, Named, Operation, Shape, ValueType

LARGEST_READ = 1 << 20
"""Elements; a longer constant is a weight, which is not looked into."""


@dataclass(frozen=True)
class Scope:
    """The names of a function: their types, and the ops that compute them."""

    types: Mapping[str, ValueType]
    makers: Mapping[str, Operation]


@dataclass(frozen=True)
class Use:
    """One op where it stands."""

    operation: Operation
    scope: Scope

    @property
    def kind(self) -> str:
        return self.operation.kind

    @property
    def result(self) -> ValueType | None:
        """The type of its first result."""
        return self.operation.outputs[0].type if self.operation.outputs else None

    @property
    def computes(self) -> bool:
        """Whether it does something when the program runs: constants and compressed weights are there before."""
        return self.kind != "const" and not self.kind.startswith("constexpr_")

    def known(self, source: str | Constant) -> Known | None:
        """What is known of an argument's source; None for a name that nothing before it computes."""
        if isinstance(source, Constant):
            return Known(source.type.dtype, constant=True, value=source.read)
        maker = self.scope.makers.get(source)
        if maker is not None and maker.kind == "const":
            (constant,) = maker.arguments.get("val", (None,))
            return self.known(constant) if isinstance(constant, Constant) else None
        if source not in self.scope.types:
            return None
        made = maker is not None and maker.kind.startswith("constexpr_")
        return Known(self.scope.types[source].dtype, constant=made)

    def type(self, argument: str) -> ValueType | None:
        """The type of an argument; None where it is not given or not known."""
        source = self._source(argument)
        return source.type if isinstance(source, Constant) else self.scope.types.get(source or "")

    def shape(self, argument: str) -> Shape:
        """Its sizes; () where they are not known."""
        found = self.type(argument)
        return (found.shape or ()) if found is not None else ()

    def value(self, argument: str) -> NDArray[Any] | None:
        """A constant's value; None for what is computed, too long or no number.

        Raises:
            BundleError: the package is damaged.
        """
        source, found = self._source(argument), self.type(argument)
        known = None if source is None else self.known(source)
        if known is None or known.value is None or found is None or known.dtype == "string":
            return None
        if found.shape is None or math.prod(size or 1 for size in found.shape) > LARGEST_READ:
            return None
        value = known.value()
        return value if isinstance(value, np.ndarray) else None

    def numbers(self, argument: str) -> tuple[int, ...]:
        """A constant vector of whole numbers; () where there is none."""
        value = self.value(argument)
        return () if value is None else tuple(int(each) for each in value.reshape(-1))

    def maker(self, argument: str) -> Use | None:
        """The op that computes an argument."""
        source = self._source(argument)
        made = self.scope.makers.get(source) if isinstance(source, str) else None
        return None if made is None else Use(made, self.scope)

    def _source(self, argument: str) -> str | Constant | None:
        sources = self.operation.arguments.get(argument, ())
        return sources[0] if len(sources) == 1 else None


def uses(function: Function) -> tuple[Use, ...]:
    """Every op of a function, those of nested blocks included."""
    operations = tuple(function.walk())
    named = [*_inputs(function), *(each for operation in operations for each in operation.outputs)]
    makers = {each.name: operation for operation in operations for each in operation.outputs}
    scope = Scope({each.name: each.type for each in named}, makers)
    return tuple(Use(operation, scope) for operation in operations)


def _inputs(block: Block) -> Iterator[Named]:
    """What a block and those nested in it take."""
    yield from block.inputs
    for operation in block.operations:
        for nested in operation.blocks:
            yield from _inputs(nested)
