"""The plan of a function: what can be settled before inputs are known is, and what is left is a list of calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from edgevlm.errors import BundleError, EdgeVLMError, TensorError, UnsupportedError
from edgevlm.runtimes.mlprogram.ops import CARRIERS, OPS
from edgevlm.runtimes.mlprogram.ops.registry import Convert, Op, Parameter
from edgevlm.runtimes.mlprogram.package import Constant, Function, NamedTensor, Operation, TensorType

Value = torch.Tensor | str


@dataclass(frozen=True)
class Binding:
    """An argument that is known only at run time: names of results, and constants among them if it is a list."""

    parameter: str
    sources: tuple[Value, ...]
    is_list: bool
    convert: Convert | None


@dataclass(frozen=True)
class Step:
    """One op, ready to be called.

    Attributes:
        settled: Arguments that are known, as the op takes them.
        bindings: The others.
        spent: Names of tensors that nothing after this op reads.
    """

    operation: Operation
    op: Op
    settled: Mapping[str, Any]
    bindings: tuple[Binding, ...]
    spent: tuple[str, ...] = ()

    def run(self, environment: Mapping[str, Value], *, rounds: bool) -> dict[str, torch.Tensor]:
        """Computes the op's results, by name.

        Args:
            environment: The results so far.
            rounds: Whether fp16 results are rounded.

        Raises:
            TensorError: an index is out of range.
            BundleError: a result has not the shape or type that the program declares.
        """
        arguments = dict(self.settled)
        for binding in self.bindings:
            values = tuple(environment[each] if isinstance(each, str) else each for each in binding.sources)
            if binding.is_list:
                arguments[binding.parameter] = values
            else:
                arguments[binding.parameter] = binding.convert(values[0]) if binding.convert else values[0]
        results = self._compute(arguments)
        declared = self.operation.outputs
        if len(results) != len(declared):
            raise BundleError(f"{where(self.operation)}: {len(declared)} results declared, {len(results)} computed")
        return {
            each.name: round_to(_checked(tensor, each, self.operation), each.type.dtype, rounds=rounds)
            for each, tensor in zip(declared, results, strict=True)
        }

    def _compute(self, arguments: Mapping[str, Any]) -> Sequence[torch.Tensor]:
        try:
            results = self.op.function(**arguments)
        except EdgeVLMError as error:
            raise _located(error, where(self.operation)) from error
        except IndexError as error:
            raise TensorError(f"{where(self.operation)}: an index is out of range: {error}") from error
        except (RuntimeError, TypeError, ValueError) as error:
            raise BundleError(f"{where(self.operation)}: its arguments do not fit each other: {error}") from error
        return (results,) if isinstance(results, torch.Tensor) else results


@dataclass(frozen=True)
class Plan:
    """A function's steps, and those of its outputs that do not depend on the inputs."""

    steps: tuple[Step, ...]
    constants: Mapping[str, Value]

    def run(self, inputs: Mapping[str, Value], *, rounds: bool) -> dict[str, Value]:
        """Runs every step; the function's outputs are among what is returned.

        Raises:
            TensorError, BundleError: see `Step.run`.
        """
        environment = {**self.constants, **inputs}
        for step in self.steps:
            environment.update(step.run(environment, rounds=rounds))
            for name in step.spent:
                del environment[name]
        return environment


def make_plan(function: Function, *, rounds: bool) -> Plan:
    """Checks every op, reads the constants and computes what follows from them alone, compressed weights included.

    Raises:
        UnsupportedError: an op, an argument, a value or a type is not known here.
        BundleError: a constant cannot be read, or an op reads what nothing before it computes.
    """
    _refuse_unknown_ops(function)
    known: dict[str, Value] = {}
    types = {tensor.name: tensor.type for tensor in function.inputs}
    steps: list[Step] = []
    for operation in function.operations:
        if operation.kind == "const":
            known[operation.name] = _constant(operation)
        else:
            step = _bind(operation, known, types)
            if step.bindings:
                steps.append(step)
            else:
                known |= step.run({}, rounds=rounds)
        types |= {tensor.name: tensor.type for tensor in operation.outputs}
    constants = {name: known[name] for name in function.outputs if name in known}
    return Plan(_with_lifetimes(steps, keep=function.outputs), constants)


def round_to(tensor: torch.Tensor, dtype: str, *, rounds: bool) -> torch.Tensor:
    """A float32 tensor with values that fp16 has, if fp16 is the type and rounding is asked for."""
    return tensor.half().float() if rounds and dtype == "fp16" else tensor


def where(operation: Operation) -> str:
    """How an op is called in messages."""
    return f"op {operation.kind} {operation.name!r}"


def fits(shape: Sequence[int], declared: Sequence[int | None]) -> bool:
    """Whether a shape is what was declared, None standing for any size."""
    return len(shape) == len(declared) and all(size in (own, None) for own, size in zip(shape, declared, strict=True))


