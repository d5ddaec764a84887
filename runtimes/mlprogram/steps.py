"""The steps of a plan: ops that are called one after the other, and results that are checked as they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from edgevlm.errors import BundleError, EdgeVLMError, TensorError, UnsupportedError
from edgevlm.runtimes.mlprogram.ops import CARRIERS
from edgevlm.runtimes.mlprogram.ops.registry import Op, Parameter
from edgevlm.runtimes.mlprogram.program import Named, Operation, Shape
from edgevlm.runtimes.mlprogram.values import Cell, TensorList, Value, from_halves

Observer = Callable[[Operation, Mapping[str, Value]], None]
"""Called with each op that ran and its results by name."""

MOST_STEPS = 1_000_000
"""Ops in loops and branches; a run with more of them is taken for one that never ends."""

_LARGE = 1 << 16
"""Numbers, as many as stay in a processor's cache."""

_HOLDERS: Mapping[str, type] = {"tensor": torch.Tensor, "list": TensorList, "dictionary": dict}
"""What holds a result of each kind, texts left out."""


@dataclass
class Effort:
    """How many ops in loops and branches one run has come to."""

    steps: int = 0


@dataclass(frozen=True)
class Mode:
    """How a plan runs.

    Attributes:
        rounds: Whether fp16 results are rounded.
        observe: Called after each op, those in nested blocks included.
        measure: Called with each numeric result before it is rounded.
        effort: Counts on from one nested block to the next.
    """

    rounds: bool
    observe: Observer | None = None
    measure: Callable[[Operation, Named, torch.Tensor], None] | None = None
    effort: Effort = field(default_factory=Effort)


@dataclass(frozen=True)
class Reference:
    """The name of what is computed at run time."""

    name: str


@dataclass(frozen=True)
class Binding:
    """An argument that is known only at run time: names of results, and constants among them if it is several."""

    name: str
    sources: tuple[Reference | Value, ...]
    parameter: Parameter

    def hand_over(self, environment: Mapping[str, Value]) -> Any:
        """The argument as the op takes it."""
        return hand_over(
            [environment[each.name] if isinstance(each, Reference) else each for each in self.sources], self.parameter
        )


