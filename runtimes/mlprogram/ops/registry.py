"""What an op is: a function of tensors and plain values, registered under MIL's name.

    @op("softmax")
    def softmax(x: Tensor, axis: int = -1) -> Tensor: ...

Parameters have MIL's argument names, their defaults are MIL's, and their annotations say how an argument is
handed over: `Tensor` (or `Tensors`, for an argument that is a list) as computed, everything else as a plain
value, read once when the program is opened if it is constant. An op thus refuses what it does not handle by not
having a parameter for it, or by a `Literal` that leaves it out, before anything runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import torch

from edgevlm.errors import UnsupportedError

Tensor = torch.Tensor
Tensors = tuple[Tensor, ...]
Real = Annotated[Tensor, "fp16 or fp32"]
"""A tensor that must be floating point: MIL allows the op on integers but does not say how it rounds."""
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
        is_list: Whether the argument is a list of tensors.
        real: Whether the tensor must be fp16 or fp32.
        convert: From a tensor or text to the plain value; None leaves the tensor as it is.
    """

    required: bool
    is_list: bool
    real: bool
    convert: Convert | None


@dataclass(frozen=True)
class Op:
    """One op that the evaluator knows."""

    function: Callable[..., Tensor | Tensors]
    parameters: Mapping[str, Parameter]


OPS: dict[str, Op] = {}


def op(kind: str) -> Callable[[Function], Function]:
    """Registers a function as the op of that name."""

    def register(function: Function) -> Function:
        hints = get_type_hints(function, include_extras=True)
        OPS[kind] = Op(
            function,
            {
                name: _parameter(hints[name], required=parameter.default is inspect.Parameter.empty)
                for name, parameter in inspect.signature(function).parameters.items()
            },
        )
        return function

    return register


def _parameter(hint: Any, *, required: bool) -> Parameter:
    if get_origin(hint) in (Union, UnionType) and NoneType in get_args(hint):
        (hint,) = (each for each in get_args(hint) if each is not NoneType)
    if get_origin(hint) is Literal:
        return Parameter(required, is_list=False, real=False, convert=_one_of(get_args(hint)))
    return Parameter(required, is_list=hint == Tensors, real=hint == Real, convert=_CONVERTERS[hint])


def _one_of(allowed: tuple[Any, ...]) -> Convert:
    def convert(value: Any) -> Any:
        value = value if isinstance(value, str) else value.item()
        if value not in allowed:
            raise UnsupportedError(f"expected one of {', '.join(map(repr, allowed))}, got {value!r}")
        return value

    return convert


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise UnsupportedError(f"expected a text, got {value!r}")
    return value


# Lists stand for vectors; a scalar where a vector belongs is taken as a vector of one, as Core ML does.
_CONVERTERS: dict[Any, Convert | None] = {
    Tensor: None,
    Real: None,
    Tensors: None,
    str: _text,
    bool: lambda tensor: bool(tensor.item()),
    int: lambda tensor: int(tensor.item()),
    float: lambda tensor: float(tensor.item()),
    Scalar: lambda tensor: tensor.item(),
    Ints: lambda tensor: tuple(int(each) for each in tensor.reshape(-1).tolist()),
    Bools: lambda tensor: tuple(bool(each) for each in tensor.reshape(-1).tolist()),
}
