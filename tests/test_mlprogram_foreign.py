"""Packages as others make them: plain `ct.convert`, and models of kinds that this project does not contain."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.optimize import coreml as cto
from foreign_models import (
    Decoder,
    Detector,
    FixedDecoder,
    GrowingDecoder,
    Look,
    Mixture,
    PhoneNet,
    Pyramid,
    Recurrent,
    Swin,
    UNet,
    lively,
)
from mlprograms import Array, save
from PIL import Image
from torch import Tensor, nn

from edgevlm.errors import TensorError
from edgevlm.runtimes.mlprogram.evaluator import MLProgram

pytestmark = pytest.mark.apple

torch.set_num_threads(1)

Route = Literal["trace", "export", "core export"]
"""How coremltools gets a module: as TorchScript, or exported, decomposed into core ATen or not at all."""

EXACT = 1e-5
"""Largest error of an fp32 program, relative to the largest answer: coremltools' own passes leave up to 7e-6."""
FROM_HALVES = 3e-3
"""Likewise of an fp16 program whose results are not rounded: its weights are."""


@dataclass(frozen=True)
class Network:
    """A module to convert.

    Attributes:
        inputs: Its inputs by name.
        rounded: The largest error that rounding every result to fp16 may make, relative to the largest answer.
        routes: Those that coremltools 9.0 has converters for.
    """

    build: Callable[[], nn.Module]
    inputs: Mapping[str, Tensor]
    rounded: float
    routes: tuple[Route, ...] = ("trace", "export")


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


# The export route has no converter for whole recurrent layers; core ATen has them a step at a time. It has rolls as
# `fmod` of indices, which lacks one in turn.
NETWORKS = {
    "phone": Network(PhoneNet, {"image": drawn(1, 3, 32, 32)}, 4e-3, ("trace", "export", "core export")),
    "u-net": Network(UNet, {"picture": drawn(1, 2, 24, 20)}, 4e-3, ("trace", "export", "core export")),
    "lstm": Network(lambda: Recurrent("lstm"), {"sequence": drawn(2, 3, 5)}, 2e-3, ("trace", "core export")),
    "gru": Network(lambda: Recurrent("gru"), {"sequence": drawn(2, 3, 5)}, 3e-3, ("trace", "core export")),
    "swin": Network(Swin, {"image": drawn(1, 3, 32, 32)}, 4e-3),
    "detector": Network(Detector, {"image": drawn(1, 3, 32, 32)}, 4e-3, ("trace", "export", "core export")),
}


@functools.cache
def module(name: str) -> nn.Module:
    return lively(NETWORKS[name].build())


@functools.cache
def captured(name: str, route: Route) -> Any:
    return capture(module(name), tuple(NETWORKS[name].inputs.values()), route)


def capture(module: nn.Module, example: tuple[Tensor, ...], route: Route, **options: Any) -> Any:
    if route == "trace":
        return torch.jit.trace(module, example, check_trace=False)
    exported = torch.export.export(module, example, strict=False, **options)
    return exported.run_decompositions({} if route == "export" else None)


def convert(source: Any, *, opset: str, fp16: bool, outputs: Sequence[ct.TensorType] = (), **options: Any) -> Any:
    return ct.convert(
        source,
        convert_to="mlprogram",
        minimum_deployment_target=getattr(ct.target, opset),
        compute_precision=ct.precision.FLOAT16 if fp16 else ct.precision.FLOAT32,
        outputs=list(outputs) or None,
        skip_model_load=True,
        **options,
    )


def described(tensors: Mapping[str, Tensor]) -> list[ct.TensorType]:
    """Tensors as coremltools wants inputs and outputs described."""
    return [
        ct.TensorType(name, tensor.shape, dtype=np.float32 if tensor.is_floating_point() else np.int32)
        for name, tensor in tensors.items()
    ]


def answers(module: nn.Module, *inputs: Tensor) -> list[Array]:
    with torch.no_grad():
        found = module(*inputs)
    return [each.numpy().copy() for each in (found if isinstance(found, tuple) else (found,))]


def assert_close(got: Mapping[str, Any], wanted: Sequence[Array], limit: float) -> None:
    """Each answer within `limit` of its largest value; whole numbers are equal."""
    for name, want in zip(got, wanted, strict=True):
        assert got[name].shape == want.shape, name
        bound = limit * np.abs(want).max() if want.dtype.kind == "f" else 0
        assert np.abs(got[name] - want).max() <= bound, name


def arrays(tensors: Mapping[str, Tensor]) -> dict[str, Array]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