@dataclass(frozen=True)
class Step:
    """One op, ready to be called.

    Attributes:
        settled: Arguments that are known, as the op takes them.
        halves: Names of those among them that are kept as they are stored, and are widened for the call alone.
        bindings: The others.
        blocks: The plans of its nested blocks.
        moves: Whether its results are numbers that it is given, which are rounded already.
        narrow: Whether all that it takes and gives is declared as fp16.
        spent: Names of values that nothing after this op reads.
    """

    operation: Operation
    op: Op
    settled: Mapping[str, Any]
    halves: tuple[str, ...]
    bindings: tuple[Binding, ...]
    blocks: tuple[Plan, ...]
    moves: bool = False
    narrow: bool = False
    spent: tuple[str, ...] = ()

    @property
    def reads(self) -> frozenset[str]:
        """The names that have to be there before it runs."""
        own = {each.name for binding in self.bindings for each in binding.sources if isinstance(each, Reference)}
        return frozenset(own).union(*(block.reads for block in self.blocks))

    @property
    def is_fixed(self) -> bool:
        """Whether its results, and all that torch holds for them, are as large in every run, its inputs being so."""
        return (
            not self.blocks
            and all(each.parameter.takes in (torch.Tensor, Cell) for each in self.bindings)
            and all(each.parameter.convert is None or each.name in self.op.steady for each in self.bindings)
            and all(each.type.shape is not None and None not in each.type.shape for each in self.operation.outputs)
        )

    def run(self, environment: Mapping[str, Value], mode: Mode) -> dict[str, Value]:
        """Computes the op's results, by name.

        Args:
            environment: The results so far.

        Raises:
            TensorError: an index is out of range.
            BundleError: a result has not the shape or type that the program declares.
        """
        results = self._call(environment, mode)
        results = results if isinstance(results, tuple) else (results,)
        declared = self.operation.outputs
        if len(results) != len(declared):
            raise BundleError(f"{where(self.operation)}: {len(declared)} results declared, {len(results)} computed")
        named = {
            each.name: self._rounded(_checked(value, each, self.operation), each, mode, environment)
            for each, value in zip(declared, results, strict=True)
        }
        if mode.observe is not None:
            mode.observe(self.operation, named)
        return named

    def _rounded(self, value: Value, declared: Named, mode: Mode, environment: Mapping[str, Value]) -> Value:
        if not isinstance(value, torch.Tensor):
            return value
        if mode.measure is not None:
            mode.measure(self.operation, declared, value)
        # A weight that is decompressed is one of the values that the device holds, however the program is evaluated.
        rounds = mode.rounds or self.operation.kind.startswith("constexpr_")
        rounding = rounds and declared.type.dtype == "fp16" and not self.moves
        if rounding and value.numel() > _LARGE and self._is_fresh(value, environment):
            return round_in_place(value)
        return value if self.moves else round_to(value, declared.type.dtype, rounds=rounds)

    def _is_fresh(self, value: torch.Tensor, environment: Mapping[str, Value]) -> bool:
        """Whether a result is contiguous memory of its own, which no argument has, nor a value that a block saw."""
        if self.blocks or not value.is_contiguous():
            return False
        given = list(self.settled.values())
        for binding in self.bindings:
            given += [environment[each.name] if isinstance(each, Reference) else each for each in binding.sources]
        flat = [part for each in given for part in (each if isinstance(each, tuple) else (each,))]
        if any(isinstance(each, Cell | TensorList | dict) for each in flat):
            return False
        memories = {each.untyped_storage().data_ptr() for each in flat if isinstance(each, torch.Tensor)}
        return value.untyped_storage().data_ptr() not in memories

    def _call(self, environment: Mapping[str, Value], mode: Mode) -> Any:
        """What the op gives; what it raises is told where it happened."""
        try:
            arguments = dict(self.settled)
            for name in self.halves:
                arguments[name] = widened(arguments[name])
            for binding in self.bindings:
                arguments[binding.name] = binding.hand_over(environment)
            for branch, block in zip(self.op.branches, self.blocks, strict=True):
                arguments[branch] = partial(_enter, block, environment, mode)
            narrow = self.op.narrow if self.narrow and mode.rounds and mode.measure is None else None
            return (narrow or self.op.function)(**arguments)
        except EdgeVLMError as error:
            raise located(error, where(self.operation)) from error
        except IndexError as error:
            raise TensorError(f"{where(self.operation)}: an index is out of range: {error}") from error
        except (RuntimeError, TypeError, ValueError, ArithmeticError) as error:
            raise BundleError(f"{where(self.operation)}: its arguments do not fit each other: {error}") from error


@dataclass(frozen=True)
class Plan:
    """A block's steps, and those of its outputs that do not depend on its inputs.

    Attributes:
        reads: The names around the block that its steps and outputs need.
    """

    inputs: tuple[Named, ...]
    steps: tuple[Step, ...]
    constants: Mapping[str, Value]
    outputs: tuple[str, ...]
    reads: frozenset[str]

    def run(self, environment: Mapping[str, Value], mode: Mode) -> tuple[Value, ...]:
        """Runs every step and returns the block's outputs.

        Args:
            environment: The inputs and what the block reads from around it.

        Raises:
            TensorError, BundleError: see `Step.run`.
        """
        results = {**self.constants, **environment}
        for step in self.steps:
            results.update(step.run(results, mode))
            for name in step.spent:
                del results[name]
        return tuple(results[name] for name in self.outputs)


def round_to(tensor: torch.Tensor, dtype: str, *, rounds: bool) -> torch.Tensor:
    """A float32 tensor with values that fp16 has, if fp16 is the type and rounding is asked for."""
    return tensor.half().float() if rounds and dtype == "fp16" else tensor


def round_in_place(tensor: torch.Tensor) -> torch.Tensor:
    """A contiguous tensor that is nobody else's, with values that fp16 has: memory for another takes longer to get."""
    for part in torch.split(tensor.view(-1), _LARGE):
        part.copy_(part.half())
    return tensor