def shown(shape: Sequence[int | None]) -> str:
    """A shape in messages, `?` standing for any size."""
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _refuse_unknown_ops(function: Function) -> None:
    unknown: dict[str, list[str]] = {}
    for operation in function.operations:
        if operation.kind != "const" and operation.kind not in OPS:
            unknown.setdefault(operation.kind, []).append(repr(operation.name))
    if unknown:
        places = "; ".join(
            f"{kind} ({len(names)}, the first being {names[0]})" for kind, names in sorted(unknown.items())
        )
        raise UnsupportedError(
            f"function {function.name!r} has ops that the evaluator does not know: {places}",
            hint="run the package on Apple's own runtime, or keep these ops out of the exported model",
        )


def _bind(operation: Operation, known: Mapping[str, Value], types: Mapping[str, TensorType]) -> Step:
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
            if len(sources) != 1 and not parameter.is_list:
                raise UnsupportedError(f"expected one value, got {len(sources)}")
            if any(isinstance(source, str) and source not in known for source in argument):
                bindings.append(Binding(name, sources, parameter.is_list, parameter.convert))
            else:
                settled[name] = sources if parameter.is_list else _convert(sources[0], parameter.convert)
        except EdgeVLMError as error:
            raise _located(error, place) from error
    return Step(operation, op, settled, tuple(bindings))


def _check_signature(operation: Operation, op: Op) -> None:
    unknown = [name for name in operation.arguments if name not in op.parameters]
    missing = [name for name, each in op.parameters.items() if each.required and name not in operation.arguments]
    if unknown:
        raise UnsupportedError(f"{where(operation)}: arguments that the evaluator does not know: {', '.join(unknown)}")
    if missing:
        raise BundleError(f"{where(operation)}: lacks the arguments {', '.join(missing)}")
    for tensor in operation.outputs:
        if tensor.type.dtype not in CARRIERS:
            raise UnsupportedError(f"{where(operation)}: a result of type {tensor.type.dtype}")


def _check_source(source: str | Constant, parameter: Parameter, place: str, types: Mapping[str, TensorType]) -> None:
    if isinstance(source, str) and source not in types:
        raise BundleError(f"{place}: reads {source!r}, which nothing before it computes")
    dtype = (types[source] if isinstance(source, str) else source.type).dtype
    if parameter.real and dtype not in ("fp16", "fp32"):
        raise UnsupportedError(f"{place}: expected fp16 or fp32, got {dtype}: what the op does with it is not defined")


def _settle(source: str | Constant, known: Mapping[str, Value]) -> Value:
    """A constant's value; the name of what is computed later stays a name."""
    return known.get(source, source) if isinstance(source, str) else _value(source)


def _convert(value: Value, convert: Convert | None) -> Any:
    try:
        if convert is not None:
            return convert(value)
    except (AttributeError, RuntimeError, ValueError):
        raise UnsupportedError(f"a value of another kind than the op takes: {value!r}") from None
    if isinstance(value, str):
        raise UnsupportedError(f"expected a tensor, got the text {value!r}")
    return value


def _constant(operation: Operation) -> Value:
    source = next(iter(operation.arguments.get("val", ())), None)
    if not isinstance(source, Constant):
        raise BundleError(f"{where(operation)}: a constant without a value")
    try:
        return _value(source)
    except EdgeVLMError as error:
        raise _located(error, where(operation)) from error


def _value(constant: Constant) -> Value:
    value = constant.read()
    return value if isinstance(value, str) else torch.from_numpy(value).to(CARRIERS[constant.type.dtype])


def _with_lifetimes(steps: Sequence[Step], keep: Iterable[str]) -> tuple[Step, ...]:
    """The steps, each told which tensors end with it."""
    seen = set(keep)
    result: list[Step] = []
    for step in reversed(steps):
        read = {source for each in step.bindings for source in each.sources if isinstance(source, str)}
        unread = {tensor.name for tensor in step.operation.outputs}
        result.append(replace(step, spent=tuple(sorted((read | unread) - seen))))
        seen |= read | unread
    return tuple(reversed(result))


def _checked(tensor: torch.Tensor, declared: NamedTensor, operation: Operation) -> torch.Tensor:
    if not fits(tensor.shape, declared.type.shape):
        raise BundleError(
            f"{where(operation)}: the program declares {declared.name!r} as {shown(declared.type.shape)}, "
            f"but the op's result is {shown(tensor.shape)}"
        )
    carrier = CARRIERS[declared.type.dtype]
    if tensor.dtype == carrier:
        return tensor
    if _family(tensor.dtype) != _family(carrier):
        raise BundleError(
            f"{where(operation)}: the program declares {declared.name!r} as {declared.type.dtype}, "
            f"but the op's result is {_family(tensor.dtype)}"
        )
    return tensor.to(carrier)


def _family(dtype: torch.dtype) -> str:
    if dtype == torch.bool:
        return "bool"
    return "floating point" if dtype.is_floating_point else "integer"


def _located(error: EdgeVLMError, place: str) -> EdgeVLMError:
    """The same error, told where it happened."""
    return type(error)(f"{place}: {error.message}", hint=error.hint)
