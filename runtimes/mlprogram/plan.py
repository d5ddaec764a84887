"""The plan of a block: what can be settled before inputs are known is, and what is left is a list of calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from edgevlm.errors import BundleError, EdgeVLMError, TensorError, UnsupportedError
from edgevlm.runtimes.mlprogram.ops import CARRIERS, OPS
from edgevlm.runtimes.mlprogram.ops.registry import Op, Parameter
from edgevlm.runtimes.mlprogram.program import Block, Constant, Named, Operation, Shape, ValueType
from edgevlm.runtimes.mlprogram.values import Cell, TensorList, Value

Observer = Callable[[Operation, Mapping[str, Value]], None]
"""Called with each op that ran and its results by name."""


@dataclass(frozen=True)
class Mode:
    """How a plan runs.

    Attributes:
        rounds: Whether fp16 results are rounded.
        observe: Called after each op, those in nested blocks included.
        measure: Called with each numeric result before it is rounded.
    """

    rounds: bool
    observe: Observer | None = None
    measure: Callable[[Operation, Named, torch.Tensor], None] | None = None


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
        values = tuple(environment[each.name] if isinstance(each, Reference) else each for each in self.sources)
        return _hand_over(values, self.parameter)


@dataclass(frozen=True)
class Step:
    """One op, ready to be called.

    Attributes:
        settled: Arguments that are known, as the op takes them.
        bindings: The others.
        blocks: The plans of its nested blocks.
        spent: Names of values that nothing after this op reads.
    """

    operation: Operation
    op: Op
    settled: Mapping[str, Any]
    bindings: tuple[Binding, ...]
    blocks: tuple[Plan, ...]
    spent: tuple[str, ...] = ()

    @property
    def reads(self) -> frozenset[str]:
        """The names that have to be there before it runs."""
        own = {each.name for binding in self.bindings for each in binding.sources if isinstance(each, Reference)}
        return frozenset(own).union(*(block.reads for block in self.blocks))

    def run(self, environment: Mapping[str, Value], mode: Mode) -> dict[str, Value]:
        """Computes the op's results, by name.

        Args:
            environment: The results so far.

        Raises:
            TensorError: an index is out of range.
            BundleError: a result has not the shape or type that the program declares.
        """
        arguments = dict(self.settled)
        for binding in self.bindings:
            arguments[binding.name] = self._located(partial(binding.hand_over, environment))
        for branch, block in zip(self.op.branches, self.blocks, strict=True):
            arguments[branch] = partial(_enter, block, environment, mode)
        results = self._located(partial(self.op.function, **arguments))
        results = results if isinstance(results, tuple) else (results,)
        declared = self.operation.outputs
        if len(results) != len(declared):
            raise BundleError(f"{where(self.operation)}: {len(declared)} results declared, {len(results)} computed")
        named = {
            each.name: _checked(value, each, self.operation, mode)
            for each, value in zip(declared, results, strict=True)
        }
        if mode.observe is not None:
            mode.observe(self.operation, named)
        return named

    def _located(self, call: Callable[[], Any]) -> Any:
        """What the call gives; what it raises is told where it happened."""
        place = where(self.operation)
        try:
            return call()
        except EdgeVLMError as error:
            raise located(error, place) from error
        except IndexError as error:
            raise TensorError(f"{place}: an index is out of range: {error}") from error
        except (RuntimeError, TypeError, ValueError, ArithmeticError) as error:
            raise BundleError(f"{place}: its arguments do not fit each other: {error}") from error


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


def make_plan(block: Block, mode: Mode) -> Plan:
    """Checks every op, reads the constants and computes what follows from them alone, compressed weights included.

    Raises:
        UnsupportedError: an op, an argument, a value or a type is not known here.
        BundleError: a constant cannot be read, or an op reads what nothing before it computes.
    """
    _refuse_unknown_ops(block)
    return _plan(block, {}, {}, replace(mode, observe=None, measure=None))


def round_to(tensor: torch.Tensor, dtype: str, *, rounds: bool) -> torch.Tensor:
    """A float32 tensor with values that fp16 has, if fp16 is the type and rounding is asked for."""
    return tensor.half().float() if rounds and dtype == "fp16" else tensor


def where(operation: Operation) -> str:
    """How an op is called in messages."""
    return f"op {operation.kind} {operation.name!r}"


def located(error: EdgeVLMError, place: str) -> EdgeVLMError:
    """The same error, told where it happened."""
    return type(error)(f"{place}: {error.message}", hint=error.hint)


def fits(shape: Sequence[int], declared: Shape | None) -> bool:
    """Whether a shape is what was declared, None standing for any size, or for any shape."""
    if declared is None:
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
    given = {each.name: value for each, value in zip(block.inputs, arguments, strict=True)}
    return block.run({**around, **given}, mode)


def _refuse_unknown_ops(block: Block) -> None:
    unknown: dict[str, list[str]] = {}
    for operation in block.walk():
        if operation.kind != "const" and operation.kind not in OPS:
            unknown.setdefault(operation.kind, []).append(repr(operation.name))
    if unknown:
        places = "; ".join(
            f"{kind} ({len(names)}, the first being {names[0]})" for kind, names in sorted(unknown.items())
        )
        raise UnsupportedError(
            f"the program has ops that the evaluator does not know: {places}",
            hint="run the package on Apple's own runtime, or keep these ops out of the exported model",
        )


def _plan(block: Block, known: Mapping[str, Value], types: Mapping[str, ValueType], mode: Mode) -> Plan:
    """
    Args:
        known: The values around the block that do not depend on inputs.
        types: The types of all names around the block.
    """
    inner = dict(known)
    for each in block.inputs:
        inner.pop(each.name, None)
    types = {**types, **{each.name: each.type for each in block.inputs}}
    steps: list[Step] = []
    for operation in block.operations:
        if operation.kind == "const":
            inner[operation.name] = _constant(operation)
        else:
            step = _bind(operation, inner, types, mode)
            if step.reads or not step.op.pure:
                steps.append(step)
                for each in operation.outputs:
                    inner.pop(each.name, None)
            else:
                inner |= step.run({}, mode)
        types |= {each.name: each.type for each in operation.outputs}
    for name in block.outputs:
        if name not in types:
            raise BundleError(f"a block returns {name!r}, which nothing computes", hint="convert the model again")
    constants = {name: inner[name] for name in block.outputs if name in inner}
    made = {each.name for each in block.inputs} | {each.name for step in steps for each in step.operation.outputs}
    needed = frozenset(block.outputs).union(*(step.reads for step in steps)) - made - set(constants)
    return Plan(block.inputs, _with_lifetimes(steps, keep={*block.outputs, *needed}), constants, block.outputs, needed)


def _bind(operation: Operation, known: Mapping[str, Value], types: Mapping[str, ValueType], mode: Mode) -> Step:
    op = OPS[operation.kind]
    _check_signature(operation, op)
    settled: dict[str, Any] = {}
    bindings: list[Binding] = []
    for name, argument in operation.arguments.items():
        place = f"{where(operation)}: argument {name!r}"
        parameter = op.parameters[name]
        for source in argument:
            _check_source(source, parameter, place, types)
        try:
            sources = tuple(_settle(source, known) for source in argument)
            if len(sources) != 1 and not parameter.several:
                raise UnsupportedError(f"expected one value, got {len(sources)}")
            if any(isinstance(source, Reference) for source in sources):
                bindings.append(Binding(name, sources, parameter))
            else:
                settled[name] = _hand_over(sources, parameter)
        except EdgeVLMError as error:
            raise located(error, place) from error
    return Step(
        operation, op, settled, tuple(bindings), tuple(_plan(each, known, types, mode) for each in operation.blocks)
    )


def _check_signature(operation: Operation, op: Op) -> None:
    unknown = [name for name in operation.arguments if name not in op.parameters]
    missing = [name for name, each in op.parameters.items() if each.required and name not in operation.arguments]
    if unknown:
        raise UnsupportedError(f"{where(operation)}: arguments that the evaluator does not know: {', '.join(unknown)}")
    if missing:
        raise BundleError(f"{where(operation)}: lacks the arguments {', '.join(missing)}")
    if len(operation.blocks) != len(op.branches):
        raise BundleError(f"{where(operation)}: expected {len(op.branches)} nested blocks, got {len(operation.blocks)}")
    for output in operation.outputs:
        if output.type.kind in ("tensor", "list") and output.type.dtype not in (*CARRIERS, "string"):
            raise UnsupportedError(f"{where(operation)}: a result of type {output.type.dtype}")


def _check_source(source: str | Constant, parameter: Parameter, place: str, types: Mapping[str, ValueType]) -> None:
    if isinstance(source, str) and source not in types:
        raise BundleError(f"{place}: reads {source!r}, which nothing before it computes")
    dtype = (types[source] if isinstance(source, str) else source.type).dtype
    if parameter.real and dtype not in ("fp16", "fp32"):
        raise UnsupportedError(f"{place}: expected fp16 or fp32, got {dtype}: what the op does with it is not defined")


def _settle(source: str | Constant, known: Mapping[str, Value]) -> Reference | Value:
    """A constant's value; a reference to what is computed later."""
    if not isinstance(source, str):
        return _value(source)
    return known[source] if source in known else Reference(source)


