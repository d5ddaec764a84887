"""Ops whose arguments say where: convolution, pooling, resampling, shapes, slices and gathers."""

from __future__ import annotations

from itertools import product

import coremltools as ct
import numpy as np
import torch
import torch.nn.functional as F
from mlprogram_oracles import band, bilinear, conv, pool
from mlprograms import Array

from mlprogram_cases.case import RNG, Case, real, whole


def convolution() -> list[Case]:
    w1, w2, w3, depthwise = real(4, 3, 3), real(4, 3, 3, 2), real(4, 3, 2, 2, 2), real(6, 1, 3, 3)
    bias = real(4)
    full = {"strides": (2, 1), "pad": (1, 2, 0, 1), "dilations": (1, 2)}
    image = real(2, 3, 7, 8)
    cases = [
        Case("conv", {"x": real(2, 3, 9)}, lambda x: conv(x, w1), {"weight": w1}),
        Case("conv", {"x": image}, lambda x: conv(x, w2, bias=bias), {"weight": w2, "bias": bias}),
        Case("conv", {"x": real(1, 3, 4, 5, 4)}, lambda x: conv(x, w3), {"weight": w3}),
        Case("conv", {"x": image}, lambda x: conv(x, w2, **full), {"weight": w2, "pad_type": "custom", **full}),
        Case(
            "conv",
            {"x": image},
            lambda x: conv(x, w2, pad=(1, 1, 2, 2)),
            {"weight": w2, "pad_type": "custom", "pad": [1, 1, 2, 2]},
        ),
        Case(
            "conv",
            {"x": real(1, 3, 8, 8)},
            lambda x: conv(x, np.concatenate([depthwise[:3]] * 2), groups=3, strides=(2, 2), pad=(0, 1, 0, 1)),
            {
                "weight": np.concatenate([depthwise[:3]] * 2),
                "groups": 3,
                "strides": [2, 2],
                "pad_type": "same",
            },
        ),
        Case(
            "conv",
            {"x": image},
            lambda x: conv(x, w2, pad=(1, 1, 1, 0)),
            {"weight": w2, "pad_type": "same_lower"},
        ),
        Case("conv", {"x": image}, lambda x: conv(x, w2, pad=(1, 1, 0, 1)), {"weight": w2, "pad_type": "same"}),
    ]
    cases += transposed()
    for kind, how in (("max_pool", "max"), ("avg_pool", "mean")):
        for pad_type, pad in (
            ("valid", (0, 0, 0, 0)),
            ("custom", (1, 0, 1, 1)),
            ("same", (1, 1, 0, 1)),
            ("same_lower", (1, 1, 1, 0)),
        ):
            arguments = {"kernel_sizes": [3, 3], "strides": [2, 2], "pad_type": pad_type}
            cases.append(
                Case(
                    kind,
                    {"x": image},
                    lambda x, p=pad, h=how: pool(x, (3, 3), (2, 2), p, h),
                    arguments | ({"pad": pad} if pad_type == "custom" else {}),
                )
            )
        cases += [
            Case(
                kind,
                {"x": real(2, 3, 9)},
                lambda x, h=how: pool(x, (2,), (1,), (0, 0), h),
                {"kernel_sizes": [2], "pad_type": "valid"},
            ),
            Case(
                kind,
                {"x": real(1, 2, 4, 4, 4)},
                lambda x, h=how: pool(x, (2, 2, 2), (2, 2, 2), (0,) * 6, h),
                {"kernel_sizes": [2, 2, 2], "strides": [2, 2, 2], "pad_type": "valid"},
            ),
        ]
    return [
        *cases,
        Case(
            "avg_pool",
            {"x": image},
            lambda x: pool(x, (3, 3), (2, 2), (1, 1, 1, 0), "mean of picture"),
            {
                "kernel_sizes": [3, 3],
                "strides": [2, 2],
                "pad_type": "custom",
                "pad": [1, 1, 1, 0],
                "exclude_padding_from_average": True,
            },
        ),
        *_ceiled(),
        *(
            Case(
                "upsample_bilinear",
                {"x": real(2, 3, 4, 5)},
                lambda x, h=height, w=width, c=corners: bilinear(x, h, w, c),
                {"scale_factor_height": height, "scale_factor_width": width, "align_corners": corners},
            )
            for height, width, corners in product((2, 1.7), (3, 1.0), (True, False))
            if (height == 2) == (width == 3)
        ),
        Case("upsample_bilinear", {"x": real(3, 4, 5)}, lambda x: x),
        Case(
            "upsample_bilinear",
            {"x": real(1, 1, 3, 3)},
            lambda x: bilinear(x, 2, 2, True),
            {"scale_factor_height": 2, "scale_factor_width": 2, "align_corners": True, "half_pixel_centers": False},
        ),
        Case(
            "upsample_nearest_neighbor",
            {"x": real(2, 3, 4)},
            lambda x: np.repeat(np.repeat(x, 2, -2), 3, -1),
            {"scale_factor_height": 2, "scale_factor_width": 3},
        ),
        Case("upsample_nearest_neighbor", {"x": real(2, 3, 4)}, lambda x: x),
    ]


