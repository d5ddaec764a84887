from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import library
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgevlm.bundle.recipe import BUILTIN
from edgevlm.bundle.spec import ComponentSpec, TensorSpec
from edgevlm.errors import MissingDependency, UnsupportedError
from edgevlm.graphs import capture
from edgevlm.graphs.attention import attention
from edgevlm.graphs.program import Program
from edgevlm.process.progress import silent
from edgevlm.targets import registry

TARGETS = ("coreml", "executorch", "tflite")
SINGLE_FILES = ("executorch", "tflite")
COMPONENTS = ("encode_image", "classify", "encode_text")
PRECISIONS = ("fp32", pytest.param("fp16", marks=pytest.mark.slow))
"""Of a single file: Core ML's packages are made in a third of the time."""
FP16_TARGETS = ("coreml", "executorch", pytest.param("tflite", marks=pytest.mark.slow))
FLOAT32, FLOAT16, INT32 = 11, 10, 23  # MIL.proto's DataType


def answers(target: str, precision: str, component: str) -> tuple[np.ndarray, np.ndarray]:
    """What the shipped file and the float reference answer to the same samples, each [4, N]."""
    bundle = library.tower_bundle(target, precision)
    (taken,), (given,) = bundle.components[component].spec.inputs, bundle.components[component].spec.outputs
    with registry.runtime(target).open(bundle) as session:
        got = [
            session.run(component, {taken.name: array})[given.name] for array in library.tower_samples(taken.name, 4)
        ]
    return np.concatenate(got), np.concatenate(library.tower_answers(component))


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def program(module: nn.Module, *shape: int, width: int) -> Program:
    spec = ComponentSpec(
        "encode_image",
        (TensorSpec("features", "float32", shape, "features"),),
        (TensorSpec("embedding", "float32", (shape[0], width), "features"),),
    )
    return Program(spec, module.eval(), (torch.randn(shape, generator=torch.Generator().manual_seed(0)),))


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("target", TARGETS)
def test_fp32_answers_are_the_float_models_own(target: str, component: str) -> None:
    got, expected = answers(target, "fp32", component)
    assert np.abs(got - expected).max() <= 1e-5


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("target", FP16_TARGETS)
def test_fp16_answers_keep_their_direction(target: str, component: str) -> None:
    got, expected = answers(target, "fp16", component)
    cosines = (got * expected).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() >= 0.9999


@pytest.mark.parametrize("target", FP16_TARGETS)
def test_fp16_is_half_the_size(target: str) -> None:
    assert library.tower_bundle(target, "fp16").size_bytes < 0.56 * library.tower_bundle(target, "fp32").size_bytes


@pytest.mark.parametrize("target", SINGLE_FILES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_components_share_their_weights(target: str, precision: str) -> None:
    weights = {id(p): p.numel() for each in library.towers().values() for p in each.module.parameters()}
    bytes_each = {"fp32": 4, "fp16": 2}[precision]
    assert library.tower_bundle(target, precision).size_bytes < 1.1 * bytes_each * sum(weights.values())


def test_the_same_program_gives_the_same_bytes_again(tmp_path: Path) -> None:
    image = {"encode_image": library.towers()["encode_image"]}
    registry.converter("coreml").lower(image, BUILTIN["fp16"], tmp_path)
    assert contents(tmp_path) == {
        path: content
        for path, content in contents(library.tower_bundle("coreml", "fp16").path).items()
        if path.startswith("encode_image.mlpackage/")
    }


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("coreml", {"iOS": "15", "macOS": "12"}),
        ("executorch", {"executorch": "1.5"}),
        ("tflite", {"litert": "1.0", "tflite": "2.9.0"}),
    ],
)
def test_a_bundle_says_what_it_needs(target: str, expected: dict[str, str]) -> None:
    assert library.tower_bundle(target, "fp32").manifest.requires == expected


def test_fp16_on_executorch_names_the_cpu_it_needs() -> None:
    assert "FP16" in library.tower_bundle("executorch", "fp16").manifest.requires["cpu"]