def _hand_over(values: tuple[Any, ...], parameter: Parameter) -> Any:
    """An argument's values as the op takes them."""
    for value in values:
        if parameter.takes is not None and not isinstance(value, parameter.takes):
            raise UnsupportedError(f"expected {_called(parameter.takes)}, got {value!r:.100}")
    if parameter.several:
        return values
    (value,) = values
    try:
        return parameter.convert(value) if parameter.convert else value
    except (AttributeError, RuntimeError, ValueError):
        raise UnsupportedError(f"a value of another kind than the op takes: {value!r:.100}") from None


def _called(kind: type) -> str:
    return {torch.Tensor: "a tensor", str: "a text", TensorList: "a list", Cell: "a state"}.get(kind, "constants")


def _constant(operation: Operation) -> Value:
    source = next(iter(operation.arguments.get("val", ())), None)
    if not isinstance(source, Constant):
        raise BundleError(f"{where(operation)}: a constant without a value")
    try:
        return _value(source)
    except EdgeVLMError as error:
        raise located(error, where(operation)) from error


def _value(constant: Constant) -> Value:
    value = constant.read()
    if isinstance(value, str | tuple):
        return value
    return torch.from_numpy(value).to(CARRIERS[constant.type.dtype])


def _with_lifetimes(steps: Sequence[Step], keep: Iterable[str]) -> tuple[Step, ...]:
    """The steps, each told which values end with it."""
    seen = set(keep)
    result: list[Step] = []
    for step in reversed(steps):
        unread = {each.name for each in step.operation.outputs}
        result.append(replace(step, spent=tuple(sorted((step.reads | unread) - seen))))
        seen |= step.reads | unread
    return tuple(reversed(result))


