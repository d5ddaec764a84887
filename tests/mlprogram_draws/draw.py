"""One drawn call, and what it is drawn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb
from mlprograms import Array

from edgevlm.runtimes.mlprogram.opsets import definitions

FLOATS = ("fp16", "fp32")
NARROW = ("int8", "uint8", "int16", "uint16")
_NUMPY = {"fp16": np.float16, "fp32": np.float32, "bool": np.bool_}


@dataclass(frozen=True)
class Given:
    """An input of a call: an array, and the element type of MIL that it is handed over in."""

    array: Array
    dtype: str

    @property
    def carrier(self) -> Array:
        """As an input of a program: float32 or int32, of rank 1 at least."""
        return np.atleast_1d(self.array).astype(np.float32 if self.dtype in FLOATS else np.int32)

    def handed_over(self, variable: Any) -> Any:
        """The program's variable in the call's own type and rank."""
        if np.ndim(self.array) == 0:
            variable = mb.squeeze(x=variable)
        return variable if self.dtype in ("fp32", "int32") else mb.cast(x=variable, dtype=self.dtype)


@dataclass(frozen=True)
class Call:
    """One call of one op.

    Attributes:
        inputs: By argument; those of `values` are handed over as a list.
        expected: In the result's own type, computed from the inputs in float32 or as whole numbers.
    """

    kind: str
    inputs: Mapping[str, Given]
    expected: Array | Sequence[Array]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    values: bool = False

    def build(self, variables: Sequence[Any]) -> list[Any]:
        named = {
            name: given.handed_over(variable)
            for (name, given), variable in zip(self.inputs.items(), variables, strict=True)
        }
        op = getattr(mb, self.kind)
        results = op(values=list(named.values()), **self.arguments) if self.values else op(**named, **self.arguments)
        return list(results) if isinstance(results, list | tuple) else [results]

    @property
    def wanted(self) -> list[Array]:
        return [np.asarray(each) for each in (self.expected if isinstance(self.expected, list) else [self.expected])]

    def __str__(self) -> str:
        inputs = ", ".join(f"{name}={each.dtype}{list(np.shape(each.array))}" for name, each in self.inputs.items())
        return f"{self.kind}({inputs}, {', '.join(f'{name}={value}' for name, value in self.arguments.items())})"

    def computed(self, *names: str) -> Call:
        """The same with these vectors of whole numbers known only at run time."""
        known = {name: value for name, value in self.arguments.items() if name not in names}
        late = {name: Given(np.asarray(self.arguments[name], np.int32), "int32") for name in names}
        return replace(self, inputs={**self.inputs, **late}, arguments=known)


Draw = Callable[["Draws"], Call]


class Draws:
    """A source of random calls' parts; the same seed draws the same."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self._seed = seed

    def op(self, *kinds: str, of_floats: Sequence[str] = ()) -> tuple[str, str]:
        """One of the ops, and a type that it takes as `x`: each pair in turn, seed by seed.

        Args:
            of_floats: Those that are defined for floating point alone, whatever MIL lets them take.
        """
        pairs = [
            (kind, dtype) for kind in sorted(kinds) for dtype in (FLOATS if kind in of_floats else self.types(kind))
        ]
        return pairs[self._seed % len(pairs)]

    def one(self, choices: Sequence[Any]) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def yes(self, share: float = 0.5) -> bool:
        return bool(self.rng.random() < share)

    def whole(self, low: int, high: int) -> int:
        """From low to high, both included."""
        return int(self.rng.integers(low, high + 1))

    def shape(self, least: int = 0, most: int = 5, *, empty: bool = True) -> tuple[int, ...]:
        """Sizes of 1 to 4, seldom 0."""
        sizes = [self.whole(1, 4) for _ in range(self.whole(least, most))]
        if empty and sizes and self.yes(0.1):
            sizes[self.whole(0, len(sizes) - 1)] = 0
        return tuple(sizes)

    def axis(self, rank: int) -> int:
        """One of the axes, counted from the front or from the end."""
        return self.whole(-rank, rank - 1)

    def axes(self, rank: int) -> list[int]:
        """Some of the axes, at least one, in any order."""
        chosen = self.rng.permutation(rank)[: self.whole(1, rank)]
        return [int(axis) - rank * self.yes() for axis in chosen]

    def dtype(self, kind: str, argument: str = "x") -> str:
        """A type that the op takes."""
        return str(self.one(self.types(kind, argument)))

    def types(self, kind: str, argument: str = "x") -> list[str]:
        """Those that the newest definition of the op takes; any floating point where it takes all."""
        return sorted(definitions()[kind][-1].arguments[argument].types or FLOATS)

    def given(self, dtype: str, shape: tuple[int, ...], low: int = -4, high: int = 4) -> Given:
        """Multiples of a quarter if floating point, which fp16 has as well; whole numbers else."""
        if dtype in FLOATS:
            array = self.rng.integers(4 * low, 4 * high + 1, shape) / 4
        elif dtype == "bool":
            array = self.rng.integers(0, 2, shape)
        else:
            array = self.rng.integers(0 if dtype[0] == "u" else low, high + 1, shape)
        return Given(np.asarray(array).astype(_NUMPY.get(dtype, np.int32)), dtype)

    def distinct(self, dtype: str, shape: tuple[int, ...]) -> Given:
        """No two elements alike."""
        array = self.rng.permutation(int(np.prod(shape))).reshape(shape)
        return Given(array.astype(_NUMPY.get(dtype, np.int32)), dtype)

    def broadcasting(self, count: int, *, empty: bool = True) -> list[tuple[int, ...]]:
        """Shapes that broadcast to one another."""
        whole = self.shape(empty=empty)
        shapes = []
        for _ in range(count):
            part = whole[self.whole(0, len(whole)) :]
            shapes.append(tuple(1 if self.yes(0.3) else size for size in part))
        shapes[self.whole(0, count - 1)] = whole
        return shapes


def exact(given: Given) -> Array:
    """What an op computes with: float32 for floating point."""
    return given.array.astype(np.float32) if given.dtype in FLOATS else given.array


def rounded(array: Any, dtype: str) -> Array:
    """A result in its own type."""
    return np.asarray(array).astype(_NUMPY.get(dtype, np.int32))