def spread(
    x: Array,
    weight: Array,
    *,
    strides: tuple[int, ...],
    dilations: tuple[int, ...] | None = None,
    groups: int = 1,
    crop: tuple[tuple[int, int], ...] | None = None,
) -> Array:
    """A transposed convolution: every element writes the kernel, times itself, around its place.

    Args:
        crop: Of each spatial axis where to begin, and how many to take; zeros beyond the end.
    """
    n, c, *sizes = x.shape
    kernel, dilations = weight.shape[2:], dilations or (1,) * len(sizes)
    full = [(s - 1) * t + (k - 1) * d + 1 for s, t, k, d in zip(sizes, strides, kernel, dilations, strict=True)]
    per_group = weight.shape[1]
    out = np.zeros((n, per_group * groups, *full), np.float64)
    for channel, place, at in product(range(c), np.ndindex(*sizes), np.ndindex(*kernel)):
        where = tuple(p * t + a * d for p, t, a, d in zip(place, strides, at, dilations, strict=True))
        first = channel // (c // groups) * per_group
        values = x[(slice(None), channel, *place)][:, None] * weight[(channel, slice(None), *at)]
        out[(slice(None), slice(first, first + per_group), *where)] += values
    for axis, (start, size) in enumerate(crop or ()):
        widths = [(0, 0)] * out.ndim
        widths[axis + 2] = (0, max(0, start + size - out.shape[axis + 2]))
        out = np.pad(out, widths).take(range(start, start + size), axis + 2)
    return out


def transposed() -> list[Case]:
    w1, w2, w3, grouped = real(3, 4, 3), real(3, 4, 3, 2), real(3, 2, 2, 2, 2), real(4, 3, 3, 3)
    bias, image = real(4), real(2, 3, 4, 5)

    def case(x: Array, weight: Array, spread_by: dict[str, object], arguments: dict[str, object]) -> Case:
        shift = bias.reshape(-1, *[1] * (x.ndim - 2)) if "bias" in arguments else 0
        by = {"strides": (1,) * (x.ndim - 2), **spread_by}
        return Case(
            "conv_transpose", {"x": x}, lambda x: spread(x, weight, **by) + shift, {"weight": weight, **arguments}
        )

    return [
        case(real(2, 3, 5), w1, {}, {}),
        case(image, w2, {"strides": (2, 3), "dilations": (2, 1)}, {"strides": [2, 3], "dilations": [2, 1]}),
        case(real(1, 3, 2, 3, 2), w3, {"strides": (2, 1, 2)}, {"strides": [2, 1, 2]}),
        case(real(1, 4, 3, 3), grouped, {"groups": 2}, {"groups": 2}),
        case(
            image,
            w2,
            {"strides": (2, 2), "crop": ((1, 6), (0, 9))},
            {"strides": [2, 2], "pad_type": "custom", "pad": [1, 2, 0, 1], "bias": bias},
        ),
        case(
            image,
            w2,
            {"strides": (2, 2), "crop": ((0, 8), (0, 10))},
            {"strides": [2, 2], "pad_type": "same", "bias": bias},
        ),
        case(image, w2, {"strides": (3, 3), "crop": ((0, 12), (0, 15))}, {"strides": [3, 3], "pad_type": "same"}),
        case(
            image,
            w2,
            {"strides": (3, 3), "crop": ((1, 12), (1, 14))},
            {
                "strides": [3, 3],
                "pad_type": "custom",
                "pad": [1, 1, 1, 1],
                "output_shape": [2, 4, 12, 14],
                "bias": bias,
            },
        ),
        Case(
            "l2_pool",
            {"x": image},
            lambda x: np.sqrt(pool(x * x, (3, 3), (2, 2), (0,) * 4, "mean") * 9),
            {"kernel_sizes": [3, 3], "strides": [2, 2], "pad_type": "valid"},
        ),
        Case(
            "l2_pool",
            {"x": real(2, 3, 6)},
            lambda x: np.sqrt(pool(x * x, (2,), (1,), (1, 0), "mean") * 2),
            {"kernel_sizes": [2], "pad_type": "custom", "pad": [1, 0]},
        ),
        *(
            Case(
                "l2_pool",
                {"x": real(2, 3, 6)},
                lambda x, p=pad: np.sqrt(pool(x * x, (2,), (1,), p, "mean") * 2),
                {"kernel_sizes": [2], "pad_type": pad_type},
            )
            for pad_type, pad in (("same", (0, 1)), ("same_lower", (1, 0)))
        ),
    ]