@pytest.mark.parametrize("target", ["coreml", pytest.param("executorch", marks=pytest.mark.slow)])
def test_a_mask_of_huge_negative_numbers_is_no_overflow(target: str) -> None:
    found = registry.converter(target).audit(library.towers(), BUILTIN["fp16"], {}, silent)
    assert {op.verdict for op in found if op.peak > 65504} == {"mask"}


def test_executorch_has_a_graph_written_out_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.export import ExportedProgram

    decompose, written_out = ExportedProgram.run_decompositions, []

    def counted(exported: ExportedProgram, *arguments: Any) -> ExportedProgram:
        if "features" in {node.name for node in exported.graph.nodes}:  # and is none of XNNPACK's patterns
            written_out.append(exported)
        return decompose(exported, *arguments)

    monkeypatch.setattr(ExportedProgram, "run_decompositions", counted)
    layer = nn.TransformerEncoderLayer(16, 2, 16, activation="gelu", batch_first=True).requires_grad_(False)
    encode_image = {"encode_image": program(layer, 1, 4, 16, width=16)}
    registry.converter("executorch").lower(encode_image, BUILTIN["fp32"], tmp_path)
    assert len(written_out) == 1


@pytest.mark.parametrize("target", ["coreml", "executorch"])
def test_a_module_that_branches_on_data_is_refused_by_name(target: str, tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            return features if features.sum() > 0 else -features

    told: list[tuple[str, float | None]] = []
    with pytest.raises(UnsupportedError, match=r"encode_image: torch\.export cannot capture it"):
        registry.converter(target).lower(
            {"encode_image": program(Branching(), 1, 4, width=4)},
            BUILTIN["fp32"],
            tmp_path,
            lambda stage, share: told.append((stage, share)),
        )
    stages = {"coreml": 1, "executorch": 2}[target]  # ExecuTorch's last writes all
    assert told == [(f"{target}: lowering 1 of {stages}: encode_image", 0.0)]


@pytest.mark.parametrize("target", TARGETS)
def test_a_missing_package_is_named_with_its_extra(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependency) as caught:
        registry.converter(target).lower(library.towers(), BUILTIN["fp32"], tmp_path)
    assert f"edgevlm[{target}]" in str(caught.value.hint)


def test_importing_a_converter_imports_no_framework() -> None:
    code = "import sys, edgevlm.converters.{0}; assert not {{'torch', 'coremltools', 'tensorflow'}} & set(sys.modules)"
    for target in TARGETS:
        subprocess.run([sys.executable, "-c", code.format(target)], check=True, cwd=Path(__file__).parents[1])


def test_pooling_heads_with_torchs_fused_attention_are_captured_op_by_op() -> None:
    class Pool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, features: Tensor) -> Tensor:
            return self.attention(features[:, :1], features, features)[0][:, 0]

    graph = capture.capture(program(Pool(), 1, 4, 16, width=16)).graph
    assert not [node for node in graph.nodes if "native_multi_head" in str(node.target)]


# Core ML's own file


def read(precision: str, component: str) -> Any:
    from coremltools.proto import Model_pb2

    package = library.tower_bundle("coreml", precision).path / f"{component}.mlpackage"
    return Model_pb2.Model.FromString((package / "Data/com.apple.CoreML/model.mlmodel").read_bytes())