# The opset decides which ops there are; the route, how the model is put in words. One network meets every opset, and
# each of the others another one.
OPSETS = ("iOS15", "iOS16", "iOS17", "iOS18", "iOS26")
CONVERSIONS = [
    *(("phone", "trace", opset) for opset in OPSETS),
    *(
        (name, "trace", opset)
        for name, opset in zip([name for name in NETWORKS if name != "phone"], OPSETS, strict=True)
    ),
    *((name, "export", "iOS18") for name, network in NETWORKS.items() if "export" in network.routes),
    *((name, "core export", "iOS17") for name, network in NETWORKS.items() if "core export" in network.routes),
]
QUICK = [("phone", "trace", "iOS15"), ("detector", "export", "iOS18")]


@pytest.mark.parametrize(
    ("name", "route", "opset"),
    [pytest.param(*each, id="-".join(each), marks=() if each in QUICK else pytest.mark.slow) for each in CONVERSIONS],
)
def test_a_converted_network_answers_as_in_torch(name: str, route: Route, opset: str, tmp_path: Path) -> None:
    network = NETWORKS[name]
    wanted = answers(module(name), *network.inputs.values())
    outputs = [
        ct.TensorType(f"out{i}", dtype=np.float32 if each.dtype.kind == "f" else np.int32)
        for i, each in enumerate(wanted)
    ]
    inputs = {"inputs": described(network.inputs)} if route == "trace" else {}
    for fp16, precision, limit in (
        (False, "declared", EXACT),
        (True, "fp32", FROM_HALVES),
        (True, "declared", network.rounded),
    ):
        path = tmp_path / f"{'fp16' if fp16 else 'fp32'}.mlpackage"
        if not path.exists():
            save(convert(captured(name, route), opset=opset, fp16=fp16, outputs=outputs, **inputs), path)
        assert_close(MLProgram.open(path, precision=precision).predict(arrays(network.inputs)), wanted, limit)


def growing_steps() -> Iterator[dict[str, Tensor]]:
    """A prompt of four tokens, then one at a time, then three; what is ahead is masked."""
    generator, end = torch.Generator().manual_seed(2), 0
    for count in (4, 1, 1, 3):
        end += count
        mask = torch.full((count, end), -1e4).triu(end - count + 1)[None, None]
        yield {"tokens": torch.randint(0, 11, (1, count), generator=generator, dtype=torch.int32), "mask": mask}