def shape() -> list[Case]:
    x = real(2, 3, 4)
    modes = {"reflect": "reflect", "replicate": "edge"}
    return [
        *(
            Case("reshape", {"x": x}, lambda x, s=result: x.reshape(s), {"shape": given})
            for given, result in (([6, 4], (6, 4)), ([-1], (24,)), ([0, -1], (3, 8)), ([4, 6, 1], (4, 6, 1)))
        ),
        Case(
            "reshape_like",
            {"x": real(6, 5)},
            lambda x: x.reshape(2, 3, 5),
            {
                "ref_tensors": (real(2, 3, 4), real(1, 5)),
                "begins": (np.int32(0), np.int32(1)),
                "ends": (np.int32(2), np.int32(0)),
                "end_masks": (False, True),
            },
        ),
        Case("fill_like", {"ref_tensor": real(2, 3)}, lambda ref_tensor: np.zeros((2, 3), np.float32)),
        Case("fill_like", {"ref_tensor": whole(2)}, lambda ref_tensor: np.full(2, 7), {"value": np.int32(7)}),
        Case("reshape", {"x": x}, lambda x: x.reshape(2, 12, 1), {"shape": [0, -1, 1]}, opset=ct.target.iOS16),
        Case("reshape", {"x": real(2, 50)}, lambda x: x.reshape(1, 1, 2, 50), {"shape": [1, 0, -1, 0]}),
        Case("transpose", {"x": x}, lambda x: x.transpose(2, 0, 1), {"perm": [2, 0, 1]}),
        Case("transpose", {"x": x}, lambda x: x.transpose(1, 0, 2), {"perm": [-2, 0, -1]}),
        *(
            Case("expand_dims", {"x": x}, lambda x, a=tuple(axes): np.expand_dims(x, a), {"axes": axes})
            for axes in ([0], [-1], [1, 3], [-1, 0])
        ),
        Case("squeeze", {"x": real(1, 3, 1, 4)}, lambda x: np.squeeze(x)),
        Case("squeeze", {"x": real(1, 3, 1, 4)}, lambda x: x[:, :, 0], {"axes": [-2]}),
        Case("squeeze", {"x": real(1, 3, 1, 4)}, lambda x: x[0, :, 0], {"axes": [2, 0]}),
        *(
            Case(
                "concat",
                {"a": real(2, 3, 4), "b": real(2, 3, 4), "c": real(2, 3, 4)},
                lambda a, b, c, axis=axis: np.concatenate((a, b, c), axis),
                {"axis": axis},
                values=True,
            )
            for axis in (0, 1, -1)
        ),
        Case(
            "concat",
            {"a": real(3, 2), "b": real(3, 2)},
            lambda a, b: np.array([a[0], b[0], a[1], b[1], a[2], b[2]]),
            {"axis": 0, "interleave": True},
            values=True,
            inferred_otherwise="does not interleave",
        ),
        *(
            Case(
                "stack",
                {"a": real(2, 3), "b": real(2, 3)},
                lambda a, b, axis=axis: np.stack((a, b), axis),
                {"axis": axis},
                values=True,
            )
            for axis in (0, 1, 2, -1)
        ),
        Case("split", {"x": real(2, 6)}, lambda x: np.split(x, 3, 1), {"axis": 1, "num_splits": 3}),
        Case("split", {"x": real(2, 6)}, lambda x: np.split(x, [1, 3], -1), {"axis": -1, "split_sizes": [1, 2, 3]}),
        Case(
            "split",
            {"x": real(2, 6)},
            lambda x: np.split(x, [2], 1),
            {"axis": 1, "num_splits": 2, "split_sizes": [2, 4]},
        ),
        Case("tile", {"x": x}, lambda x: np.tile(x, (2, 1, 3)), {"reps": [2, 1, 3]}),
        Case("pad", {"x": x}, lambda x: np.pad(x, [(0, 0), (1, 0), (2, 3)]), {"pad": [1, 0, 2, 3]}),
        Case(
            "pad",
            {"x": x},
            lambda x: np.pad(x, [(1, 0), (0, 2), (0, 0)], constant_values=-7),
            {"pad": [1, 0, 0, 2, 0, 0], "mode": "constant", "constant_val": -7.0},
        ),
        *(
            Case(
                "pad",
                {"x": real(2, 3, 5)},
                lambda x, m=numpy_mode: np.pad(x, [(1, 1), (2, 1), (4, 0)], m),
                {"pad": [1, 1, 2, 1, 4, 0], "mode": mode},
            )
            for mode, numpy_mode in modes.items()
        ),
        Case("shape", {"x": x}, lambda x: np.array(x.shape)),
        *(
            Case(
                "band_part",
                {"x": real(2, 4, 5)},
                lambda x, lo=lower, up=upper: band(x, lo, up),
                {"lower": lower, "upper": upper},
            )
            for lower, upper in ((0, -1), (-1, 0), (0, 0), (1, 2), (-1, -1))
        ),
        Case("band_part", {"x": real(4, 5)}, lambda x: x),
    ]