def _checked(value: Value, declared: Named, operation: Operation, mode: Mode) -> Value:
    """The value, in the type that carries the declared one, and rounded to it."""
    expected = {"tensor": torch.Tensor, "list": TensorList, "dictionary": dict}.get(declared.type.kind)
    if declared.type.dtype == "string" and declared.type.kind == "tensor":
        expected = str
    if expected is None or not isinstance(value, expected):
        raise BundleError(
            f"{where(operation)}: the program declares {declared.name!r} as a {declared.type.kind} of "
            f"{declared.type.dtype}, which the op's result is not"
        )
    if not isinstance(value, torch.Tensor):
        return value
    if not fits(value.shape, declared.type.shape):
        raise BundleError(
            f"{where(operation)}: the program declares {declared.name!r} as {shown(declared.type.shape)}, "
            f"but the op's result is {shown(value.shape)}"
        )
    carrier = CARRIERS[declared.type.dtype]
    if value.dtype != carrier:
        if _family(value.dtype) != _family(carrier):
            raise BundleError(
                f"{where(operation)}: the program declares {declared.name!r} as {declared.type.dtype}, "
                f"but the op's result is {_family(value.dtype)}"
            )
        value = value.to(carrier)
    if mode.measure is not None:
        mode.measure(operation, declared, value)
    return round_to(value, declared.type.dtype, rounds=mode.rounds)


def _family(dtype: torch.dtype) -> str:
    if dtype == torch.bool:
        return "bool"
    return "floating point" if dtype.is_floating_point else "integer"