def fixed_steps() -> Iterator[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    for place in range(5):
        token = torch.randint(0, 11, (1, 1), generator=generator, dtype=torch.int32)
        yield {"token": token, "place": torch.tensor([place], dtype=torch.int32)}


def shapes_of(decoder: Decoder, route: Route) -> dict[str, Any]:
    """How a route is told which sizes vary: to `ct.convert` for a trace, else to torch."""
    if isinstance(decoder, FixedDecoder):
        return {"inputs": described(next(fixed_steps()))} if route == "trace" else {}
    if route == "trace":
        new, known = (ct.RangeDim(1, decoder.CONTEXT, default=1) for _ in range(2))
        tokens = ct.TensorType("tokens", (1, new), dtype=np.int32)
        return {"inputs": [tokens, ct.TensorType("mask", (1, 1, new, known), dtype=np.float32)]}
    # One below the context: torch would treat a slice that is the whole as a case of its own.
    new, known = (torch.export.Dim(name, min=1, max=decoder.CONTEXT - 1) for name in ("new", "known"))
    return {"dynamic_shapes": {"tokens": {1: new}, "mask": {2: new, 3: known}}}


@pytest.mark.slow
@pytest.mark.parametrize("route", ["trace", "export"])
@pytest.mark.parametrize(("build", "make_steps"), [(GrowingDecoder, growing_steps), (FixedDecoder, fixed_steps)])
def test_a_decoder_keeps_its_keys_and_values(
    build: Callable[[], Decoder], make_steps: Callable[[], Iterator[dict[str, Tensor]]], route: Route, tmp_path: Path
) -> None:
    decoder, steps = lively(build()), list(make_steps())
    shapes = shapes_of(decoder, route)
    if route == "trace":  # the export route finds states by itself
        shapes["states"] = [
            ct.StateType(ct.TensorType(shape=decoder.keys.shape, dtype=np.float16), name) for name in ("keys", "values")
        ]
    options = {"dynamic_shapes": shapes.pop("dynamic_shapes")} if "dynamic_shapes" in shapes else {}
    source = capture(decoder, tuple(steps[0].values()), route, **options)
    decoder.clear()
    wanted = [answers(decoder, *step.values()) for step in steps]
    outputs = [ct.TensorType("logits", dtype=np.float32)]
    # States are always fp16, so that an fp32 program is exact only if they are not rounded.
    for fp16, precision, limit in (
        (False, "fp32", EXACT),
        (False, "declared", 2e-3),
        (True, "fp32", 2 * FROM_HALVES),
        (True, "declared", 1e-2),
    ):
        path = tmp_path / f"{'fp16' if fp16 else 'fp32'}.mlpackage"
        if not path.exists():
            save(convert(source, opset="iOS18", fp16=fp16, outputs=outputs, **shapes), path)
        program = MLProgram.open(path, precision=precision)
        state = program.make_state()
        for step, want in zip(steps, wanted, strict=True):
            assert_close(program.predict(arrays(step), state), want, limit)
        for kept in program.states:
            expected = decoder.keys if "keys" in kept.name else decoder.values
            assert_close({kept.name: state.read_state(kept.name)}, [expected.numpy()], limit + 2**-10)
        # Without its state it has read nothing, and answers the last step otherwise.
        forgetful = program.predict(arrays(steps[-1]))["logits"]
        assert np.abs(forgetful - wanted[-1][0]).max() > 0.1 * np.abs(wanted[-1][0]).max()


@pytest.mark.parametrize("route", ["trace", pytest.param("export", marks=pytest.mark.slow)])
def test_sizes_within_a_range(route: Route, tmp_path: Path) -> None:
    pyramid, example = lively(Pyramid()), drawn(1, 3, 16, 24)
    if route == "trace":
        high, wide = ct.RangeDim(8, 32, default=16), ct.RangeDim(8, 48, default=24)
        source = capture(pyramid, (example,), route)
        model = convert(
            source, opset="iOS16", fp16=False, inputs=[ct.TensorType("picture", (1, 3, high, wide), dtype=np.float32)]
        )
    else:
        sizes = {2: torch.export.Dim("high", min=8, max=32), 3: torch.export.Dim("wide", min=8, max=48)}
        model = convert(capture(pyramid, (example,), route, dynamic_shapes=(sizes,)), opset="iOS17", fp16=False)
    program = MLProgram.open(save(model, tmp_path / "p.mlpackage"))
    for high, wide in ((16, 24), (8, 48), (32, 8)):
        picture = drawn(1, 3, high, wide)
        assert_close(program.predict({"picture": picture.numpy()}), answers(pyramid, picture), EXACT)
    with pytest.raises(TensorError, match=r"'picture': expected \[1, 3, 8 to 32, 8 to 48\], got \[1, 3, 36, 24\]"):
        program.predict({"picture": drawn(1, 3, 36, 24).numpy()})


def test_shapes_to_choose_from(tmp_path: Path) -> None:
    pyramid, shapes = lively(Pyramid()), ((1, 3, 16, 24), (1, 3, 32, 32), (1, 3, 8, 48))
    source = capture(pyramid, (drawn(*shapes[0]),), "trace")
    for opset, fp16, limit in (("iOS15", False, EXACT), ("iOS18", True, FROM_HALVES)):
        picture = ct.TensorType("picture", ct.EnumeratedShapes(shapes, default=shapes[1]), dtype=np.float32)
        model = convert(
            source, opset=opset, fp16=fp16, inputs=[picture], outputs=[ct.TensorType("seen", dtype=np.float32)]
        )
        program = MLProgram.open(save(model, tmp_path / f"{opset}.mlpackage"), precision="fp32")
        assert set(program.inputs[0].choices) == set(shapes)
        assert program.inputs[0].example == shapes[1]
        for shape in shapes:
            x = drawn(*shape)
            assert_close(program.predict({"picture": x.numpy()}), answers(pyramid, x), limit)
        with pytest.raises(TensorError, match=r"got \[1, 3, 16, 32\]"):
            program.predict({"picture": drawn(1, 3, 16, 32).numpy()})


HIGH, WIDE = 9, 14
RGB = np.random.default_rng(0).integers(0, 256, (HIGH, WIDE, 3), dtype=np.uint8)
PICTURES = {
    "rgb": (ct.colorlayout.RGB, Image.fromarray(RGB), RGB.transpose(2, 0, 1)),
    "bgr": (ct.colorlayout.BGR, Image.fromarray(RGB), RGB[..., ::-1].transpose(2, 0, 1)),
    "grey": (ct.colorlayout.GRAYSCALE, Image.fromarray(RGB[..., 0]), RGB[..., :1].transpose(2, 0, 1)),
    # Its pixels are half floats: fractions, and more than 255.
    "grey fp16": (
        ct.colorlayout.GRAYSCALE_FLOAT16,
        Image.fromarray(RGB[..., 0].astype(np.float32) * 1.5 + 0.25),
        RGB[None, ..., 0] * 1.5 + 0.25,
    ),
}


@pytest.mark.parametrize("fp16", [False, True])
@pytest.mark.parametrize("kind", PICTURES)
def test_a_picture_is_scaled_and_shifted(kind: str, fp16: bool, tmp_path: Path) -> None:
    layout, picture, planes = PICTURES[kind]
    look = lively(Look(len(planes)))
    bias = [-0.9, -1.0, -1.2] if len(planes) == 3 else -0.9  # in the order in which the graph has its channels
    described = ct.ImageType("picture", (1, len(planes), HIGH, WIDE), scale=1 / 127.5, bias=bias, color_layout=layout)
    source = capture(look, (torch.zeros(1, len(planes), HIGH, WIDE),), "trace")
    model = convert(
        source, opset="iOS16", fp16=fp16, inputs=[described], outputs=[ct.TensorType("seen", dtype=np.float32)]
    )
    scaled = planes[None] / 127.5 + np.reshape(bias, (1, -1, 1, 1))
    wanted = answers(look, torch.from_numpy(scaled.astype(np.float32)))
    path = save(model, tmp_path / "p.mlpackage")
    for precision in ("declared", "fp32"):
        program = MLProgram.open(path, precision=precision)
        assert program.inputs[0].image == kind
        assert_close(
            program.predict({"picture": picture}), wanted, FROM_HALVES if fp16 or kind == "grey fp16" else EXACT
        )


@pytest.mark.slow
def test_functions_that_share_weights(tmp_path: Path) -> None:
    one, other = lively(PhoneNet()), lively(PhoneNet())
    lively(other.head, seed=5)
    image = drawn(1, 3, 32, 32)
    descriptor = ct.utils.MultiFunctionDescriptor()
    for name, network in (("one", one), ("other", other)):
        path = save(
            convert(capture(network, (image,), "export"), opset="iOS18", fp16=False), tmp_path / f"{name}.mlpackage"
        )
        descriptor.add_function(str(path), src_function_name="main", target_function_name=name)
    descriptor.default_function_name = "other"
    both = tmp_path / "both.mlpackage"
    ct.utils.save_multifunction(descriptor, str(both))
    weights = "Data/com.apple.CoreML/weights/weight.bin"
    assert (both / weights).stat().st_size < 1.2 * (path / weights).stat().st_size
    assert MLProgram.functions(both) == ("other", "one")
    for name, network in (("one", one), ("other", other), (None, other)):
        program = MLProgram.open(both, function=name)
        assert_close(program.predict({"image": image.numpy()}), answers(network, image), EXACT)


@pytest.mark.parametrize(("opset", "route"), [("iOS15", "trace"), ("iOS18", "export")])
@pytest.mark.parametrize("labels", [[f"class {i}" for i in range(7)], list(range(10, 17))])
def test_a_classifier_names_its_class(labels: list[Any], opset: str, route: Route, tmp_path: Path) -> None:
    network, image = module("phone"), NETWORKS["phone"].inputs["image"]
    model = convert(
        captured("phone", route),
        opset=opset,
        fp16=False,
        classifier_config=ct.ClassifierConfig(labels, predicted_feature_name="kind"),
        **({"inputs": described({"image": image})} if route == "trace" else {}),
    )
    answer = MLProgram.open(save(model, tmp_path / "p.mlpackage")).predict({"image": image.numpy()})
    (wanted,) = answers(network, image)
    assert answer.pop("kind") == labels[int(wanted.argmax())]
    (probabilities,) = answer.values()
    assert list(probabilities) == labels
    np.testing.assert_allclose(list(probabilities.values()), wanted[0], atol=EXACT)


def linear(mm: Any, *, joint: bool = False, **options: Any) -> Any:
    config = cto.OptimizationConfig(cto.OpLinearQuantizerConfig(weight_threshold=100, **options))
    return cto.linear_quantize_weights(mm, config, joint_compression=joint)


def palette(mm: Any, *, joint: bool = False, **options: Any) -> Any:
    config = cto.OptimizationConfig(cto.OpPalettizerConfig(weight_threshold=100, **options))
    return cto.palettize_weights(mm, config, joint_compression=joint)


def pruned(mm: Any, **options: Any) -> Any:
    return cto.prune_weights(mm, cto.OptimizationConfig(cto.OpMagnitudePrunerConfig(weight_threshold=100, **options)))


def half_of(mm: Any) -> Any:
    return pruned(mm, target_sparsity=0.5)


KMEANS: dict[str, Any] = {"mode": "kmeans", "granularity": "per_grouped_channel", "group_size": 8}
BLOCKS: dict[str, Any] = {"granularity": "per_block", "block_size": 16}
COMPRESSIONS: dict[str, tuple[str, Callable[[Any], Any], set[str]]] = {
    "int8": ("iOS16", lambda mm: linear(mm, mode="linear_symmetric"), {"affine_dequantize"}),
    "uint8 asymmetric": ("iOS16", lambda mm: linear(mm, mode="linear", dtype="uint8"), {"affine_dequantize"}),
    "int8 asymmetric": ("iOS18", lambda mm: linear(mm, mode="linear"), {"blockwise_shift_scale"}),
    "int4 blocks": (
        "iOS18",
        lambda mm: linear(mm, mode="linear_symmetric", dtype="int4", **BLOCKS),
        {"blockwise_shift_scale"},
    ),
    "uint4 asymmetric blocks": (
        "iOS18",
        lambda mm: linear(mm, mode="linear", dtype="uint4", **BLOCKS),
        {"blockwise_shift_scale"},
    ),
    "palette of 64": ("iOS16", lambda mm: palette(mm, mode="uniform", nbits=6), {"lut_to_dense"}),
    "palette of 2": ("iOS16", lambda mm: palette(mm, mode="kmeans", nbits=1), {"lut_to_dense"}),
    "palettes of 8 by group": ("iOS18", lambda mm: palette(mm, nbits=3, **KMEANS), {"lut_to_dense"}),
    "scaled palettes": (
        "iOS18",
        lambda mm: palette(mm, nbits=4, enable_per_channel_scale=True, **KMEANS),
        {"lut_to_dense", "blockwise_shift_scale"},
    ),
    "palettes of vectors": ("iOS18", lambda mm: palette(mm, nbits=2, cluster_dim=4, **KMEANS), {"lut_to_dense"}),
    "pruned, iOS16": ("iOS16", half_of, {"sparse_to_dense"}),
    "pruned, iOS18": ("iOS18", half_of, {"sparse_to_dense"}),
    "pruned 2 of 4": ("iOS16", lambda mm: pruned(mm, n_m_ratio=(2, 4)), {"sparse_to_dense"}),
    "pruned and int8": (
        "iOS18",
        lambda mm: linear(half_of(mm), joint=True, mode="linear_symmetric"),
        {"sparse_to_dense", "sparse_blockwise_shift_scale"},
    ),
    "pruned and a palette": (
        "iOS18",
        lambda mm: palette(half_of(mm), joint=True, mode="kmeans", nbits=4),
        {"sparse_to_dense", "lut_to_sparse"},
    ),
    "pruned and a palette of int8": (
        "iOS18",
        lambda mm: linear(
            palette(half_of(mm), joint=True, mode="kmeans", nbits=4),
            joint=True,
            mode="linear_symmetric",
            granularity="per_tensor",
        ),
        {"sparse_to_dense", "lut_to_sparse", "blockwise_shift_scale"},
    ),
}
MIXTURE = {
    "image": drawn(1, 3, 16, 16),
    "tokens": torch.tensor([[3, 0, 47, 12, 30]], dtype=torch.int32),
}


@functools.cache
def mixture(opset: str) -> Any:
    """In fp16 for iOS 18; before that, fp16 leaves few weights that are compressed."""
    source = capture(lively(Mixture()), tuple(MIXTURE.values()), "trace")
    outputs = [ct.TensorType("states", dtype=np.float32)]
    return convert(source, opset=opset, fp16=opset == "iOS18", inputs=described(MIXTURE), outputs=outputs)


@pytest.mark.parametrize(
    "compression",
    [
        pytest.param(each, marks=() if each in ("int8", "palette of 2", "pruned, iOS16") else pytest.mark.slow)
        for each in COMPRESSIONS
    ],
)
def test_compressed_weights_are_those_that_coremltools_restores(compression: str, tmp_path: Path) -> None:
    opset, compress, kinds = COMPRESSIONS[compression]
    compressed = compress(mixture(opset))
    models = {"whole": mixture(opset), "compressed": compressed, "restored": cto.decompress_weights(compressed)}
    packages = [save(model, tmp_path / f"{name}.mlpackage") for name, model in models.items()]
    for precision in ("declared", "fp32"):
        programs = [MLProgram.open(package, precision=precision) for package in packages]
        found = {count.kind for count in programs[1].op_counts() if count.kind.startswith("constexpr_")}
        assert found == {f"constexpr_{kind}" for kind in kinds}
        whole, got, restored = (program.predict(arrays(MIXTURE))["states"] for program in programs)
        assert np.abs(got - restored).max() <= 1e-6
        assert np.abs(got - whole).max() > 1e-3
