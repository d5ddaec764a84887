"""One call of one op, and the arrays it is called with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import coremltools as ct
import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Function, types
from evidence import Oracle
from mlprograms import Array

RNG = np.random.default_rng(0)


def real(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> Array:
    return RNG.uniform(0.1, 3, shape).astype(np.float32)


def whole(*shape: int, low: int = -5, high: int = 6) -> Array:
    return RNG.integers(low, high, shape).astype(np.int32)


@dataclass(frozen=True)
class Case:
    """One call of one op. `expected` takes the inputs as keywords; `values` hands them over as a list.

    Inputs of programs are float32 or int32: those called `bools` are cast to bool, and with `integer` all to that type.
    `oracle` is what `expected` computes with; where coremltools' own value inference of the op is no second one,
    `inferred_otherwise` says why.
    """

    kind: str
    inputs: Mapping[str, Array]
    expected: Callable[..., Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    opset: ct.target = ct.target.iOS18
    values: bool = False
    bools: tuple[str, ...] = ()
    integer: str | None = None
    omitted: tuple[str, ...] = ()
    oracle: Oracle = "NumPy"
    inferred_otherwise: str = ""

    def build(self, *variables: Any) -> Any:
        named = dict(zip(self.inputs, variables, strict=True))
        named |= {name: mb.cast(x=named[name], dtype="bool") for name in self.bools}
        if self.integer:
            named = {name: mb.cast(x=each, dtype=self.integer) for name, each in named.items()}
        op = getattr(mb, self.kind)
        return op(values=list(named.values()), **self.arguments) if self.values else op(**named, **self.arguments)

    def inferred(self) -> list[Array] | None:
        """The results as coremltools computes them of constants; None where its builder has no such code for the op."""
        with Function({}, opset_version=self.opset):
            results = self.build(*(mb.const(val=array) for array in self.inputs.values()))
        values = [each.val for each in (results if isinstance(results, list | tuple) else [results])]
        return None if any(each is None for each in values) else values

    def fits(self) -> bool:
        """Whether its opset has an op that takes this call."""
        placeholders = {
            name: mb.placeholder(array.shape, types.fp32 if array.dtype == np.float32 else types.int32)
            for name, array in self.inputs.items()
        }
        try:
            with Function(placeholders, opset_version=self.opset) as function:
                self.build(*function.inputs.values())
        except (NotImplementedError, TypeError, ValueError):
            return False
        return True

    def strip(self, block: Any) -> None:
        """Removes from the program what the builder filled in, so that the evaluator's own defaults apply."""
        given = {"values", *self.inputs, *self.arguments} - {*self.omitted}
        for operation in block.operations:
            if operation.type == self.kind:
                for name in set(operation.inputs) - given:
                    del operation.inputs[name]
