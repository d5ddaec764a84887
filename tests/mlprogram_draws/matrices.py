"""Products of matrices."""

from __future__ import annotations

import numpy as np

from mlprogram_draws.draw import Call, Draws, exact, rounded


def matmul(draws: Draws) -> Call:
    """Of any ranks, broadcast, either side transposed; or of a vector and a matrix, as no others are declared well."""
    dtype = draws.dtype("matmul")
    m, k, n = (draws.whole(1, 4) for _ in range(3))
    if draws.yes(0.1):
        x, y = draws.given(dtype, (k,), -2, 2), draws.given(dtype, (k, n), -2, 2)
        return Call("matmul", {"x": x, "y": y}, rounded(exact(x) @ exact(y), dtype))
    a, b = (batch[-3:] for batch in draws.broadcasting(2))
    transpose_x, transpose_y = draws.yes(), draws.yes()
    x = draws.given(dtype, (*a, *((k, m) if transpose_x else (m, k))), -2, 2)
    y = draws.given(dtype, (*b, *((n, k) if transpose_y else (k, n))), -2, 2)
    left = exact(x).swapaxes(-1, -2) if transpose_x else exact(x)
    right = exact(y).swapaxes(-1, -2) if transpose_y else exact(y)
    arguments = {"transpose_x": transpose_x, "transpose_y": transpose_y}
    return Call("matmul", {"x": x, "y": y}, rounded(left @ right, dtype), arguments)


def linear(draws: Draws) -> Call:
    dtype = draws.dtype("linear")
    shape = draws.shape(1, 3)
    x = draws.given(dtype, shape, -2, 2)
    weight = draws.given(dtype, (draws.whole(1, 4), shape[-1]), -2, 2)
    bias = draws.given(dtype, weight.array.shape[:1])
    arguments = {"weight": weight.array} | ({"bias": bias.array} if draws.yes() else {})
    result = exact(x) @ exact(weight).T + (exact(bias) if "bias" in arguments else np.float32(0))
    return Call("linear", {"x": x}, rounded(result, dtype), arguments)
