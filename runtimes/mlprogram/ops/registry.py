"""What an op is: a function of tensors and plain values, registered under MIL's name.

    @op("softmax")
    def softmax(x: Tensor, axis: int = -1) -> Tensor: ...

Parameters have MIL's argument names, their defaults are MIL's, and their annotations say how an argument is
handed over: `Tensor` (or `Tensors`, for an argument that is several) as computed, everything else as a plain
value, read once when the program is opened if it is constant. An op thus refuses what it does not handle by not
having a parameter for it, or by a `Literal` that leaves it out, before anything runs. Nested blocks come as
functions, in MIL's order, to the parameters annotated `Branch`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import torch

from edgevlm.errors import UnsupportedError
from edgevlm.runtimes.mlprogram.values import Cell, TensorList, Value

Tensor = torch.Tensor
Tensors = tuple[Tensor, ...]
Values = tuple[Value, ...]
"""Several arguments of any kind, such as the variables of a loop."""
Classes = tuple[str | int, ...]
Branch = Callable[..., Values]
"""A nested block: given its inputs, computes its outputs."""
Real = Annotated[Tensor, "fp16 or fp32"]
"""A tensor that must be floating point: MIL allows the op on integers but does not say how it rounds."""
Stored = Annotated[Tensor, "as it is stored"]
"""A tensor whose fp16 constants come as halves, for an op that widens them itself, a part after the other."""
Ints = tuple[int, ...]
Bools = tuple[bool, ...]
Scalar = bool | int | float

Convert = Callable[[Any], Any]
Function = TypeVar("Function", bound=Callable[..., Any])

CARRIERS: Mapping[str, torch.dtype] = {
    "bool": torch.bool,
    "fp16": torch.float32,
    "fp32": torch.float32,
    "int4": torch.int8,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint1": torch.uint8,
    "uint2": torch.uint8,
    "uint3": torch.uint8,
    "uint4": torch.uint8,
    "uint6": torch.uint8,
    "uint8": torch.uint8,
    "uint16": torch.int32,
    "uint32": torch.int64,
}
"""The torch type that holds values of each MIL type: wide enough for all of them, and known to torch's kernels."""


@dataclass(frozen=True)
class Parameter:
    """How one argument of an op is handed over.

    Attributes:
        required: Whether the op has no default for it.
        several: Whether the argument is any number of values.
        takes: The class of each of its values; None for any.
        real: Whether the tensor must be fp16 or fp32.
        stored: Whether the op takes halves.
        convert: From a tensor or text to the plain value; None leaves the value as it is.
    """

    required: bool
    several: bool
    takes: type | None
    real: bool
    stored: bool
    convert: Convert | None


@dataclass(frozen=True)
class Op:
    """One op that the evaluator knows.

    Attributes:
        parameters: Its arguments, nested blocks left out.
        branches: The parameters that take its nested blocks.
        pure: Whether equal arguments give equal results, so that what follows from constants is computed once.
        moves: Whether each number of a result is one of an argument's, so that it is rounded as that is.
        narrow: The same op, quicker, with results that are rounded to fp16 and given in float32, for arguments that
            are rounded so too; None where there is none.
        steady: Arguments whose values change neither how large a result is nor what is held on the way to it.
    """

    function: Callable[..., Value | Values]
    parameters: Mapping[str, Parameter]
    branches: tuple[str, ...]
    pure: bool
    moves: bool
    narrow: Callable[..., Value | Values] | None = None
    steady: tuple[str, ...] = ()


OPS: dict[str, Op] = {}


def op(
    kind: str,
    *,
    pure: bool = True,
    moves: bool = False,
    narrow: Callable[..., Value | Values] | None = None,
    steady: tuple[str, ...] = (),
) -> Callable[[Function], Function]:
    """Registers a function as the op of that name; see `Op` for the rest."""

    def register(function: Function) -> Function:
        hints = get_type_hints(function, include_extras=True)
        OPS[kind] = Op(
            function,
            {
                name: _parameter(hints[name], required=parameter.default is inspect.Parameter.empty)
                for name, parameter in inspect.signature(function).parameters.items()
                if hints[name] != Branch
            },
            branches=tuple(name for name, hint in hints.items() if hint == Branch),
            pure=pure,
            moves=moves,
            narrow=narrow,
            steady=steady,
        )
        return function

    return register


def _parameter(hint: Any, *, required: bool) -> Parameter:
    if get_origin(hint) in (Union, UnionType) and NoneType in get_args(hint):
        (hint,) = (each for each in get_args(hint) if each is not NoneType)
    if get_origin(hint) is Literal:
        return Parameter(required, several=False, takes=None, real=False, stored=False, convert=_one_of(get_args(hint)))
    takes, convert = _HANDED_OVER[hint]
    several = hint in (Tensors, Values)
    return Parameter(required, several, takes, real=hint == Real, stored=hint == Stored, convert=convert)


def _one_of(allowed: tuple[Any, ...]) -> Convert:
    def convert(value: Any) -> Any:
        value = value if isinstance(value, str) else value.item()
        if value not in allowed:
            raise UnsupportedError(f"expected one of {', '.join(map(repr, allowed))}, got {value!r}")
        return value

    return convert


# Tuples of numbers stand for vectors; a scalar where a vector belongs is taken as a vector of one, as Core ML does.
_HANDED_OVER: Mapping[Any, tuple[type | None, Convert | None]] = {
    Tensor: (Tensor, None),
    Real: (Tensor, None),
    Stored: (Tensor, None),
    Tensors: (Tensor, None),
    Values: (None, None),
    TensorList: (TensorList, None),
    Cell: (Cell, None),
    Classes: (tuple, None),
    str: (str, None),
    bool: (Tensor, lambda tensor: bool(tensor.item())),
    int: (Tensor, lambda tensor: int(tensor.item())),
    float: (Tensor, lambda tensor: float(tensor.item())),
    Scalar: (Tensor, lambda tensor: tensor.item()),
    Ints: (Tensor, lambda tensor: tuple(int(each) for each in tensor.reshape(-1).tolist())),
    Bools: (Tensor, lambda tensor: tuple(bool(each) for each in tensor.reshape(-1).tolist())),
}