def _ceiled() -> list[Case]:
    """Pools whose last window may end beyond the picture, against torch's, which MIL names as its model."""
    torch_kinds = {
        "max_pool": lambda x, how: F.max_pool2d(x, how["kernel"], how["stride"], how["pad"], ceil_mode=True),
        "avg_pool": lambda x, how: F.avg_pool2d(
            x, how["kernel"], how["stride"], how["pad"], ceil_mode=True, count_include_pad=not how["excluded"]
        ),
        "l2_pool": lambda x, how: F.lp_pool2d(F.pad(x, (0, 1, 0, 1)), 2, how["kernel"], how["stride"]),
    }
    cases = []
    for (kind, reference), (size, kernel, stride, pad), excluded in product(
        torch_kinds.items(), ((8, 3, 2, 1), (7, 2, 2, 0), (7, 3, 3, 1), (6, 2, 3, 1)), (False, True)
    ):
        how = {"kernel": kernel, "stride": stride, "pad": pad, "excluded": excluded}
        if (kind != "avg_pool" and excluded) or (kind == "l2_pool" and pad):
            continue
        arguments = {
            "kernel_sizes": [kernel] * 2,
            "strides": [stride] * 2,
            "pad_type": "custom",
            "pad": [pad] * 4,
            "ceil_mode": True,
        }
        if kind == "avg_pool":
            arguments["exclude_padding_from_average"] = excluded
        cases.append(
            Case(
                kind,
                {"x": real(2, 3, size, size)},
                lambda x, r=reference, h=how: r(torch.tensor(x), h).numpy(),
                arguments,
                oracle="torch",
            )
        )
    return cases


