"""Ops that compute: element by element, products of matrices, normalisation, reduction."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import coremltools as ct
import numpy as np
from mlprogram_oracles import attention, batch_norm, erf, layer_norm, sigmoid, softmax
from mlprograms import Array

from mlprogram_cases.case import RNG, Case, positive, real, whole

BROADCASTS = (((2, 3, 4), (2, 3, 4)), ((2, 3, 4), (4,)), ((2, 1, 4), (3, 1)), ((1,), (2, 3)))
ARITHMETIC: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "floor_div": np.floor_divide,
    "mod": np.mod,
}
COMPARISONS: dict[str, Callable[[Array, Array], Array]] = {
    "equal": np.equal,
    "not_equal": np.not_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
}
LOGIC = {"logical_and": np.logical_and, "logical_or": np.logical_or, "logical_xor": np.logical_xor}
UNARY: dict[str, Callable[[Array], Array]] = {
    "abs": np.abs,
    "erf": erf,
    "exp": np.exp,
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "sigmoid": sigmoid,
    "silu": lambda x: x * sigmoid(x),
    "round": np.rint,
    "sign": np.sign,
    "sin": np.sin,
    "softplus": lambda x: np.logaddexp(x, 0),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "square": np.square,
    "tanh": np.tanh,
}
NARROW: dict[str, Callable[[Array], Array]] = {
    "acos": np.arccos,
    "asin": np.arcsin,
    "atan": np.arctan,
    "atanh": np.arctanh,
    "ceil": np.ceil,
    "cos": np.cos,
    "cosh": np.cosh,
    "exp2": np.exp2,
    "floor": np.floor,
    "sinh": np.sinh,
    "tan": np.tan,
}
"""Of what lies between -1 and 1."""
REDUCTIONS: dict[str, Callable[..., Array]] = {
    "reduce_sum": np.sum,
    "reduce_mean": np.mean,
    "reduce_max": np.max,
    "reduce_min": np.min,
    "reduce_prod": np.prod,
    "reduce_sum_square": lambda x, axis, keepdims: np.square(x).sum(axis, keepdims=keepdims),
    "reduce_log_sum_exp": lambda x, axis, keepdims: np.log(np.exp(x).sum(axis, keepdims=keepdims)),
    "reduce_l1_norm": lambda x, axis, keepdims: np.abs(x).sum(axis, keepdims=keepdims),
    "reduce_l2_norm": lambda x, axis, keepdims: np.sqrt(np.square(x).sum(axis, keepdims=keepdims)),
}


def elementwise() -> list[Case]:
    x = real(2, 3, 4) * 4
    slopes, steep = real(3), positive(3)
    cases = [Case(kind, {"x": x}, lambda x, f=f: f(x)) for kind, f in UNARY.items()]
    narrow = RNG.uniform(-0.95, 0.95, (2, 3)).astype(np.float32)
    cases += [Case(kind, {"x": narrow}, lambda x, f=f: f(x)) for kind, f in NARROW.items()]
    for (a, b), (kind, f) in product(BROADCASTS, ARITHMETIC.items()):
        cases.append(Case(kind, {"x": real(*a), "y": positive(*b)}, lambda x, y, f=f: f(x, y)))
    for kind, f in ARITHMETIC.items():
        y = whole(3, 1, low=1)
        cases.append(Case(kind, {"x": whole(2, 1, 4), "y": y}, lambda x, y, f=f: f(x, y)))
    for (a, b), (kind, f) in product(BROADCASTS[:2], COMPARISONS.items()):
        cases.append(Case(kind, {"x": whole(*a, high=0), "y": whole(*b, high=0)}, lambda x, y, f=f: f(x, y)))
    for kind, f in LOGIC.items():
        inputs = {"x": whole(2, 3, low=0, high=2), "y": whole(3, low=0, high=2)}
        cases.append(Case(kind, inputs, lambda x, y, f=f: f(x, y), bools=("x", "y")))
    return [
        *cases,
        Case("logical_not", {"x": whole(2, 3, low=0, high=2)}, lambda x: x == 0, bools=("x",)),
        Case("real_div", {"x": real(2, 3), "y": positive(3)}, lambda x, y: x / y),
        Case("pow", {"x": positive(2, 3), "y": real(3)}, lambda x, y: x**y),
        Case("sqrt", {"x": positive(5)}, lambda x: np.sqrt(x)),
        Case("rsqrt", {"x": positive(5)}, lambda x: 1 / np.sqrt(x)),
        Case("rsqrt", {"x": positive(5)}, lambda x: 1 / np.sqrt(x + 0.5), {"epsilon": 0.5}),
        Case("clip", {"x": x}, lambda x: np.clip(x, -1, 2), {"alpha": -1.0, "beta": 2.0}),
        Case("round", {"x": np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32)}, lambda x: np.array([0, 2, 2, 0, -2])),
        Case("inverse", {"x": positive(5)}, lambda x: 1 / (x + 1e-4)),
        Case("inverse", {"x": positive(5)}, lambda x: 1 / (x + 0.5), {"epsilon": 0.5}),
        Case("log", {"x": positive(5)}, lambda x: np.log(x)),
        Case("log", {"x": positive(5)}, lambda x: np.log(x + 0.5), {"epsilon": 0.5}),
        Case("threshold", {"x": x}, lambda x: np.maximum(x, 0.3), {"alpha": 0.3}),
        Case(
            "clamped_relu",
            {"x": x},
            lambda x: np.minimum(np.where(x >= 0, x, 0.2 * x), 1.5),
            {"alpha": 0.2, "beta": 1.5},
        ),
        Case("elu", {"x": x}, lambda x: np.where(x > 0, x, 0.7 * np.expm1(x)), {"alpha": 0.7}),
        Case("linear_activation", {"x": x}, lambda x: 0.7 * x - 2, {"alpha": 0.7, "beta": -2.0}),
        Case("scaled_tanh", {"x": x}, lambda x: 0.7 * np.tanh(0.3 * x), {"alpha": 0.7, "beta": 0.3}),
        Case(
            "prelu",
            {"x": real(2, 3, 4, 5)},
            lambda x: np.where(x > 0, x, slopes.reshape(3, 1, 1) * x),
            {"alpha": slopes},
        ),
        *(
            Case("prelu", {"x": real(2, 3, *rest)}, lambda x: np.where(x > 0, x, 0.3 * x), {"alpha": [0.3] * 3})
            for rest in ((4,), (2, 3, 2))
        ),
        Case(
            "softplus_parametric",
            {"x": real(2, 3, 4, 5)},
            lambda x: slopes.reshape(3, 1, 1) * np.logaddexp(0, steep.reshape(3, 1, 1) * x),
            {"alpha": slopes, "beta": steep},
        ),
        Case("leaky_relu", {"x": x}, lambda x: np.where(x < 0, 0.1 * x, x), {"alpha": 0.1}),
        Case("thresholded_relu", {"x": x}, lambda x: np.where(x >= 1.5, x, 0), {"alpha": 1.5}),
        Case("sigmoid_hard", {"x": x}, lambda x: np.clip(0.3 * x + 0.4, 0, 1), {"alpha": 0.3, "beta": 0.4}),
        Case("gelu", {"x": x}, lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2)))),
        Case("gelu", {"x": x}, lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))), {"mode": "EXACT"}),
        Case(
            "gelu",
            {"x": x},
            lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
            {"mode": "TANH_APPROXIMATION"},
        ),
        Case("gelu", {"x": x}, lambda x: x * sigmoid(1.702 * x), {"mode": "SIGMOID_APPROXIMATION"}),
        Case(
            "select",
            {"cond": whole(3, 1, low=0, high=2), "a": real(3, 4), "b": real(3, 4)},
            lambda cond, a, b: np.where(cond, a, b),
            bools=("cond",),
        ),
        Case("cast", {"x": np.array([-1.7, 0.0, 2.5], np.float32)}, lambda x: np.trunc(x), {"dtype": "int32"}),
        Case("cast", {"x": np.array([-1.7, 0.0, 2.5], np.float32)}, lambda x: x != 0, {"dtype": "bool"}),
        Case("cast", {"x": whole(4)}, lambda x: x, {"dtype": "fp32"}),
        *(Case("cast", {"x": whole(4)}, lambda x: x, {"dtype": dtype}) for dtype in ("int8", "int16")),
        *(
            Case("cast", {"x": whole(4, low=0, high=most)}, lambda x: x, {"dtype": dtype})
            for dtype, most in (("uint8", 256), ("uint16", 65536))
        ),
        Case("cast", {"x": whole(4)}, lambda x: x, {"dtype": "int32"}, integer="int16"),
        Case("cast", {"x": positive(3)}, lambda x: x.astype(np.float16), {"dtype": "fp16"}),
    ]


def linear() -> list[Case]:
    weight, bias = real(5, 4), real(5)
    matrices = (((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 1, 3, 4), (6, 4, 5)), ((4,), (4, 5)))
    query, key, value = real(2, 3, 5, 8), real(2, 3, 7, 8), real(2, 3, 7, 6)
    mask = RNG.integers(0, 2, (5, 7)).astype(bool)
    mask[:, 0] = True
    qkv = {"query": query, "key": key, "value": value}
    return [
        Case("linear", {"x": real(2, 3, 4)}, lambda x: x @ weight.T + bias, {"weight": weight, "bias": bias}),
        Case("linear", {"x": real(3, 4)}, lambda x: x @ weight.T, {"weight": weight}),
        *(Case("matmul", {"x": real(*a), "y": real(*b)}, lambda x, y: x @ y) for a, b in matrices),
        Case(
            "matmul", {"x": real(2, 4, 3), "y": real(4, 5)}, lambda x, y: x.swapaxes(-1, -2) @ y, {"transpose_x": True}
        ),
        Case("matmul", {"x": real(2, 3, 4), "y": real(5, 4)}, lambda x, y: x @ y.T, {"transpose_y": True}),
        Case("matmul", {"x": whole(3, 4), "y": whole(4, 2)}, lambda x, y: x @ y),
        *(
            Case(
                "einsum",
                {"a": real(*a), "b": real(*b)},
                lambda a, b, e=equation: np.einsum(e, a, b),
                {"equation": equation},
                values=True,
            )
            for equation, a, b in (
                ("nchw,nwhu->nchu", (2, 3, 4, 5), (2, 5, 4, 6)),
                ("bqhd,bdhk->bqhk", (2, 3, 4, 5), (2, 5, 4, 6)),
                ("chw,whr->chr", (3, 4, 5), (5, 4, 6)),
            )
        ),
        Case(
            "einsum",
            {"a": real(1, 3, 4, 5), "b": real(2, 5, 1, 6)},
            lambda a, b: np.einsum("cxw,nwu->ncxu", a[0], b[:, :, 0]),
            {"equation": "nchw,nwhu->nchu"},
            values=True,
        ),
        Case("scaled_dot_product_attention", qkv, attention),
        Case(
            "scaled_dot_product_attention",
            {"query": query[0], "key": key[0], "value": value[0]},
            lambda query, key, value: attention(query, key, value, np.where(mask, 0, -np.inf)),
            {"attn_mask": mask},
        ),
        Case(
            "scaled_dot_product_attention",
            {**qkv, "attn_mask": real(1, 1, 5, 7)},
            lambda query, key, value, attn_mask: attention(query, key, value, attn_mask),
        ),
    ]


def normalisation() -> list[Case]:
    mean, variance, gamma, beta = real(3), positive(3), real(3), real(3)
    row, plane = real(4), real(2, 4)
    return [
        *(
            Case("softmax", {"x": real(2, 3, 4) * 5}, lambda x, a=axis: softmax(x, a), {"axis": axis})
            for axis in (0, 1, 2, -1, -2, -3)
        ),
        Case("softmax", {"x": real(2, 3, 4)}, lambda x: softmax(x, -1)),
        Case("softmax", {"x": real(2, 1, 4)}, lambda x: softmax(x, 1), {"axis": 1}),
        Case(
            "layer_norm",
            {"x": real(2, 3, 4)},
            lambda x: layer_norm(x, (0, 1, 2)),
            {"axes": [0, 1, 2]},
            omitted=("axes",),  # the builder cannot make its own default, a range
        ),
        *(
            Case(
                "layer_norm",
                {"x": real(2, 3, 4)},
                lambda x: layer_norm(x, (2,), row, -row, 0.1),
                {"axes": [axis], "gamma": row, "beta": -row, "epsilon": 0.1},
            )
            for axis in (2, -1)
        ),
        *(
            Case(
                "layer_norm",
                {"x": real(2, 3, 4)},
                lambda x: layer_norm(x, (0, 2), plane[:, None], -plane[:, None]),
                {"axes": axes, "gamma": plane, "beta": -plane},
            )
            for axes in ([0, 2], [2, 0], [-1, -3])
        ),
        *(
            Case(
                "batch_norm",
                {"x": real(2, 3, *spatial)},
                lambda x: batch_norm(x, mean, variance),
                {"mean": mean, "variance": variance},
            )
            for spatial in ((5,), (4, 5), (2, 4, 5))
        ),
        Case(
            "batch_norm",
            {"x": real(2, 3, 4, 5)},
            lambda x: batch_norm(x, mean, variance, gamma, beta, 0.01),
            {"mean": mean, "variance": variance, "gamma": gamma, "beta": beta, "epsilon": 0.01},
        ),
        *(
            Case(
                "instance_norm",
                {"x": real(2, 3, *spatial)},
                lambda x: layer_norm(x, tuple(range(2, x.ndim))),
            )
            for spatial in ((5,), (4, 5))
        ),
        Case(
            "instance_norm",
            {"x": real(2, 3, 4, 5)},
            lambda x: layer_norm(x, (2, 3), gamma[:, None, None], beta[:, None, None], 0.01),
            {"gamma": gamma, "beta": beta, "epsilon": 0.01},
        ),
        *(
            Case("l2_norm", {"x": real(*sizes)}, lambda x: x / np.sqrt(np.square(x).sum((-3, -2, -1), keepdims=True)))
            for sizes in ((2, 3, 4), (2, 3, 4, 5), (2, 1, 3, 4, 5))
        ),
        Case(
            "l2_norm",
            {"x": real(3, 4, 5)},
            lambda x: x / np.sqrt(np.square(x).sum() + 2),
            {"epsilon": 2.0},
        ),
        Case("local_response_norm", {"x": real(2, 6, 4)}, lambda x: across(x, 3, 1e-4, 0.75, 1), {"size": 3}),
        Case(
            "local_response_norm",
            {"x": real(2, 6, 4, 5)},
            lambda x: across(x, 5, 0.7, 0.5, 2),
            {"size": 5, "alpha": 0.7, "beta": 0.5, "k": 2.0},
        ),
    ]


def across(x: Array, size: int, alpha: float, beta: float, k: float) -> Array:
    """Each channel divided by what its neighbours' squares come to."""
    squares = np.pad(np.square(x), [(0, 0), (size // 2, size // 2)] + [(0, 0)] * (x.ndim - 2))
    sums = sum(squares[:, i : i + x.shape[1]] for i in range(size))
    return x / (k + alpha / size * sums) ** beta


def reduction() -> list[Case]:
    cases = []
    for kind, f in REDUCTIONS.items():
        cases.append(Case(kind, {"x": real(2, 3, 4)}, lambda x, f=f: np.reshape(f(x, axis=None, keepdims=False), 1)))
        for axes, keep in product(([1], [-1], [0, 2], [-2, 0]), (True, False)):
            cases.append(
                Case(
                    kind,
                    {"x": real(2, 3, 4)},
                    lambda x, f=f, a=tuple(axes), k=keep: f(x, axis=a, keepdims=k),
                    {"axes": axes, "keep_dims": keep},
                )
            )
    x = RNG.permutation(24).reshape(2, 3, 4)
    return [
        *cases,
        Case("reduce_sum", {"x": whole(2, 3)}, lambda x: x.sum(1), {"axes": [1]}),
        Case("reduce_log_sum", {"x": positive(2, 3, 4)}, lambda x: np.log(x.sum())[None]),
        Case(
            "reduce_log_sum",
            {"x": positive(2, 3, 4)},
            lambda x: np.log(x.sum((0, 2), keepdims=True)),
            {"axes": [0, -1], "keep_dims": True},
        ),
        Case("reduce_argmin", {"x": x.astype(np.float32)}, lambda x: x.argmin(-1)),
        Case(
            "reduce_argmin",
            {"x": x.astype(np.int32)},
            lambda x: x.argmin(1)[:, None],
            {"axis": -2, "keep_dims": True, "output_dtype": "uint16"},
        ),
        Case("reduce_argmax", {"x": x.astype(np.float32)}, lambda x: x.argmax(-1)),
        Case("reduce_argmax", {"x": x.astype(np.int32)}, lambda x: x.argmax(1), {"axis": -2}),
        Case(
            "reduce_argmax",
            {"x": x.astype(np.float32)},
            lambda x: x.argmax(0)[None],
            {"axis": 0, "keep_dims": True, "output_dtype": "uint16"},
        ),
        Case("cumsum", {"x": real(4, 3)}, lambda x: x.cumsum(0)),
        Case("cumsum", {"x": whole(4, 3)}, lambda x: x.cumsum(1), {"axis": -1}),
        Case(
            "cumsum",
            {"x": real(4, 3)},
            lambda x: x.cumsum(0) - x,
            {"axis": 0, "exclusive": True},
            inferred_otherwise="fails where an element is left out of its own sum",
        ),
        Case(
            "cumsum",
            {"x": real(4, 3)},
            lambda x: x[::-1].cumsum(0)[::-1],
            {"axis": 0, "reverse": True},
        ),
        Case(
            "cumsum",
            {"x": real(4, 3)},
            lambda x: x[::-1].cumsum(0)[::-1] - x,
            {"axis": 0, "exclusive": True, "reverse": True},
            inferred_otherwise="fails where an element is left out of its own sum",
        ),
    ]


def quantisation() -> list[Case]:
    """`quantize` and `dequantize`: a scale for all, or along an axis; ties, and what lies beyond the range."""
    x = real(3, 4) * 40
    x[0] = [0.25, 0.75, 1.25, -0.75]  # halves of the scale 0.5: ties go to even
    wide, narrow = positive(4), whole(3, low=-20, high=20).astype(np.int8)

    def quantised(x: Array, scale: Array, zero_point: Array, low: int, high: int) -> Array:
        return np.clip(np.rint(x / scale) + zero_point, low, high)

    return [
        Case(
            "quantize",
            {"input": x},
            lambda input: quantised(input, np.float32(0.5), np.int32(0), -128, 127),
            {"scale": np.float32(0.5), "output_dtype": "int8"},
            opset=ct.target.iOS17,
        ),
        Case(
            "quantize",
            {"input": x},
            lambda input: quantised(input, np.float32(0.3), np.int32(-7), -128, 127),
            {"scale": np.float32(0.3), "zero_point": np.int8(-7), "output_dtype": "int8"},
            opset=ct.target.iOS17,
        ),
        Case(
            "quantize",
            {"input": x},
            lambda input: quantised(input, wide, np.array([3, 0, 200, 255]), 0, 255),
            {"scale": wide, "zero_point": np.array([3, 0, 200, 255], np.uint8), "output_dtype": "uint8", "axis": 1},
            opset=ct.target.iOS17,
        ),
        Case(
            "dequantize",
            {"input": whole(3, 4, low=-128, high=128)},
            lambda input: input * np.float32(0.3),
            {"scale": np.float32(0.3)},
            integer="int8",
            opset=ct.target.iOS17,
        ),
        Case(
            "dequantize",
            {"input": whole(3, 4, low=-128, high=128)},
            lambda input: (input - narrow.astype(np.float32)[:, None]) * wide[:3, None],
            {"scale": wide[:3], "zero_point": narrow, "axis": -2},
            integer="int8",
            opset=ct.target.iOS17,
        ),
        Case(
            "dequantize",
            {"input": whole(2, 3, 4, low=0, high=256)},
            lambda input: (input - 128) * np.float32(0.1),
            {"scale": np.float32(0.1), "zero_point": np.uint8(128)},
            integer="uint8",
            opset=ct.target.iOS17,
        ),
    ]
