"""The plan of a block: what can be settled before inputs are known is, and what is left is a list of calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from edgevlm.errors import BundleError, EdgeVLMError, UnsupportedError
from edgevlm.runtimes.mlprogram.ops import CARRIERS, OPS
from edgevlm.runtimes.mlprogram.ops.registry import Op, Parameter
from edgevlm.runtimes.mlprogram.program import Block, Constant, Named, Operation, ValueType
from edgevlm.runtimes.mlprogram.steps import (
    Binding,
    Mode,
    Plan,
    Reference,
    Step,
    fits,
    hand_over,
    located,
    narrowed,
    shown,
    where,
    widened,
)
from edgevlm.runtimes.mlprogram.values import Value


def make_plan(block: Block, mode: Mode) -> Plan:
    """Checks every op, reads the constants and computes what follows from them alone, compressed weights included.

    Raises:
        UnsupportedError: an op, an argument, a value or a type is not known here.
        BundleError: a constant cannot be read, or an op reads what nothing before it computes.
    """
    _refuse_unknown_ops(block)
    return _plan(block, {}, {}, replace(mode, observe=None, measure=None))


def _refuse_unknown_ops(block: Block) -> None:
    unknown: dict[str, list[str]] = {}
    for operation in block.walk():
        if operation.kind != "const" and operation.kind not in OPS:
            kind = operation.kind if operation.kind.isidentifier() else repr(operation.kind)
            unknown.setdefault(kind, []).append(repr(operation.name))
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
        known: The values around the block that do not depend on inputs; fp16 ones are halves.
        types: The types of all names around the block.
    """
    inner, types = dict(known), dict(types)
    _declare(block.inputs, types)
    steps: list[Step] = []
    for operation in block.operations:
        if operation.kind == "const":
            inner[operation.name] = _constant(operation)
        else:
            step = _bind(operation, inner, types, mode)
            if step.reads or not step.op.pure:
                steps.append(step)
            else:
                inner |= {name: narrowed(value) for name, value in step.run({}, mode).items()}
        _declare(operation.outputs, types)
    for name in block.outputs:
        if name not in types:
            raise BundleError(f"a block returns {name!r}, which nothing computes", hint="convert the model again")
    constants = {name: widened(inner[name]) for name in block.outputs if name in inner}
    made = {each.name for each in block.inputs} | {each.name for step in steps for each in step.operation.outputs}
    needed = frozenset(block.outputs).union(*(step.reads for step in steps)) - made - set(constants)
    return Plan(block.inputs, _with_lifetimes(steps, keep={*block.outputs, *needed}), constants, block.outputs, needed)


def _declare(values: Iterable[Named], types: dict[str, ValueType]) -> None:
    """Adds what a block or an op gives to the names that are known from there on."""
    for each in values:
        if each.name in types:
            raise BundleError(f"the name {each.name!r} is given twice", hint="convert the model again")
        types[each.name] = each.type


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
            if parameter.several:
                sources = tuple(each if isinstance(each, Reference) else widened(each) for each in sources)
            if any(isinstance(source, Reference) for source in sources):
                bindings.append(Binding(name, sources, parameter))
            else:
                settled[name] = hand_over(sources, parameter)
        except EdgeVLMError as error:
            raise located(error, place) from error
    halves = tuple(
        name
        for name, value in settled.items()
        if isinstance(value, torch.Tensor) and value.dtype == torch.half and not op.parameters[name].stored
    )
    blocks = tuple(_plan(each, known, types, mode) for each in operation.blocks)
    dtypes = {_type(each, types).dtype for argument in operation.arguments.values() for each in argument}
    moves = op.moves and "fp32" not in dtypes  # what is declared as another type than it is, is rounded to that
    narrow = dtypes == {"fp16"} and all(each.type.dtype == "fp16" for each in operation.outputs)
    return Step(operation, op, settled, halves, tuple(bindings), blocks, moves, narrow)


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
    dtype = _type(source, types).dtype
    if parameter.real and dtype not in ("fp16", "fp32"):
        raise UnsupportedError(f"{place}: expected fp16 or fp32, got {dtype}: what the op does with it is not defined")


def _type(source: str | Constant, types: Mapping[str, ValueType]) -> ValueType:
    return types[source] if isinstance(source, str) else source.type


def _settle(source: str | Constant, known: Mapping[str, Value]) -> Reference | Value:
    """A constant's value; a reference to what is computed later."""
    if not isinstance(source, str):
        return _value(source)
    return known[source] if source in known else Reference(source)


def _constant(operation: Operation) -> Value:
    source = next(iter(operation.arguments.get("val", ())), None)
    if not isinstance(source, Constant) or len(operation.outputs) != 1:
        raise BundleError(f"{where(operation)}: a constant without a value or name")
    declared, given = operation.outputs[0].type, source.type
    if (declared.kind, declared.dtype) != (given.kind, given.dtype) or not fits(given.shape or (), declared.shape):
        raise BundleError(f"{where(operation)}: declared as {_told(declared)}, but its value is {_told(given)}")
    try:
        return _value(source)
    except EdgeVLMError as error:
        raise located(error, where(operation)) from error


def _told(of: ValueType) -> str:
    return f"a {of.kind} of {of.dtype} {shown(of.shape)}"


def _value(constant: Constant) -> Value:
    value = constant.read()
    if isinstance(value, str | tuple):
        return value
    tensor = torch.from_numpy(value)
    return tensor if constant.type.dtype == "fp16" else tensor.to(CARRIERS[constant.type.dtype])


def _with_lifetimes(steps: Sequence[Step], keep: Iterable[str]) -> tuple[Step, ...]:
    """The steps, each told which values end with it."""
    seen = set(keep)
    result: list[Step] = []
    for step in reversed(steps):
        unread = {each.name for each in step.operation.outputs}
        result.append(replace(step, spent=tuple(sorted((step.reads | unread) - seen))))
        seen |= step.reads | unread
    return tuple(reversed(result))
