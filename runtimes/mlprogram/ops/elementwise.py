"""Ops that treat each element by itself: arithmetic, comparison, activations, casts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F

from edgevlm.errors import UnsupportedError
from edgevlm.runtimes.mlprogram.ops.registry import CARRIERS, Tensor, op


def _unary(kind: str, function: Callable[[Tensor], Tensor]) -> None:
    @op(kind)
    def unary(x: Tensor) -> Tensor:
        return function(x)


def _binary(kind: str, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    @op(kind)
    def binary(x: Tensor, y: Tensor) -> Tensor:
        return function(x, y)


def _softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)); torch's own goes over to x beyond a threshold, or overflows without one."""
    return torch.logaddexp(x, torch.zeros_like(x))


_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs,
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "floor": torch.floor,
    "identity": lambda x: x,
    "logical_not": torch.logical_not,
    "relu": torch.relu,
    "relu6": F.relu6,
    "round": torch.round,  # ties to even, as coremltools' own value inference
    "sigmoid": torch.sigmoid,
    "sign": lambda x: torch.where(x != x, x, torch.sign(x)),  # torch's own of NaN is 0
    "silu": F.silu,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "softplus": _softplus,
    "softsign": F.softsign,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
}
_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "equal": torch.eq,
    "floor_div": lambda x, y: torch.floor_divide(x, y),
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "mod": torch.remainder,  # has the divisor's sign
    "mul": torch.mul,
    "not_equal": torch.ne,
    "pow": torch.pow,
    "sub": torch.sub,
}
for _kind, _of_one in _UNARY.items():
    _unary(_kind, _of_one)
for _kind, _of_two in _BINARY.items():
    _binary(_kind, _of_two)


@op("real_div")
def real_div(x: Tensor, y: Tensor) -> Tensor:
    quotient = x / y
    if x.dtype.is_floating_point:
        return quotient
    # Of integers the whole part, which coremltools' own test shows for positive ones alone.
    if bool(((quotient < 0) & (quotient != quotient.trunc())).any()):
        raise UnsupportedError("a negative quotient of integers that is not whole: MIL does not say how it is rounded")
    return quotient.trunc().to(x.dtype)


@op("rsqrt")
def rsqrt(x: Tensor, epsilon: float = 1e-12) -> Tensor:
    return torch.rsqrt(x + epsilon)


@op("exp2")
def exp2(x: Tensor) -> Tensor:
    return torch.exp2(x.float()).to(x.dtype)


@op("inverse")
def inverse(x: Tensor, epsilon: float = 1e-4) -> Tensor:
    return torch.reciprocal(x + epsilon)


@op("log")
def log(x: Tensor, epsilon: float = 1e-45) -> Tensor:
    return torch.log(x + epsilon)


@op("threshold")
def threshold(x: Tensor, alpha: float) -> Tensor:
    return x.clamp(min=alpha)


@op("clip")
def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    return x.clamp(alpha, beta)


@op("clamped_relu")
def clamped_relu(x: Tensor, alpha: float, beta: float) -> Tensor:
    return torch.where(x >= 0, x, alpha * x).clamp(max=beta)


@op("elu")
def elu(x: Tensor, alpha: float) -> Tensor:
    return F.elu(x, alpha)


@op("linear_activation")
def linear_activation(x: Tensor, alpha: float, beta: float) -> Tensor:
    return alpha * x + beta


@op("scaled_tanh")
def scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    return alpha * torch.tanh(beta * x)


def _per_channel(parameter: Tensor, rank: int) -> Tensor:
    """[C] -> [1, C, 1, ...]; what Core ML takes as one value for all channels stays one."""
    return parameter.reshape(1, -1, *[1] * (rank - 2))


@op("prelu")
def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x > 0, x, _per_channel(alpha, x.ndim) * x)


@op("softplus_parametric")
def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    scaled = _per_channel(beta, x.ndim) * x
    return _per_channel(alpha, x.ndim) * _softplus(scaled)


@op("leaky_relu")
def leaky_relu(x: Tensor, alpha: float) -> Tensor:
    return F.leaky_relu(x, alpha)


@op("thresholded_relu")
def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x >= alpha, x, torch.zeros_like(x))


@op("sigmoid_hard")
def sigmoid_hard(x: Tensor, alpha: float, beta: float) -> Tensor:
    return (alpha * x + beta).clamp(0, 1)


@op("gelu")
def gelu(x: Tensor, mode: Literal["EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"] = "EXACT") -> Tensor:
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate="none" if mode == "EXACT" else "tanh")


@op("select", moves=True)
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(cond, a, b)


@op("cast")
def cast(x: Tensor, dtype: Literal["bool", "fp16", "fp32", "int8", "int16", "int32", "uint8", "uint16"]) -> Tensor:
    # Towards zero from floating point to integers, as in C; out of range is undefined there and here.
    return x.to(CARRIERS[dtype])