def indexing() -> list[Case]:
    x = real(4, 5, 6)
    picks = np.array([[0, 2], [3, 1], [2, 0]], np.int32)
    from_the_end = np.array([[0, 2], [3, 1], [-1, -4]], np.int32)
    cases = [
        Case("slice_by_index", {"x": x}, lambda x: x[1:3, 0:4, 2:6], {"begin": [1, 0, 2], "end": [3, 4, 6]}),
        Case("slice_by_index", {"x": x}, lambda x: x[-3:-1, 1:9, :], {"begin": [-3, 1, 0], "end": [-1, 9, 6]}),
        Case(
            "slice_by_index",
            {"x": x},
            lambda x: x[0:4:2, 4:0:-2, ::-1],
            {
                "begin": [0, 4, 0],
                "end": [4, 0, 0],
                "stride": [2, -2, -1],
                "begin_mask": [False, False, True],
                "end_mask": [False, False, True],
            },
        ),
        Case(
            "slice_by_index",
            {"x": x},
            lambda x: x[:2, -1, 3],
            {
                "begin": [3, -1, 3],
                "end": [2, 0, 0],
                "begin_mask": [True, False, False],
                "squeeze_mask": [False, True, True],
            },
        ),
        Case("slice_by_size", {"x": x}, lambda x: x[1:3, 0:5, 2:], {"begin": [1, 0, 2], "size": [2, 5, -1]}),
        Case("slice_by_size", {"x": x}, lambda x: x[2:, 1:2, 4:5], {"begin": [-2, 1, -2], "size": [2, 1, 1]}),
        Case("gather", {"x": x}, lambda x: x[picks], {"indices": picks}),
        Case("gather", {"x": x, "indices": np.array(2, np.int32)[None]}, lambda x, indices: x[indices]),
        Case("gather", {"x": x}, lambda x: x[:, 3], {"indices": np.int32(3), "axis": 1}),
        Case(
            "gather",
            {"x": whole(4, 5)},
            lambda x: x[:, from_the_end],
            {"indices": from_the_end, "axis": -1},
            opset=ct.target.iOS15,
        ),
        Case("gather", {"x": real(4), "indices": np.array([1], np.int32)}, lambda x, indices: x[indices]),
    ]
    validated = {"validate_indices": True}
    cases += [
        Case("gather", {"x": x}, lambda x: x[picks], {"indices": picks, **validated}),
        Case(
            "gather_nd",
            {"x": x},
            lambda x: x[[0, 3], [2, 1], [5, 0]],
            {"indices": np.array([[0, 2, 5], [3, 1, 0]], np.int32), **validated},
        ),
        Case(
            "gather_along_axis",
            {"x": real(3, 2)},
            lambda x: np.take_along_axis(x, picks % 2, 0),
            {"indices": picks % 2, **validated},
        ),
    ]
    batched = RNG.integers(0, 5, (4, 3, 2)).astype(np.int32)
    pairs = np.array([[0, 1], [3, 4]], np.int32)
    along = RNG.integers(0, 5, (4, 2, 6)).astype(np.int32)
    for opset in (ct.target.iOS16, ct.target.iOS17):
        cases += [
            Case(
                "gather",
                {"x": x},
                lambda x: np.stack([x[b][batched[b]] for b in range(4)]),
                {"indices": batched, "axis": 1, "batch_dims": 1},
                opset=opset,
            ),
            Case(
                "gather",
                {"x": x},
                lambda x: np.stack([x[b][:, batched[b]] for b in range(4)]),
                {"indices": batched, "axis": 2, "batch_dims": 1},
                opset=opset,
            ),
            Case(
                "gather_nd",
                {"x": x},
                lambda x: np.stack([np.stack([x[b, i] for i in batched[b, :, 0]]) for b in range(4)]),
                {"indices": batched[:, :, :1], "batch_dims": 1},
                opset=opset,
            ),
            Case("gather_nd", {"x": x}, lambda x: np.stack([x[0, 1], x[3, 4]]), {"indices": pairs}, opset=opset),
            Case(
                "gather_along_axis",
                {"x": x},
                lambda x: np.take_along_axis(x, along, 1),
                {"indices": along, "axis": 1},
                opset=opset,
            ),
        ]
    return [
        *cases,
        Case(
            "gather_along_axis",
            {"x": x, "indices": np.array([[[1] * 6] * 5], np.int32)},
            lambda x, indices: np.take_along_axis(x, indices.astype(int), 0),
        ),
    ]
