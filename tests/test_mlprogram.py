"""Whole models on the ML Program evaluator, faults that it must show, and packages that it must refuse."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checkpoints import write_clip_checkpoint, write_siglip_checkpoint
from coremltools.converters.mil import Builder as mb
from mlprograms import Array, convert, save, write_program
from PIL import Image

from edgevlm.benchmarks.measuring import resident_mb
from edgevlm.errors import BundleError, InputError, TensorError, UnsupportedError
from edgevlm.runtimes.mlprogram.evaluator import Feature, MLProgram

torch.set_num_threads(1)


class Tower(torch.nn.Module):
    """A transformers tower that answers unit-norm embeddings."""

    def __init__(self, model: torch.nn.Module, kind: str) -> None:
        super().__init__()
        self.model = model
        self.kind = kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.model.get_text_features(x) if self.kind == "text" else self.model.get_image_features(x)
        return F.normalize(features.pooler_output, dim=-1)


class ConvStem(torch.nn.Module):
    """A small hybrid: strided and depthwise convolutions, squeeze-and-excite, pooling, then attention."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3, 2, 1, bias=False),
            torch.nn.BatchNorm2d(16),
            torch.nn.Hardswish(),
            torch.nn.Conv2d(16, 16, 3, 1, 1, groups=16),
            torch.nn.GELU(),
            torch.nn.Conv2d(16, 32, 3, 2, 1),
            torch.nn.SiLU(),
        )
        self.gate = torch.nn.Conv2d(32, 32, 1)
        self.layer = torch.nn.TransformerEncoderLayer(32, 4, 64, activation="gelu", batch_first=True, norm_first=True)
        self.head = torch.nn.Linear(32, 24)
        self.stem[1].running_mean.normal_()
        self.stem[1].running_var.uniform_(0.5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x * torch.sigmoid(self.gate(F.adaptive_avg_pool2d(x, 1)))
        x = F.avg_pool2d(x, 2) + F.max_pool2d(x, 2, 2)
        x = self.layer(x.flatten(2).transpose(1, 2))
        return F.normalize(self.head(x.mean(1)), dim=-1)


@dataclass(frozen=True)
class Reference:
    """A module, an input, and the module's packages in both precisions."""

    name: str
    module: torch.nn.Module
    x: torch.Tensor
    packages: Mapping[str, Path]

    def answer(self, *, weights: torch.dtype = torch.float32) -> Array:
        module = copy.deepcopy(self.module)
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(weights).float()
        with torch.no_grad():
            return module(self.x).numpy()


TOWERS = [
    "clip text",
    "conv stem",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("clip vision", "siglip text", "siglip vision")),
]


@pytest.fixture(scope="module", params=TOWERS)
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("model")
    family, kind = request.param.split()
    torch.manual_seed(0)
    if family == "conv":
        module: torch.nn.Module = ConvStem().eval()
        x = torch.randn(1, 3, 32, 32)
    else:
        from transformers import CLIPModel, SiglipModel

        write, model_class = {
            "clip": (write_clip_checkpoint, CLIPModel),
            "siglip": (write_siglip_checkpoint, SiglipModel),
        }[family]
        module = Tower(model_class.from_pretrained(write(folder / "checkpoint")), kind).eval()
        length = module.model.config.text_config.max_position_embeddings
        x = torch.randint(1, 60, (1, length), dtype=torch.int32) if kind == "text" else torch.randn(1, 3, 32, 32)
    # torch's fused attention kernels take layouts that the converter does not know
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        packages = {
            name: save(convert(module, (x,), fp16=name == "fp16"), folder / f"{name}.mlpackage")
            for name in ("fp32", "fp16")
        }
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return Reference(request.param, module, x, packages)


def embed(package: Path, x: torch.Tensor, **options: Any) -> Array:
    program = MLProgram.open(package, **options)
    return program.predict({program.inputs[0].name: x.numpy()})["embedding"]