def operations(precision: str, component: str) -> list[Any]:
    (function,) = read(precision, component).mlProgram.functions.values()
    (block,) = function.block_specializations.values()
    return [op for op in block.operations if op.type != "const"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_core_ml_takes_a_picture_and_gives_float32(precision: str) -> None:
    description = read(precision, "encode_image").description
    (pixels,), (embedding,) = description.input, description.output
    assert (pixels.name, pixels.type.WhichOneof("Type")) == ("pixels", "imageType")
    assert (pixels.type.imageType.width, pixels.type.imageType.height) == (library.IMAGE, library.IMAGE)
    assert pixels.type.imageType.ColorSpace.Name(pixels.type.imageType.colorSpace) == "RGB"
    assert (embedding.name, list(embedding.type.multiArrayType.shape)) == ("embedding", [1, library.DIM])
    assert embedding.type.multiArrayType.ArrayDataType.Name(embedding.type.multiArrayType.dataType) == "FLOAT32"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_core_ml_takes_token_ids_and_compares_them_as_integers(precision: str) -> None:
    (token_ids,) = read(precision, "encode_text").description.input
    assert token_ids.type.multiArrayType.ArrayDataType.Name(token_ids.type.multiArrayType.dataType) == "INT32"
    (function,) = read(precision, "encode_text").mlProgram.functions.values()
    assert function.inputs[0].type.tensorType.dataType == INT32
    (compared,) = (op for op in operations(precision, "encode_text") if op.type == "equal")
    assert compared.inputs["x"].arguments[0].name == "token_ids"


def test_core_ml_fp16_computes_in_fp16_except_for_norms() -> None:
    types = {(op.type, op.outputs[0].type.tensorType.dataType) for op in operations("fp16", "encode_image")}
    assert {kind for kind, dtype in types if dtype == FLOAT32} == {"cast", "reduce_l2_norm"}
    assert {("linear", FLOAT16), ("conv", FLOAT16), ("softmax", FLOAT16), ("layer_norm", FLOAT16)} <= types


def test_core_ml_fp16_keeps_float32_where_integers_become_numbers(tmp_path: Path) -> None:
    class Position(nn.Module):
        def forward(self, token_ids: Tensor) -> Tensor:
            return (token_ids.float() * 2 - 90001).abs()

    ids, out = TensorSpec("token_ids", "int32", (1, 2), "ids"), TensorSpec("embedding", "float32", (1, 2), "any")
    module = Program(ComponentSpec("encode_text", (ids,), (out,)), Position(), (torch.tensor([[45001, 3]]).int(),))
    registry.converter("coreml").lower({"encode_text": module}, BUILTIN["fp16"], tmp_path)
    from edgevlm.runtimes.mlprogram.evaluator import MLProgram

    answer = MLProgram.open(tmp_path / "encode_text.mlpackage", threads=1).predict(
        {"token_ids": np.array([[45001, 3]], np.int32)}
    )
    assert abs(answer["embedding"][0, 0] - 1) < 0.01


def test_core_ml_packages_hold_nothing_of_the_day_or_the_machine() -> None:
    package = library.tower_bundle("coreml", "fp16").path / "encode_image.mlpackage"
    assert sorted(path.name for path in package.rglob("*") if path.is_file()) == [
        "Manifest.json",
        "model.mlmodel",
        "weight.bin",
    ]
    assert "conversion_date" not in str(read("fp16", "encode_image").description.metadata)
    manifest = json.loads((package / "Manifest.json").read_text())
    assert manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["name"] == "model.mlmodel"


# ExecuTorch's own file


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_executorch_runs_the_heavy_ops_in_xnnpack_and_in_the_recipes_precision(precision: str) -> None:
    rows = registry.runtime("executorch").inspect(library.tower_bundle("executorch", precision))["encode_image"]
    heavy = {row.kind: (row.dtype, row.runs_on) for row in rows if row.kind in ("FullyConnected", "Conv2d", "Softmax")}
    assert heavy == dict.fromkeys(("FullyConnected", "Conv2d", "Softmax"), (precision, "xnnpack"))


def test_executorch_fp16_keeps_norms_in_float32() -> None:
    rows = registry.runtime("executorch").inspect(library.tower_bundle("executorch", "fp16"))["encode_image"]
    assert Counter(row.dtype for row in rows if "layer_norm" in row.kind) == {"fp32": 1}


@pytest.mark.parametrize("mask", ["none", "causal", "bool", "float"])
def test_attention_is_written_out_as_torch_computes_it(mask: str) -> None:
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(1, 2, 5, 8, generator=generator) * 2 for _ in range(3))
    options: dict[str, Any] = {
        "none": {},
        "causal": {"is_causal": True},
        "bool": {"attn_mask": torch.ones(5, 5, dtype=torch.bool).tril()},
        "float": {"attn_mask": torch.randn(5, 5, generator=generator), "scale": 0.3},
    }[mask]
    expected = nn.functional.scaled_dot_product_attention(query, key, value, **options)
    torch.testing.assert_close(attention(query, key, value, **options), expected, atol=1e-6, rtol=1e-5)
