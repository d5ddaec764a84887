"""Ops that move elements between axes, order them, or write some of them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import coremltools as ct
import numpy as np
from mlprograms import Array

from mlprogram_cases.case import RNG, Case, real, whole


def rearrangement() -> list[Case]:
    image, x = real(2, 8, 4, 6), real(3, 5, 4)
    lengths = np.array([0, 2, 5], np.int32)
    return [
        Case("pixel_shuffle", {"x": image}, lambda x: shuffled(x, 2), {"upscale_factor": 2}),
        Case(
            "pixel_unshuffle",
            {"x": image},
            lambda x: unshuffled(x, 2),
            {"downscale_factor": np.uint32(2)},
        ),
        Case("depth_to_space", {"x": image}, lambda x: deepened(x, 2), {"block_size": 2}),
        Case(
            "space_to_depth",
            {"x": image},
            lambda x: np.concatenate([x[..., i::2, j::2] for i in range(2) for j in range(2)], 1),
            {"block_size": 2},
        ),
        Case(
            "space_to_batch",
            {"x": image},
            lambda x: np.concatenate(
                [np.pad(x, [(0, 0), (0, 0), (1, 1), (0, 0)])[..., i::2, j::3] for i in range(2) for j in range(3)]
            ),
            {"block_shape": [2, 3], "paddings": [[1, 1], [0, 0]]},
        ),
        Case(
            "batch_to_space",
            {"x": real(6, 2, 3, 2)},
            lambda x: joined(x, (2, 3))[..., 1:6, 0:4],
            {"block_shape": [2, 3], "crops": [[1, 0], [0, 2]]},
        ),
        *(
            Case(
                "sliding_windows",
                {"x": x},
                lambda x, a=axis, s=stride: np.stack(
                    [x.take(range(i, i + 2), a) for i in range(0, x.shape[a] - 1, s)], a % 3
                ),
                {"axis": axis, "size": 2, "stride": stride},
            )
            for axis, stride in product((1, -1), (1, 2))
        ),
        Case(
            "sliding_windows",
            {"x": x},
            lambda x: np.stack([x[i : i + 3] for i in range(1)], 0),
            {"axis": 0, "size": 3},
        ),
        Case("reverse", {"x": x}, lambda x: x[::-1, ::-1, ::-1]),
        Case("reverse", {"x": x}, lambda x: x[:, :, ::-1], {"axes": [-1]}),
        Case(
            "reverse_sequence",
            {"x": x},
            lambda x: np.stack([np.concatenate((r[:n][::-1], r[n:])) for r, n in zip(x, lengths, strict=True)]),
            {"lengths": lengths, "seq_axis": 1, "batch_axis": 0},
        ),
        Case(
            "reverse_sequence",
            {"x": real(4, 3)},
            lambda x: np.stack([np.concatenate((c[:n][::-1], c[n:])) for c, n in zip(x.T, (1, 4, 3), strict=True)], 1),
            {"lengths": np.array([1, 4, 3], np.int32), "batch_axis": 1},
        ),
        Case("crop", {"x": image}, lambda x: x[..., 1:2, 0:4], {"crop_height": [1, 2], "crop_width": [0, 2]}),
        Case("flatten2d", {"x": x}, lambda x: x.reshape(3, 20)),
        Case("flatten2d", {"x": x}, lambda x: x.reshape(15, 4), {"axis": -1}),
    ]


def shuffled(x: Array, f: int) -> Array:
    """Of each `f * f` channels one, its pixels apart by `f`."""
    n, c, h, w = x.shape
    out = np.zeros((n, c // f**2, h * f, w * f), x.dtype)
    for channel, i, j in product(range(c // f**2), range(f), range(f)):
        out[:, channel, i::f, j::f] = x[:, channel * f**2 + i * f + j]
    return out


def unshuffled(x: Array, f: int) -> Array:
    n, c, h, w = x.shape
    out = np.zeros((n, c * f**2, h // f, w // f), x.dtype)
    for channel, i, j in product(range(c), range(f), range(f)):
        out[:, channel * f**2 + i * f + j] = x[:, channel, i::f, j::f]
    return out


def deepened(x: Array, f: int) -> Array:
    """As TensorFlow's `depth_to_space` of channels first."""
    n, c, h, w = x.shape
    out = np.zeros((n, c // f**2, h * f, w * f), x.dtype)
    for i, j in product(range(f), range(f)):
        out[:, :, i::f, j::f] = x[:, (i * f + j) * (c // f**2) : (i * f + j + 1) * (c // f**2)]
    return out


def joined(x: Array, block: tuple[int, int]) -> Array:
    rows, columns = block
    n, (_, c, h, w) = len(x) // (rows * columns), x.shape
    out = np.zeros((n, c, h * rows, w * columns), x.dtype)
    for i, j in product(range(rows), range(columns)):
        out[..., i::rows, j::columns] = x[(i * columns + j) * n : (i * columns + j + 1) * n]
    return out


def sorting() -> list[Case]:
    x, ties = real(3, 5), whole(4, 6, low=0, high=3)
    cases = []
    for axis, ascending in product((0, -1), (True, False)):
        order = lambda x, a=axis, up=ascending: np.argsort(x if up else -x, a, kind="stable")  # noqa: E731
        arguments = {"axis": axis, "ascending": ascending}
        cases += [
            Case("argsort", {"x": x}, order, arguments),
            Case(
                "argsort",
                {"x": ties},
                order,
                arguments,
                inferred_otherwise="sorts equal values in any order",
            ),
            Case(
                "topk",
                {"x": x},
                lambda x, o=order, a=axis: [
                    np.take_along_axis(x, o(x), a).take(range(2), a),
                    o(x).take(range(2), a),
                ],
                {"k": 2, **arguments},
            ),
        ]
    return [
        *cases,
        Case("argsort", {"x": x}, lambda x: np.argsort(-x, -1)),
        Case("topk", {"x": x}, lambda x: [x.max(-1, keepdims=True), x.argmax(-1)[:, None]]),
        Case("topk", {"x": x}, lambda x: -np.sort(-x, -1)[:, :3], {"k": 3, "return_indices": False}),
        Case(  # an unsorted result may have any order, this one too
            "topk",
            {"x": whole(3, 5)},
            lambda x: [-np.sort(-x, -1), np.argsort(-x, -1, kind="stable")],
            {"k": 5, "sort": False, "output_indices_dtype": "uint16"},
        ),
        Case("non_zero", {"x": whole(3, 4, low=0, high=2)}, lambda x: np.argwhere(x)),
        Case(
            "one_hot",
            {"indices": np.array([2, 0, 3], np.int32)},
            lambda indices: np.eye(4)[indices],
            {"one_hot_vector_size": 4},
        ),
        *(
            Case(
                "one_hot",
                {"indices": whole(2, 3, low=0, high=4)},
                lambda indices, a=axis: np.moveaxis(np.where(np.eye(4)[indices] == 1, 5.0, -1.0), -1, a),
                {"one_hot_vector_size": 4, "axis": axis, "on_value": 5.0, "off_value": -1.0},
            )
            for axis in (0, 1, -1, -3)
        ),
    ]


_MODES: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "update": lambda old, new: new,
}


def scattered(data: Array, places: list[tuple[object, ...]], updates: list[Array], mode: str) -> Array:
    """One update after another."""
    data = data.copy()
    for place, new in zip(places, updates, strict=True):
        data[place] = _MODES[mode](data[place], new)
    return data


def scattering() -> list[Case]:
    data, rows = real(4, 5, 3), np.array([3, 0, 3], np.int32)
    one = RNG.permutation(4)[:3].astype(np.int32)
    cases = []
    for mode, opset in product(_MODES, (ct.target.iOS16, ct.target.iOS17)):
        chosen = one if mode == "update" else rows
        pairs = np.array([[0, 1], [3, 4], [2, 2]] if mode == "update" else [[0, 1], [3, 4], [0, 1]], np.int32)
        along = np.stack([RNG.permutation(5)[:2] for _ in range(12)]).reshape(4, 3, 2).transpose(0, 2, 1)
        along = along.astype(np.int32)
        cases += [
            Case(
                "scatter",
                {"data": data, "updates": real(3, 5, 3) + 2},
                lambda data, updates, i=chosen, m=mode: scattered(data, [(k,) for k in i], list(updates), m),
                {"indices": chosen, "mode": mode},
                opset=opset,
            ),
            Case(
                "scatter_nd",
                {"data": data, "updates": real(3, 3) + 2},
                lambda data, updates, i=pairs, m=mode: scattered(data, [tuple(k) for k in i], list(updates), m),
                {"indices": pairs, "mode": mode},
                opset=opset,
            ),
            Case(
                "scatter_along_axis",
                {"data": data, "updates": real(4, 2, 3) + 2},
                lambda data, updates, i=along, m=mode: scattered(
                    data,
                    [(a, i[a, b, c], c) for a, b, c in np.ndindex(4, 2, 3)],
                    [updates[place] for place in np.ndindex(4, 2, 3)],
                    m,
                ),
                {"indices": along, "axis": 1, "mode": mode},
                opset=opset,
                inferred_otherwise="" if mode == "update" else "updates, whatever the mode",
            ),
        ]
    return [
        *cases,
        Case(
            "scatter",
            {"data": data, "updates": real(4, 3, 3)},
            lambda data, updates: scattered(
                data, [(slice(None), k) for k in rows], list(updates.swapaxes(0, 1)), "add"
            ),
            {"indices": rows, "axis": -2},
        ),
        *(
            Case(
                kind,
                {"data": data, "updates": real(1, 5, 3)},
                lambda data, updates: scattered(data, [(2,)], list(updates), "add"),
                {"indices": np.array(indices, np.int32), "validate_indices": True},
            )
            for kind, indices in (("scatter", [2]), ("scatter_nd", [[2]]))
        ),
        Case(
            "scatter_along_axis",
            {"data": real(3, 2), "updates": real(1, 2)},
            lambda data, updates: scattered(data, [(1, 0), (2, 1)], list(updates[0]), "update"),
            {"indices": np.array([[1, 2]], np.int32), "mode": "update", "validate_indices": True},
        ),
        Case(
            "scatter_nd",
            {"data": data, "updates": real(1, 5, 3)},
            lambda data, updates: scattered(data, [(2,)], list(updates), "add"),
            {"indices": np.array([[2]], np.int32)},
        ),
        Case(
            "scatter_along_axis",
            {"data": whole(3, 2), "updates": whole(2, 2)},
            lambda data, updates: (
                scattered(data, [(0, 0), (1, 1)], [updates[0, 0], updates[0, 1]], "add")
                + scattered(np.zeros_like(data), [(2, 0), (0, 1)], [updates[1, 0], updates[1, 1]], "add")
            ),
            {"indices": np.array([[0, 1], [2, 0]], np.int32)},
            inferred_otherwise="updates, whatever the mode",
        ),
        *(
            Case(
                "slice_update",
                {"x": real(4, 5, 6), "update": real(*shape)},
                lambda x, update, p=place: scattered(x, [p], [update], "update"),
                arguments,
            )
            for place, shape, arguments in (
                ((slice(1, 3), slice(0, 4), slice(2, 6)), (2, 4, 4), {"begin": [1, 0, 2], "end": [3, 4, 6]}),
                (
                    (slice(0, 4, 2), slice(None), slice(-3, None)),
                    (2, 5, 3),
                    {
                        "begin": [0, 0, -3],
                        "end": [4, 0, 0],
                        "stride": [2, 1, 1],
                        "end_mask": [False, True, True],
                    },
                ),
                (
                    (slice(None), 2, slice(1, 2)),
                    (4, 1),
                    {
                        "begin": [3, 2, 1],
                        "end": [0, 0, 2],
                        "begin_mask": [True, False, False],
                        "end_mask": [True, False, False],
                        "squeeze_mask": [False, True, False],
                    },
                ),
            )
        ),
    ]
