"""Programs of the kinds that apps ship: a tower, compressed weights, loops, states, classes, pictures, functions."""

from __future__ import annotations

from typing import Any

import coremltools as ct  # type: ignore[import-untyped]
import numpy as np
import torch
import torch.nn.functional as F
from coremltools.converters.mil import Builder as mb  # type: ignore[import-untyped]
from coremltools.converters.mil.mil import types  # type: ignore[import-untyped]

from edgevlm.benchmarks.fuzzing.gallery import Inputs, program, real, whole

MIXED = np.arange(64).reshape(4, 4, 2, 2) % 3 > 0
"""Where a sparse kernel [4, 4, 2, 2] is not zero."""


class Tower(torch.nn.Module):
    """CLIP's vision tower in small: [1, 3, 16, 16] pixels to a unit-norm embedding [1, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 16, 8, 8, bias=False)
        self.begin = torch.nn.Parameter(torch.randn(1, 1, 16))
        self.places = torch.nn.Parameter(torch.randn(1, 5, 16))
        self.before, self.between, self.after = (torch.nn.LayerNorm(16) for _ in range(3))
        self.qkv, self.out = torch.nn.Linear(16, 48), torch.nn.Linear(16, 16)
        self.wide, self.narrow = torch.nn.Linear(16, 32), torch.nn.Linear(32, 16)
        self.head = torch.nn.Linear(16, 8, bias=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.cat((self.begin, self.patches(image).flatten(2).transpose(1, 2)), 1) + self.places
        q, k, v = self.qkv(self.before(x)).reshape(1, 5, 3, 2, 8).permute(2, 0, 3, 1, 4)
        attended = ((q @ k.transpose(-1, -2)) / 8**0.5).softmax(-1) @ v
        x = x + self.out(attended.transpose(1, 2).reshape(1, 5, 16))
        x = x + self.narrow(F.gelu(self.wide(self.between(x))))
        return F.normalize(self.head(self.after(x[:, 0])), dim=-1)


class Stem(torch.nn.Module):
    """A convolution of a picture of any size, and its mean: [1, 3, height, width] to [1, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = torch.nn.Conv2d(3, 4, 3, 2, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return F.hardswish(self.kernel(image)).mean((2, 3))


def _converted(module: torch.nn.Module, example: torch.Tensor, **options: Any) -> Any:
    return ct.convert(
        torch.jit.trace(module.eval(), example),  # type: ignore[no-untyped-call]
        convert_to="mlprogram",
        outputs=[ct.TensorType("embedding")],
        skip_model_load=True,
        **options,
    )


def tower() -> tuple[Any, Inputs]:
    image = torch.randn(1, 3, 16, 16)
    picture = ct.ImageType("image", shape=image.shape, scale=1 / 255)
    model = _converted(Tower(), image, inputs=[picture], minimum_deployment_target=ct.target.iOS17)
    return model, {"image": whole(*image.shape, below=256).astype(np.float32)}


def sizes() -> tuple[Any, Inputs]:
    """A picture of 8 to 64 pixels a side."""
    side = ct.RangeDim(8, 64, default=16)
    picture = ct.ImageType("image", shape=(1, 3, side, side), color_layout=ct.colorlayout.BGR, bias=[-1, -2, -3])
    return _converted(Stem(), torch.randn(1, 3, 16, 16), inputs=[picture]), {"image": real(1, 3, 8, 12).round()}


def lengths() -> tuple[Any, Inputs]:
    """One of three enumerated shapes, with a default."""
    shapes = ct.EnumeratedShapes(shapes=[[1, 3, 8, 8], [1, 3, 8, 12], [1, 3, 16, 8]], default=[1, 3, 8, 8])
    tensor = ct.TensorType("image", shape=shapes)
    model = _converted(Stem(), torch.randn(1, 3, 8, 8), inputs=[tensor])
    return model, {"image": real(1, 3, 8, 12)}


def _kernels(*kernels: Any) -> Any:
    """A net that convolves with one kernel [4, 4, 2, 2] after the other."""

    def body(x: Any) -> Any:
        for kernel in kernels:
            x = mb.relu(x=mb.conv(x=x, weight=kernel(), pad_type="same"))
        return x

    return body


def compressed_older() -> tuple[Any, Inputs]:
    """The compressed weights of iOS 16."""
    shape, masked = np.array([4, 4, 2, 2], np.uint32), np.packbits(MIXED, bitorder="little")
    body = _kernels(
        lambda: mb.constexpr_affine_dequantize(
            quantized_data=whole(4, 4, 2, 2, below=100).astype(np.int8), zero_point=np.array([1, 2, 3, 4], np.int8),
            scale=np.array([0.1, 0.2, 0.3, 0.4], np.float32), axis=0,
        ),
        lambda: mb.constexpr_lut_to_dense(indices=whole(16, below=256).astype(np.uint8), lut=real(4), shape=shape),
        lambda: mb.constexpr_sparse_to_dense(nonzero_data=real(int(MIXED.sum())), mask=masked, shape=shape),
        lambda: mb.constexpr_cast(source_val=real(4, 4, 2, 2).astype(np.float16), output_dtype="fp32"),
    )  # fmt: skip
    inputs = {"x": real(1, 4, 5, 5)}
    return program(inputs, body, ct.target.iOS16), inputs


def compressed_newer() -> tuple[Any, Inputs]:
    """The compressed weights of iOS 18."""
    scale, offset = np.abs(real(4, 2, 1, 1)) + 0.1, whole(4, 2, 1, 1).astype(types.np_int4_dtype)
    values = whole(int(MIXED.sum()), below=8).astype(types.np_int4_dtype)
    keys = whole(4, 4, 2, 2).astype(types.np_uint2_dtype)
    there = MIXED.astype(np.uint8).astype(types.np_uint1_dtype)

    def sparse() -> Any:
        mask, found = mb.constexpr_sparse_blockwise_shift_scale(
            data_mask=there, nonzero_data=values, scale=scale, offset=offset
        )
        return mb.constexpr_sparse_to_dense(nonzero_data=found, mask=mask)

    def table() -> Any:
        chosen = whole(int(MIXED.sum()), below=2).astype(types.np_uint1_dtype)
        mask, found = mb.constexpr_lut_to_sparse(
            indices_mask=there, indices_nonzero_data=chosen, lut=real(1, 1, 1, 1, 2, 1)
        )
        return mb.constexpr_sparse_to_dense(nonzero_data=found, mask=mask)

    body = _kernels(
        lambda: mb.constexpr_blockwise_shift_scale(
            data=whole(4, 4, 2, 2, below=8).astype(types.np_int4_dtype), scale=scale, offset=offset
        ),
        lambda: mb.constexpr_lut_to_dense(indices=keys, lut=real(2, 1, 1, 1, 4, 1)),
        lambda: mb.constexpr_lut_to_dense(indices=keys[:2], lut=real(1, 1, 1, 1, 4, 2), vector_axis=0),
        sparse,
        table,
    )
    inputs = {"x": real(1, 4, 5, 5)}
    return program(inputs, body), inputs


def control() -> tuple[Any, Inputs]:
    """A branch, loops in a loop, and a list that a loop fills."""

    def grown(made: Any, i: Any, total: Any) -> Any:
        def inner(total: Any, j: Any) -> Any:
            return mb.add(x=total, y=mb.mul(x=i, y=j)), mb.add(x=j, y=1)

        total, _ = mb.while_loop(
            _cond=lambda total, j: mb.less(x=j, y=i), _body=inner, loop_vars=(total, mb.sub(x=i, y=i))
        )
        row = mb.cast(x=mb.stack(values=[i, total], axis=0), dtype="fp32")
        return mb.list_write(ls=made, index=i, value=row), mb.add(x=i, y=1), total

    def body(x: Any, n: Any) -> Any:
        count = mb.squeeze(x=n)
        nought = mb.sub(x=count, y=count)
        made = mb.make_list(init_length=2, elem_shape=(2,), dynamic_length=True)
        made, _, total = mb.while_loop(
            _cond=lambda made, i, total: mb.less(x=i, y=count), _body=grown, loop_vars=(made, nought, nought)
        )
        made = mb.list_scatter(ls=made, indices=[1, 0], value=real(2, 2))
        big = mb.greater(x=total, y=2)
        y = mb.cond(pred=big, _true_fn=lambda: mb.mul(x=x, y=2.0), _false_fn=lambda: x)
        return y, mb.list_gather(ls=made, indices=[1, 0]), mb.list_read(ls=made, index=0), mb.list_length(ls=made)

    inputs = {"x": real(2), "n": np.array([3], np.int32)}
    return program(inputs, body), inputs


def state() -> tuple[Any, Inputs]:
    """Adds what it is given to what it remembers."""

    @mb.program(
        input_specs=[mb.TensorSpec((2, 3), dtype=types.fp16), mb.StateTensorSpec((2, 3), dtype=types.fp16)],
        opset_version=ct.target.iOS18,
    )  # type: ignore[untyped-decorator]
    def remember(x: Any, memory: Any) -> Any:
        before = mb.read_state(input=memory)
        after = mb.coreml_update_state(state=memory, value=mb.add(x=mb.tanh(x=before), y=x))
        return mb.exp(x=before, name="before"), mb.add(x=after, y=after, name="after")

    model = ct.convert(remember, minimum_deployment_target=ct.target.iOS18, skip_model_load=True)
    return model, {"x": real(2, 3)}


def classes(labels: list[Any]) -> tuple[Any, Inputs]:
    @mb.program(input_specs=[mb.TensorSpec((1, 4))], opset_version=ct.target.iOS16)  # type: ignore[untyped-decorator]
    def classify(x: Any) -> Any:
        return mb.softmax(x=mb.linear(x=x, weight=real(3, 4)), name="shares")

    model = ct.convert(
        classify,
        minimum_deployment_target=ct.target.iOS16,
        classifier_config=ct.ClassifierConfig(labels, predicted_feature_name="what"),
        skip_model_load=True,
    )
    return model, {"x": real(1, 4)}


def functions() -> dict[str, tuple[Any, Inputs]]:
    """Two that go into one package, sharing their weights."""
    inputs, weight = {"x": real(2, 32)}, real(8, 32)
    return {
        "first": (program(inputs, lambda x: mb.linear(x=x, weight=weight)), inputs),
        "second": (program(inputs, lambda x: mb.tanh(x=mb.linear(x=x, weight=weight))), inputs),
    }


def models() -> dict[str, tuple[Any, Inputs]]:
    """The programs by name, and what each is run on."""
    torch.manual_seed(0)
    return {
        "tower": tower(),
        "sizes": sizes(),
        "lengths": lengths(),
        "older weights": compressed_older(),
        "newer weights": compressed_newer(),
        "branches and loops": control(),
        "state": state(),
        "texts": classes(["cat", "dog", "owl"]),
        "numbers": classes([10, 20, 30]),
    }
