"""Small programs that together have every op which the evaluator knows, but for those of `models`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import coremltools as ct  # type: ignore[import-untyped]
import numpy as np
from coremltools.converters.mil import Builder as mb  # type: ignore[import-untyped]
from coremltools.converters.mil.mil import Function, Program, types  # type: ignore[import-untyped]
from numpy.typing import NDArray

Array = NDArray[Any]
Inputs = Mapping[str, Array]
Body = Callable[..., Any]

_RNG = np.random.default_rng(0)


def real(*shape: int) -> Array:
    return _RNG.standard_normal(shape).astype(np.float32)


def whole(*shape: int, below: int = 4) -> Array:
    return _RNG.integers(0, below, shape).astype(np.int32)


def program(inputs: Inputs, body: Body, opset: Any = ct.target.iOS18) -> Any:
    """The model whose `main(*inputs)` is `body(*inputs)`, its ops left as the builder made them.

    Args:
        inputs: float32 or int32.
        body: Called with the builder's variables; what it returns is cast to float32 or int32.
        opset: The version of MIL.
    """
    made = Program()
    kinds = {name: types.fp32 if array.dtype == np.float32 else types.int32 for name, array in inputs.items()}
    placeholders = {name: mb.placeholder(array.shape, kinds[name]) for name, array in inputs.items()}
    with Function(placeholders, opset_version=opset) as function:
        results = body(*(function.inputs[name] for name in inputs))
        results = results if isinstance(results, list | tuple) else [results]
        function.set_outputs([_returnable(result, f"out{i}") for i, result in enumerate(results)])
    made.add_function("main", function)
    return ct.convert(
        made,
        convert_to="mlprogram",
        minimum_deployment_target=opset,
        compute_precision=ct.precision.FLOAT32,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )


def _returnable(result: Any, name: str) -> Any:
    if result.rank == 0:
        result = mb.expand_dims(x=result, axes=[0])
    return mb.cast(x=result, dtype="fp32" if types.is_float(result.dtype) else "int32", name=name)


def functions(x: Any) -> Any:
    for kind in ("abs", "atan", "ceil", "cos", "erf", "exp2", "relu", "relu6", "sigmoid", "silu", "sin", "softplus"):
        x = getattr(mb, kind)(x=x)
    y = mb.clip(x=x, alpha=-0.5, beta=0.5)
    for kind in ("acos", "asin", "atanh", "cosh", "exp", "floor", "identity", "round", "sign", "sinh", "softsign"):
        y = mb.add(x=getattr(mb, kind)(x=mb.clip(x=y, alpha=-0.9, beta=0.9)), y=x)
    for kind in ("sqrt", "square", "tan", "tanh", "rsqrt", "inverse", "log"):
        y = getattr(mb, kind)(x=mb.add(x=mb.abs(x=y), y=1.0))
    return y


def activations(x: Any) -> Any:
    y = x
    for kind in ("clamped_relu", "linear_activation", "scaled_tanh", "sigmoid_hard"):
        y = getattr(mb, kind)(x=y, alpha=0.3, beta=0.7)
    for kind in ("threshold", "elu", "leaky_relu", "thresholded_relu"):
        y = getattr(mb, kind)(x=y, alpha=0.3)
    y = mb.gelu(x=mb.prelu(x=y, alpha=np.array([0.1, 0.2], np.float32)), mode="TANH_APPROXIMATION")
    return mb.softplus_parametric(x=y, alpha=np.array([1, 2], np.float32), beta=np.array([1, 3], np.float32))


def arithmetic(n: Any) -> Any:
    m = mb.add(x=mb.mul(x=n, y=3), y=1)
    for kind in ("floor_div", "mod", "real_div", "maximum", "minimum", "sub"):
        m = mb.add(x=getattr(mb, kind)(x=m, y=mb.add(x=n, y=1)), y=2)
    there = mb.logical_not(x=mb.equal(x=m, y=n))
    for kind in ("greater", "greater_equal", "less", "less_equal", "not_equal"):
        there = mb.logical_xor(x=there, y=getattr(mb, kind)(x=m, y=n))
    there = mb.logical_or(x=mb.logical_and(x=there, y=there), y=there)
    return mb.select(cond=there, a=m, b=n), mb.pow(x=mb.cast(x=m, dtype="fp32"), y=1.5)


def reductions(x: Any) -> Any:
    kinds = ("sum", "mean", "max", "min", "prod", "sum_square", "log_sum_exp", "l1_norm", "l2_norm")
    sums = [getattr(mb, f"reduce_{kind}")(x=x, axes=[-1], keep_dims=True) for kind in kinds]
    sums.append(mb.reduce_log_sum(x=mb.exp(x=x), axes=[2], keep_dims=True))
    places = [mb.reduce_argmax(x=x, axis=1), mb.reduce_argmin(x=x, axis=-1)]
    bytes_ = mb.quantize(
        input=x,
        scale=np.array([0.1, 0.2], np.float32),
        zero_point=np.array([1, 2], np.int8),
        axis=0,
        output_dtype="int8",
    )
    back = mb.dequantize(input=bytes_, scale=np.array(0.1, np.float32), zero_point=np.array(3, np.int8))
    return mb.concat(values=sums, axis=2), *places, mb.cumsum(x=back, axis=1, exclusive=True, reverse=True)


def normalisations(x: Any) -> Any:
    ones, twos = np.ones(3, np.float32), np.full(3, 2, np.float32)
    y = mb.batch_norm(x=x, mean=ones, variance=twos, gamma=ones, beta=twos)
    y = mb.l2_norm(x=mb.instance_norm(x=y, gamma=ones, beta=twos))
    y = mb.local_response_norm(x=mb.layer_norm(x=y, axes=[1], gamma=ones, beta=twos), size=3)
    attention = mb.scaled_dot_product_attention(query=y, key=x, value=y, attn_mask=real(4, 4))
    a = mb.einsum(values=(y, mb.transpose(x=x, perm=[0, 3, 2, 1])), equation="nchw,nwhu->nchu")
    product = mb.matmul(x=mb.softmax(x=attention, axis=-2), y=x, transpose_y=True)
    return product, a, mb.linear(x=y, weight=real(5, 4), bias=real(5))


def convolutions(x: Any) -> Any:
    y = mb.conv(x=x, weight=real(4, 3, 3, 3), bias=real(4), strides=[2, 1], pad_type="custom", pad=[1, 2, 0, 1])
    y = mb.conv(x=y, weight=real(4, 2, 2, 2), pad_type="same", dilations=[1, 2], groups=2)
    z = mb.conv_transpose(x=y, weight=real(4, 3, 3, 2), strides=[2, 2], pad_type="custom", pad=[1, 1, 0, 1])
    pools = [
        mb.max_pool(x=z, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid", ceil_mode=True),
        mb.avg_pool(x=z, kernel_sizes=[3, 3], pad_type="same", exclude_padding_from_average=True),
        mb.l2_pool(x=z, kernel_sizes=[2, 3], pad_type="custom", pad=[1, 0, 1, 0]),
    ]
    return mb.conv(x=mb.flatten2d(x=y, axis=2), weight=real(2, 1, 1)) if y.rank == 3 else y, *pools


def shapes(x: Any, n: Any) -> Any:
    y = mb.reshape(x=mb.transpose(x=x, perm=[2, 0, 1]), shape=[0, -1])
    y = mb.squeeze(x=mb.expand_dims(x=y, axes=[0, -1]), axes=[0])
    left, right = mb.split(x=mb.tile(x=y, reps=[2, 1, 1]), axis=0, split_sizes=[1, 3])
    joined = mb.concat(values=[left, mb.reverse(x=left, axes=[0])], axis=1, interleave=True)
    padded = mb.pad(x=mb.pad(x=joined, pad=[1, 2, 0, 0], mode="reflect"), pad=[0, 1, 1, 0], constant_val=2.0)
    like = mb.reshape_like(
        x=right, ref_tensors=(real(3, 3), real(1, 4)), begins=(0, 1), ends=(2, 0), end_masks=(False, True)
    )
    sizes = mb.concat(values=[n, mb.shape(x=mb.range_1d(start=1, end=mb.squeeze(x=n), step=2))], axis=0)
    filled = mb.fill(shape=sizes, value=2.5)
    blank = mb.fill_like(ref_tensor=x, value=7)
    stacked = mb.stack(values=[x, mb.cast(x=blank, dtype="fp32")], axis=1)
    return padded, like, filled, mb.band_part(x=stacked, lower=1, upper=0), mb.flatten2d(x=x, axis=2)


def picks(x: Any, n: Any) -> Any:
    part = mb.slice_by_index(x=x, begin=[-3, 4, 0], end=[-1, 0, 0], stride=[1, -2, 1], end_mask=[False, False, True])
    window = mb.slice_by_size(x=x, begin=mb.concat(values=[n, n, n], axis=0), size=[1, 2, -1])
    rows = mb.gather(x=x, indices=n, axis=1)
    batched = mb.gather(x=x, indices=whole(4, 2), axis=2, batch_dims=1)
    points = mb.gather_nd(x=x, indices=whole(3, 2))
    along = mb.gather_along_axis(x=x, indices=whole(4, 2, 6), axis=1)
    order = mb.argsort(x=x, axis=1, ascending=True)
    most, places = mb.topk(x=x, k=2, axis=-1)
    hot = mb.one_hot(indices=n, one_hot_vector_size=5, axis=0, on_value=2.0, off_value=-1.0)
    return part, window, rows, batched, points, along, order, most, places, hot, mb.non_zero(x=mb.round(x=x))


def writes(x: Any, n: Any) -> Any:
    kept = mb.scatter(data=x, indices=n, updates=real(1, 5), axis=0, mode="update")
    kept = mb.scatter_along_axis(data=kept, indices=whole(2, 5), updates=real(2, 5), axis=0, mode="div")
    kept = mb.scatter_nd(data=kept, indices=whole(3, 2), updates=real(3), mode="max")
    return mb.slice_update(x=kept, update=real(2, 2), begin=[0, 1], end=[4, 5], stride=[2, 2])


def rearrangements(x: Any) -> Any:
    """x: [1, 4, 4, 4]."""
    y = mb.pixel_unshuffle(x=mb.pixel_shuffle(x=x, upscale_factor=2), downscale_factor=np.uint32(2))
    y = mb.space_to_depth(x=mb.depth_to_space(x=y, block_size=2), block_size=2)
    y = mb.space_to_batch(x=y, block_shape=[2, 2], paddings=[[0, 0], [1, 1]])
    y = mb.batch_to_space(x=y, block_shape=[2, 2], crops=[[0, 0], [1, 1]])
    windows = mb.sliding_windows(x=y, axis=1, size=2, stride=2)
    turned = mb.reverse_sequence(x=x, lengths=[3], seq_axis=2, batch_axis=0)
    return windows, mb.crop(x=turned, crop_height=[1, 1], crop_width=[0, 2])


def pictures(x: Any) -> Any:
    """x: [1, 2, 4, 5]."""
    where = {"sampling_mode": "bilinear", "padding_mode": "constant", "padding_value": 0.0, "align_corners": True}
    where["coordinates_mode"] = "normalized_minus_one_to_one"
    boxes = np.array([[0, 0, 2, 3], [1, 1, 3, 4]], np.float32)
    scores = mb.reshape(x=mb.slice_by_size(x=x, begin=[0, 0, 0, 0], size=[1, 2, 3, 2]), shape=[1, 2, 6])
    return (
        mb.resize_bilinear(x=x, target_size_height=7, target_size_width=3, sampling_mode="ALIGN_CORNERS"),
        mb.resize_nearest_neighbor(x=x, target_size_height=8, target_size_width=5),
        mb.resize(x=x, shape=[6, 0], resized_dims=np.uint32(2), sampling_mode="UNALIGN_CORNERS"),
        mb.upsample_bilinear(x=x, scale_factor_height=2.0, scale_factor_width=1.5),
        mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=3),
        mb.resample(x=x, coordinates=real(1, 3, 4, 2), **where),
        mb.affine(x=x, transform_matrix=real(1, 6), output_height=3, output_width=2, **where),
        mb.crop_resize(x=x, boxes=boxes, box_indices=[0, 0], target_height=2, target_width=3),
        *mb.non_maximum_suppression(boxes=real(1, 4, 6), scores=scores, iou_threshold=0.5, max_boxes=3),
    )


def recurrences(x: Any, h: Any) -> Any:
    """x: [3, 2, 4]; h: [2, 5]."""
    states, _ = mb.rnn(x=x, initial_h=h, weight_ih=real(5, 4), weight_hh=real(5, 5), bias=real(5), output_sequence=True)
    _, last = mb.gru(
        x=states, initial_h=h, weight_ih=real(15, 5), weight_hh=real(15, 5), bias=real(15), direction="reverse"
    )
    both = mb.concat(values=[last, h], axis=1)
    weights = {f"{name}{back}": real(20, 4 if name == "weight_ih" else 5) for name in ("weight_ih", "weight_hh")
               for back in ("", "_back")}  # fmt: skip
    lstm = mb.lstm(
        x=x, initial_h=both, initial_c=both, **weights, peephole=real(15), direction="bidirectional",
        output_sequence=True, clip=2.0,
    )  # fmt: skip
    return last, *lstm


def dice(x: Any) -> Any:
    """With seeds, so that every run gives the same."""
    return (
        mb.random_normal(shape=[2, 3], mean=1.0, stddev=2.0, seed=1),
        mb.random_uniform(shape=mb.shape(x=x), low=0.0, high=2.0, seed=2),
        mb.random_bernoulli(shape=[4], prob=0.5, seed=3),
        mb.random_categorical(x=x, size=4, seed=4),
    )


def gallery() -> dict[str, tuple[Any, Inputs]]:
    """The programs by name, and what each is run on."""
    three = np.array([3], np.int32)
    parts: dict[str, tuple[Body, Inputs]] = {
        "functions of a number": (functions, {"x": real(2, 3)}),
        "activations": (activations, {"x": real(1, 2, 3, 1)}),
        "arithmetic": (arithmetic, {"n": whole(2, 3)}),
        "reductions": (reductions, {"x": real(2, 3, 4)}),
        "normalisations": (normalisations, {"x": real(1, 3, 4, 4)}),
        "convolutions": (convolutions, {"x": real(1, 3, 6, 7)}),
        "shapes": (shapes, {"x": real(2, 3, 4), "n": three}),
        "picks": (picks, {"x": real(4, 5, 6), "n": three}),
        "writes": (writes, {"x": real(4, 5), "n": three}),
        "rearrangements": (rearrangements, {"x": real(1, 4, 4, 4)}),
        "pictures": (pictures, {"x": real(1, 2, 4, 5)}),
        "recurrences": (recurrences, {"x": real(3, 2, 4), "h": real(2, 5)}),
        "dice": (dice, {"x": real(2, 3)}),
    }
    return {name: (program(inputs, body), inputs) for name, (body, inputs) in parts.items()}