def widened(value: Value) -> Value:
    """A constant as ops take it: what is stored as halves as float32, anything else as it is."""
    return from_halves(value) if isinstance(value, torch.Tensor) else value


def narrowed(value: Value) -> Value:
    """A constant to be kept: what is float32 as halves, where that loses nothing."""
    if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
        return value
    halves = value.half()
    return halves if torch.equal(halves.float(), value) else value


def where(operation: Operation) -> str:
    """How an op is called in messages."""
    return f"op {operation.kind} {operation.name!r}"


def located(error: EdgeVLMError, place: str) -> EdgeVLMError:
    """The same error, told where it happened."""
    return type(error)(f"{place}: {error.message}", hint=error.hint)


def fits(shape: Sequence[int | None], declared: Shape | None) -> bool:
    """Whether a shape is what was declared, None standing for any size, or for any shape."""
    if declared is None or shape == declared:
        return True
    return len(shape) == len(declared) and all(size in (own, None) for own, size in zip(shape, declared, strict=True))


def shown(shape: Sequence[int | None] | None) -> str:
    """A shape in messages, `?` standing for any size."""
    return "[...]" if shape is None else f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _enter(block: Plan, environment: Mapping[str, Value], mode: Mode, *arguments: Value) -> tuple[Value, ...]:
    """Runs a nested block on its arguments."""
    if len(arguments) != len(block.inputs):
        raise BundleError(f"a nested block takes {len(block.inputs)} values and got {len(arguments)}")
    around = {name: environment[name] for name in block.reads}
    mode.effort.steps += 1 + len(block.steps)
    if mode.effort.steps > MOST_STEPS:
        raise UnsupportedError(f"has not ended after {MOST_STEPS:,} ops")
    given = {each.name: _checked(value, each, None) for each, value in zip(block.inputs, arguments, strict=True)}
    return block.run({**around, **given}, mode)


def hand_over(values: Sequence[Any], parameter: Parameter) -> Any:
    """An argument's values as the op takes them."""
    for value in values:
        if parameter.takes is not None and not isinstance(value, parameter.takes):
            raise UnsupportedError(f"expected {_called(parameter.takes)}, got {value!r:.100}")
    if parameter.several:
        return tuple(values)
    (value,) = values
    try:
        return parameter.convert(value) if parameter.convert else value
    except (AttributeError, RuntimeError, ValueError):
        raise UnsupportedError(f"a value of another kind than the op takes: {value!r:.100}") from None


def _called(kind: type) -> str:
    return {torch.Tensor: "a tensor", str: "a text", TensorList: "a list", Cell: "a state"}.get(kind, "constants")


def _checked(value: Value, declared: Named, operation: Operation | None) -> Value:
    """The value, in the type that carries the declared one.

    Args:
        operation: What gave it; None for what a nested block is given.
    """
    text = declared.type.dtype == "string" and declared.type.kind == "tensor"
    expected = str if text else _HOLDERS.get(declared.type.kind)
    if expected is None or not isinstance(value, expected):
        raise BundleError(
            f"{_place(operation)}: the program declares {declared.name!r} as a {declared.type.kind} of "
            f"{declared.type.dtype}, which the op's result is not"
        )
    if not isinstance(value, torch.Tensor):
        return value
    if not fits(value.shape, declared.type.shape):
        raise BundleError(
            f"{_place(operation)}: the program declares {declared.name!r} as {shown(declared.type.shape)}, "
            f"but the op's result is {shown(value.shape)}"
        )
    carrier = CARRIERS[declared.type.dtype]
    if value.dtype != carrier:
        if _family(value.dtype) != _family(carrier):
            raise BundleError(
                f"{_place(operation)}: the program declares {declared.name!r} as {declared.type.dtype}, "
                f"but the op's result is {_family(value.dtype)}"
            )
        value = value.to(carrier)
    return value


def _place(operation: Operation | None) -> str:
    return "a nested block" if operation is None else where(operation)


def _family(dtype: torch.dtype) -> str:
    if dtype == torch.bool:
        return "bool"
    return "floating point" if dtype.is_floating_point else "integer"