def cosine(a: Array, b: Array) -> float:
    return float((a.astype(np.float64) * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


def test_fp32_program_equals_torch(reference: Reference) -> None:
    assert np.abs(embed(reference.packages["fp32"], reference.x) - reference.answer()).max() <= 1e-5


def test_fp16_program_stays_close_to_torch(reference: Reference) -> None:
    # Amplified weights amplify rounding as well: over five texts this tower's cosine ran from 0.99985 to 0.999997.
    limit = 0.9998 if reference.name == "siglip text" else 0.9999
    assert cosine(embed(reference.packages["fp16"], reference.x), reference.answer()) >= limit


def test_fp16_program_in_fp32_arithmetic_equals_torch_with_fp16_weights(reference: Reference) -> None:
    exact = embed(reference.packages["fp16"], reference.x, precision="fp32")
    # Where the converter folds constants (a pooling probe into its weights, batch norm into a convolution), it does so
    # before it rounds, and torch here after.
    limit = 1e-3 if reference.name in ("siglip vision", "conv stem") else 2e-5
    assert np.abs(exact - reference.answer(weights=torch.float16)).max() <= limit


def test_op_counts_tell_kinds_and_result_types(reference: Reference) -> None:
    counts = MLProgram.open(reference.packages["fp16"]).op_counts()
    assert {each.runs_on for each in counts} == {"evaluator"}
    assert sum(each.count for each in counts if each.kind == "softmax" and each.dtype == "fp16") >= 1
    assert "const" not in {each.kind for each in counts}
    assert sum(each.count for each in counts if each.dtype == "fp32") == 1  # the cast of the result


def int_value(number: int) -> Any:
    from coremltools.proto import MIL_pb2

    value = MIL_pb2.Value()
    value.type.tensorType.dataType = MIL_pb2.INT32
    value.immediateValue.tensor.ints.values.append(number)
    return value


def text_value(text: str) -> Any:
    from coremltools.proto import MIL_pb2

    value = MIL_pb2.Value()
    value.type.tensorType.dataType = MIL_pb2.STRING
    value.immediateValue.tensor.strings.values.append(text)
    return value


def softmax_over_queries(block: Any) -> None:
    for operation in block.operations:
        if operation.type == "softmax":
            operation.inputs["axis"].arguments[0].value.CopyFrom(int_value(-2))


def other_gelu(block: Any) -> None:
    for operation in block.operations:
        if operation.type == "gelu":
            operation.inputs["mode"].arguments[0].value.CopyFrom(text_value("SIGMOID_APPROXIMATION"))


def residual_from_the_branch_alone(block: Any) -> None:
    additions = [operation for operation in block.operations if operation.type == "add"]
    additions[-1].inputs["x"].CopyFrom(additions[-1].inputs["y"])


@pytest.fixture(scope="module")
def siglip_vision(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, torch.Tensor]:
    from transformers import SiglipModel

    model = SiglipModel.from_pretrained(write_siglip_checkpoint(tmp_path_factory.mktemp("siglip")))
    torch.manual_seed(0)
    x = torch.randn(1, 3, 32, 32)
    return convert(VisionLayers(model).eval(), (x,), fp16=False), x


class VisionLayers(torch.nn.Module):
    """SigLIP's encoder without its pooling head, so that every attention map in it is square."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.embeddings = model.vision_model.embeddings
        self.encoder = model.vision_model.encoder

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.encoder(inputs_embeds=self.embeddings(x)).last_hidden_state.mean(1), dim=-1)


@pytest.mark.parametrize(
    ("fault", "visible"),
    [(softmax_over_queries, 0.999), (residual_from_the_branch_alone, 0.999), (other_gelu, 0.99999)],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_planted_fault_shows(
    fault: Callable[[Any], None], visible: float, siglip_vision: tuple[Any, torch.Tensor], tmp_path: Path
) -> None:
    model, x = siglip_vision
    sound = embed(save(model, tmp_path / "sound.mlpackage"), x)
    assert cosine(embed(save(model, tmp_path / "faulty.mlpackage", fault), x), sound) < visible


@pytest.mark.parametrize(
    ("layout", "shape", "channels"),
    [
        (ct.colorlayout.RGB, (1, 3, 4, 6), [0, 1, 2]),
        (ct.colorlayout.BGR, (1, 3, 4, 6), [2, 1, 0]),
        (ct.colorlayout.GRAYSCALE, (1, 1, 4, 6), [0]),
    ],
)
def test_picture_inputs_take_rgb_pixels(
    layout: Any, shape: tuple[int, ...], channels: list[int], tmp_path: Path
) -> None:
    class Scaled(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return (image - 100) * torch.tensor([1.0, 2.0, 3.0][: image.shape[1]]).reshape(1, -1, 1, 1)

    picture = ct.ImageType("image", shape=shape, color_layout=layout, scale=1 / 255)
    model = convert(Scaled(), (torch.rand(shape),), fp16=False, inputs=[picture])
    program = MLProgram.open(save(model, tmp_path / "p.mlpackage"))
    (feature,) = program.inputs
    assert (feature.name, feature.dtype, feature.shape) == ("image", "fp32", shape)
    assert feature.image == {1: "grey", 3: "rgb" if channels[0] == 0 else "bgr"}[shape[1]]
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)
    weights = np.array([1, 2, 3][: shape[1]]).reshape(1, -1, 1, 1)
    expected = (pixels[:, channels] / 255 - 100) * weights
    np.testing.assert_allclose(program.predict({"image": pixels})["embedding"], expected, rtol=1e-5)


def test_a_grey_picture_of_halves_keeps_its_fractions(tmp_path: Path) -> None:
    picture = ct.ImageType("image", shape=(1, 1, 2, 2), color_layout=ct.colorlayout.GRAYSCALE_FLOAT16)
    identity = convert(torch.nn.LeakyReLU(0.5), (torch.ones(1, 1, 2, 2),), fp16=True, inputs=[picture])
    program = MLProgram.open(save(identity, tmp_path / "p.mlpackage"))
    assert program.inputs[0].image == "grey fp16"
    pixels = np.array([[0.25, 300.5], [1 / 3, -2]], np.float32)
    (answer,) = program.predict({program.inputs[0].name: Image.fromarray(pixels)}).values()
    np.testing.assert_array_equal(answer, [[[[0.25, 300.5], [np.float16(1 / 3), -1]]]])


def test_features_and_input_checks(tmp_path: Path) -> None:
    inputs = {"x": np.ones((2, 3), np.float32), "n": np.ones(3, np.int32)}
    path = write_program(tmp_path / "p.mlpackage", inputs, lambda x, n: mb.add(x=x, y=mb.cast(x=n, dtype="fp32")))
    program = MLProgram.open(path)
    assert program.inputs == (Feature("x", "fp32", (2, 3), example=(2, 3)), Feature("n", "int32", (3,), example=(3,)))
    assert program.outputs == (Feature("out0", "fp32", (2, 3)),)
    assert program.predict({"n": np.ones(3, np.int64), "x": np.ones((2, 3), np.float64)})["out0"].dtype == np.float32
    as_lists = program.predict({"n": [1.0, 2.0, 3.0], "x": [[0, 1, 2], [3, 4, 5]]})["out0"]
    np.testing.assert_array_equal(as_lists, [[1, 3, 5], [4, 6, 8]])
    for wrong, message in (
        ({"x": inputs["x"]}, "expected the inputs x, n, got x"),
        ({**inputs, "y": inputs["n"]}, "expected the inputs x, n"),
        ({**inputs, "x": np.ones((3, 2), np.float32)}, r"'x': expected \[2, 3\], got \[3, 2\]"),
        ({**inputs, "x": np.full((2, 3), 2**24 + 1)}, "'x': fp32 does not hold the values of this int64"),
        ({**inputs, "n": np.full(3, 0.5, np.float32)}, "'n': int32 does not hold the values of this float32"),
        ({**inputs, "n": np.full(3, 2**31)}, "'n': int32 does not hold the values of this int64"),
        ({**inputs, "x": np.full((2, 3), "1")}, "'x': expected fp32, got ndarray of <U1"),
        ({**inputs, "x": None}, "'x': expected fp32, got NoneType of object"),
        ({**inputs, "x": [[1, 2, 3], [4]]}, "'x': expected an array of fp32: setting an array element"),
        ([inputs], "expected inputs by name, got list"),
    ):
        with pytest.raises(TensorError, match=message):
            program.predict(wrong)


PIXELS = np.array([[[[-3, 0.4], [0.6, 100]], [[255, 254.4], [300, 7]], [[1, 2], [3, 4]]]], np.float32)
CUT = np.rint(PIXELS).clip(0, 255)[0].transpose(1, 2, 0)


@pytest.mark.parametrize(
    ("layout", "mode", "expected"),
    [
        (ct.colorlayout.RGB, "RGBA", CUT),
        (ct.colorlayout.BGR, "RGBA", CUT[..., ::-1]),
        (ct.colorlayout.GRAYSCALE, "L", CUT[..., 0]),
        (ct.colorlayout.GRAYSCALE_FLOAT16, "F", PIXELS[0, 0].astype(np.float16)),
    ],
)
def test_picture_outputs_are_pictures(layout: Any, mode: str, expected: Array, tmp_path: Path) -> None:
    pixels = PIXELS if mode == "RGBA" else PIXELS[:, :1]
    model = ct.convert(
        torch.jit.trace(torch.nn.Hardtanh(-500.0, 500.0), torch.from_numpy(pixels)),
        inputs=[ct.TensorType("x", shape=pixels.shape)],
        outputs=[ct.ImageType("picture", color_layout=layout)],
        compute_precision=ct.precision.FLOAT32,
        minimum_deployment_target=ct.target.iOS16,
        skip_model_load=True,
    )
    answer = MLProgram.open(save(model, tmp_path / "p.mlpackage")).predict({"x": pixels})["picture"]
    assert isinstance(answer, Image.Image)
    assert answer.mode == mode
    found = np.asarray(answer)
    np.testing.assert_array_equal(found[..., :3] if mode == "RGBA" else found, expected)
    assert mode != "RGBA" or np.all(found[..., 3] == 255)


def test_a_picture_of_another_mode_is_refused(tmp_path: Path) -> None:
    picture = ct.ImageType("image", shape=(1, 3, 4, 4))
    model = convert(torch.nn.ReLU(), (torch.rand(1, 3, 4, 4),), fp16=False, inputs=[picture])
    program = MLProgram.open(save(model, tmp_path / "p.mlpackage"))
    with pytest.raises(TensorError, match="input 'image': expected a picture of mode RGB, got L"):
        program.predict({"image": Image.new("L", (4, 4))})


def test_what_is_no_state_and_no_number_of_threads_is_refused(tmp_path: Path) -> None:
    x = {"x": np.ones(3, np.float32)}
    path = write_program(tmp_path / "p.mlpackage", x, lambda x: mb.relu(x=x))
    with pytest.raises(TensorError, match="make one with this program's make_state"):
        MLProgram.open(path).predict(x, {})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"p\.mlpackage: threads: expected a whole number from 1 to 1,024, got 0"):
        MLProgram.open(path, threads=0)


def test_a_prediction_changes_neither_inputs_nor_weights(tmp_path: Path) -> None:
    x, weight = np.ones((4, 64), np.float32), np.full((64, 64), 0.5, np.float32)
    path = write_program(
        tmp_path / "p.mlpackage", {"x": x}, lambda x: [mb.linear(x=x, weight=weight), mb.identity(x=x)]
    )
    stored = (path / "Data/com.apple.CoreML/weights/weight.bin").read_bytes()
    program = MLProgram.open(path)
    first = program.predict({"x": x})
    for array in first.values():
        array[:] = 7
    assert np.all(x == 1)
    np.testing.assert_array_equal(program.predict({"x": x})["out0"], np.full((4, 64), 32.0))
    assert (path / "Data/com.apple.CoreML/weights/weight.bin").read_bytes() == stored


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads what is resident from Linux")
def test_large_results_are_rounded_and_what_they_are_made_of_is_not(tmp_path: Path) -> None:
    """Rounding spares memory where it is a result's own, which a cast's, a view's and an input's is not."""
    x = np.random.default_rng(0).standard_normal((300, 301), np.float32)
    half = x.astype(np.float16).astype(np.float32)

    def body(x: Any) -> tuple[Any, ...]:
        rounded = mb.cast(x=x, dtype="fp16")
        turned = mb.reshape(x=rounded, shape=(301, 300))
        doubled = mb.mul(x=rounded, y=np.float16(1 + 2**-10))
        return x, rounded, turned, doubled, mb.mul(x=x, y=np.float32(1))

    given = x.copy()
    found = MLProgram.open(write_program(tmp_path / "p.mlpackage", {"x": x}, body)).predict({"x": given})
    product = (half * np.float32(1 + 2**-10)).astype(np.float16)
    expected = (x, half, half.reshape(301, 300), product.astype(np.float32), x)
    for got, wanted in zip(found.values(), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(given, x)


@pytest.mark.parametrize("fp16", [False, True])
def test_weights_stay_in_the_file(fp16: bool, tmp_path: Path) -> None:
    x, weight = np.ones((1, 4096), np.float32), np.full((4096, 4096), 0.5, np.float16 if fp16 else np.float32)
    path = write_program(tmp_path / "p.mlpackage", {"x": x}, lambda x: mb.linear(x=x, weight=weight), fp16=fp16)
    MLProgram.open(write_program(tmp_path / "small.mlpackage", {"x": x}, lambda x: mb.relu(x=x))).predict({"x": x})
    before_mb = resident_mb("RssAnon")
    program = MLProgram.open(path)
    assert np.all(program.predict({"x": x})["out0"] == 2048)
    assert resident_mb("RssAnon") - before_mb < weight.nbytes / 1e6 / 2


def test_threads_are_given_back(tmp_path: Path) -> None:
    inputs = {"x": np.ones(3, np.float32)}
    before = torch.get_num_threads()
    program = MLProgram.open(write_program(tmp_path / "p.mlpackage", inputs, lambda x: mb.exp(x=x)), threads=before + 1)
    program.predict(inputs)
    assert torch.get_num_threads() == before


def test_sizes_that_vary(tmp_path: Path) -> None:
    length = ct.RangeDim(1, 8, default=3)
    module = torch.nn.Linear(4, 2)
    model = ct.convert(
        torch.jit.trace(module, torch.ones(1, 3, 4)),
        convert_to="mlprogram",
        inputs=[ct.TensorType("x", shape=(1, length, 4))],
        outputs=[ct.TensorType("y")],
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    program = MLProgram.open(save(model, tmp_path / "p.mlpackage"))
    assert program.inputs == (Feature("x", "fp32", (1, None, 4), sizes=((1, 1), (1, 8), (4, 4)), example=(1, 3, 4)),)
    for size in (1, 5):
        x = torch.randn(1, size, 4)
        np.testing.assert_allclose(program.predict({"x": x.numpy()})["y"], module(x).detach().numpy(), atol=1e-6)
    for wrong in ((1, 5, 3), (1, 9, 4), (4,)):
        with pytest.raises(TensorError, match=r"expected \[1, 1 to 8, 4\], got "):
            program.predict({"x": np.ones(wrong, np.float32)})


def test_one_function_of_several(tmp_path: Path) -> None:
    inputs = {"x": np.array([1.0, 4.0], np.float32)}
    descriptor = ct.utils.MultiFunctionDescriptor()
    for name, body in (("root", lambda x: mb.sqrt(x=x)), ("double", lambda x: mb.add(x=x, y=x))):
        path = write_program(tmp_path / f"{name}.mlpackage", inputs, body)
        descriptor.add_function(str(path), src_function_name="main", target_function_name=name)
    descriptor.default_function_name = "root"
    path = tmp_path / "both.mlpackage"
    ct.utils.save_multifunction(descriptor, str(path))
    for name, expected in ((None, [1, 2]), ("root", [1, 2]), ("double", [2, 8])):
        np.testing.assert_array_equal(MLProgram.open(path, function=name).predict(inputs)["out0"], expected)
    with pytest.raises(BundleError, match="no function 'half': it has double, root"):
        MLProgram.open(path, function="half")


def test_an_audit_says_what_results_come_to(tmp_path: Path) -> None:
    def body(x: Any) -> Any:
        large = mb.mul(x=x, y=np.float16(300), name="large")
        return mb.exp(x=mb.real_div(x=large, y=np.float16(0), name="odd"), name="last"), mb.sqrt(x=x, name="root")

    path = write_program(tmp_path / "p.mlpackage", {"x": np.ones(3, np.float32)}, body, fp16=True)
    program = MLProgram.open(path, precision="audit")
    program.predict({"x": np.array([1, 10, -0.5], np.float32)})
    program.predict({"x": np.array([0, 218.5, -4], np.float32)})
    found = {each.name: each for each in program.audit()}
    assert found["large"].peak == 65550
    assert (found["large"].overflows, found["large"].infinite, found["large"].elements) == (1, 0, 6)
    assert (found["large"].headroom, found["root"].headroom) == (0, 0)
    assert (found["x"].kind, found["x"].dtype, found["x"].peak) == ("input", "fp32", 218.5)
    assert found["x"].headroom == pytest.approx(65504 / 218.5)
    assert program.audit()[0].name == "x"
    assert (found["odd"].infinite, found["odd"].nan) == (5, 1)
    assert found["root"].nan == 2
    assert found["root"].dtype == "fp16"
    with pytest.raises(UnsupportedError, match="nothing was audited"):
        MLProgram.open(path).audit()
