"""Element by element."""

from __future__ import annotations

import numpy as np
from mlprogram_cases.arithmetic import ARITHMETIC, COMPARISONS, LOGIC, NARROW, UNARY

from mlprogram_draws.draw import FLOATS, Call, Draws, Given, exact, rounded

_ONE = UNARY | NARROW | {"logical_not": np.logical_not}
_TWO = ARITHMETIC | LOGIC | {"pow": np.power, "real_div": np.true_divide}
_DIVIDING = ("floor_div", "mod", "real_div")
_BELOW_ONE = ("acos", "asin", "atanh")


def one_argument(draws: Draws) -> Call:
    kind, dtype = draws.op(*_ONE)
    x = draws.given(dtype, draws.shape(), *((0, 1) if kind == "exp2" and dtype == "int32" else ()))
    if kind in _BELOW_ONE:
        x = Given((x.array / 5).astype(x.array.dtype), dtype)
    if kind == "tan":  # far from the poles, where a last digit of x is many of the result
        x = Given((x.array / 4).astype(x.array.dtype), dtype)
    return Call(kind, {"x": x}, rounded(_ONE[kind](exact(x)), dtype))


def two_arguments(draws: Draws) -> Call:
    kind, dtype = draws.op(*_TWO)
    a, b = draws.broadcasting(2)
    whole = dtype == "int32"
    if kind == "pow":
        x, y = draws.given(dtype, a, 1, 3), draws.given(dtype, b, 0 if whole else -3, 3)
    elif kind == "real_div" and whole:  # MIL does not say how a negative quotient is rounded
        x, y = draws.given(dtype, a, 0, 9), draws.given(dtype, b, 1, 4)
    else:
        x, y = draws.given(dtype, a), draws.given(dtype, b)
    if kind in _DIVIDING:
        y = Given(np.where(y.array == 0, y.array.dtype.type(3), y.array), dtype)
    result = _TWO[kind](exact(x), exact(y))
    result = np.trunc(result) if kind == "real_div" and whole else result
    return Call(kind, {"x": x, "y": y}, rounded(result, dtype))


def comparison(draws: Draws) -> Call:
    kind, dtype = draws.op(*COMPARISONS)
    a, b = draws.broadcasting(2)
    x, y = draws.given(dtype, a, -1, 1), draws.given(dtype, b, -1, 1)
    return Call(kind, {"x": x, "y": y}, COMPARISONS[kind](exact(x), exact(y)))


def select(draws: Draws) -> Call:
    dtype = draws.dtype("select", "a")
    shapes = draws.broadcasting(2)
    whole = np.broadcast_shapes(*shapes)  # coremltools declares what a and b broadcast to, whatever the condition
    cond = draws.given("bool", shapes[0])
    a, b = (draws.given(dtype, shape) for shape in (whole, shapes[1]))
    return Call("select", {"cond": cond, "a": a, "b": b}, np.where(cond.array, a.array, b.array))


def cast(draws: Draws) -> Call:
    """Between all types; what the narrower one holds."""
    old, new = (draws.dtype("cast") for _ in range(2))
    x = draws.given(old, draws.shape(), 0 if new[0] == "u" else -4)
    array = x.array
    if new == "bool":
        return Call("cast", {"x": x}, array != 0, {"dtype": new})
    return Call("cast", {"x": x}, rounded(array if new in FLOATS else np.trunc(array), new), {"dtype": new})
