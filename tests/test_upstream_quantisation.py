"""What quantisation leans on in third parties: each fault worked around has a test here, to fail once mended."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable

import litert_torch
import nncf
import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe
from nncf.experimental.torch.fx import quantize_pt2e
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation

from edgevlm.bundle.recipe import BUILTIN
from edgevlm.bundle.spec import ComponentSpec, TensorSpec
from edgevlm.compression.annotation import _WEIGHT, Annotator
from edgevlm.compression.folding import parameter
from edgevlm.compression.quantisation import quantise
from edgevlm.converters.integers import baked
from edgevlm.converters.tflite import patches
from edgevlm.converters.tflite.converter import _halve_weights
from edgevlm.converters.tflite.weights import store_integers
from edgevlm.graphs.capture import unlifted
from edgevlm.graphs.program import Program

PER_CHANNEL = torch.ops.quantized_decomposed.dequantize_per_channel.default


def frozen(module: nn.Module) -> nn.Module:
    return module.eval().requires_grad_(False)


def decided(graph: GraphModule, annotator: Annotator, example: Tensor) -> tuple[Tensor, Tensor, int]:
    """NNCF's integers and scales of a graph's one weight, and the axis that the scales go along."""
    made = quantize_pt2e(graph, annotator, nncf.Dataset([example]), subset_size=1, fast_bias_correction=None)
    (wide,) = made.graph.find_nodes(op="call_function", target=PER_CHANNEL)
    return parameter(made, wide.args[0]), parameter(made, wide.args[1]), wide.args[3]


class Everything(Annotator):
    """Annotates the weights of embeddings too."""

    def __init__(self) -> None:
        super().__init__((), static=False)

    def annotate(self, model: GraphModule) -> GraphModule:
        for node in model.graph.find_nodes(op="call_function", target=torch.ops.aten.embedding.default):
            node.meta["quantization_annotation"] = QuantizationAnnotation(
                input_qspec_map={node.args[0]: _WEIGHT}, _annotated=True
            )
        return model


def test_nncf_still_scales_embeddings_by_column() -> None:
    ids = torch.tensor([[1, 2]])
    _, scale, axis = decided(unlifted(frozen(nn.Embedding(12, 8)), (ids,)), Everything(), ids)
    assert (tuple(scale.shape), axis) == ((8,), 1)  # where kernels want (12,) and 0


def test_nncf_still_halves_the_range_of_the_first_convolution() -> None:
    pixels = torch.randn(1, 3, 8, 8)
    graph = unlifted(frozen(nn.Conv2d(3, 4, 3)), (pixels,))
    integers, _, _ = decided(graph, Annotator(["conv2d"], static=False), pixels)
    assert integers.abs().max() == 64


def test_nncf_still_gives_weights_of_one_sign_a_zero_point() -> None:
    example = torch.randn(1, 8)
    layer = frozen(nn.Linear(8, 4))
    layer.weight.abs_()  # type: ignore[operator, union-attr]
    integers, _, _ = decided(unlifted(layer, (example,)), Annotator(["linear"], static=False), example)
    assert integers.min() < 0  # of weights that are all positive


ASK_IN_INT32 = """
import torch
import executorch.exir.passes._quant_patterns_and_replacements, executorch.kernels.quantized
from executorch.exir import to_edge_transform_and_lower
from executorch.extension.pybindings import _C

class Lookup(torch.nn.Module):
    def forward(self, ids):
        table, scale = torch.ones(4, 8, dtype=torch.int8), torch.ones(4)
        return torch.ops.quantized_decomposed.embedding_byte(table, scale, None, -127, 127, ids)

ids = torch.tensor([[1, 2]], dtype=torch.{dtype})
program = to_edge_transform_and_lower(torch.export.export(Lookup(), (ids,), strict=False)).to_executorch()
_C._load_for_executorch_from_buffer(program.buffer).run_method("forward", (ids,))
print("answered")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "answers"), [("int64", True), ("int32", False)])
def test_executorch_still_looks_embeddings_up_by_int64_alone(dtype: str, answers: bool) -> None:
    # In a process of its own: the runtime aborts it.
    code = ASK_IN_INT32.replace("{dtype}", dtype)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode == 0, "answered" in done.stdout) == (answers, answers)
    assert answers or "only Long is supported" in done.stderr


def versions(data: bytes) -> dict[int, int]:
    """Of each op that a file's ops use."""
    model = schema.Model.GetRootAs(data)
    codes = [model.OperatorCodes(index) for index in range(model.OperatorCodesLength())]
    graph = model.Subgraphs(0)
    used = {graph.Operators(index).OpcodeIndex() for index in range(graph.OperatorsLength())}
    return {codes[index].BuiltinCode(): codes[index].Version() for index in used}


def program_of(module: nn.Module, example: Tensor) -> Program:
    taken = TensorSpec("features", "float32", tuple(example.shape), "any")
    given = TensorSpec("embedding", "float32", tuple(module(example).shape), "any")
    return Program(ComponentSpec("encode_image", (taken,), (given,)), module, (example,))


def converted(module: nn.Module, example: Tensor) -> bytes:
    return bytes(litert_torch.convert(module, (example,)).model_content())


@pytest.mark.slow
def test_the_usual_quantizer_still_leaves_products_at_a_version_whose_kernel_answers_nan() -> None:
    example = torch.randn(2, 64)
    maker = quantizer.Quantizer(converted(frozen(nn.Linear(64, 48)), example))
    maker.load_quantization_recipe(recipe.dynamic_wi8_afp32())
    theirs = maker.quantize(enable_progress_report=False, enable_progress_bar=False).quantized_model
    assert versions(bytes(theirs))[schema.BuiltinOperator.FULLY_CONNECTED] == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dynamic", "expected"),
    [
        ("int8", True, {schema.BuiltinOperator.FULLY_CONNECTED: 12}),
        ("int4-weights", True, {schema.BuiltinOperator.FULLY_CONNECTED: 13}),
        ("int8-weights", False, {schema.BuiltinOperator.FULLY_CONNECTED: 5, schema.BuiltinOperator.DEQUANTIZE: 5}),
    ],
)
def test_ours_says_the_version_that_its_integers_need(name: str, dynamic: bool, expected: dict[int, int]) -> None:
    example = torch.randn(2, 64)
    made, _ = quantise(program_of(frozen(nn.Linear(64, 48)), example), BUILTIN[name], ())
    floats, weights = baked(made)
    data = store_integers(converted(floats.module, example), weights, dynamic=dynamic)
    assert versions(data) == expected


class ScaledQuery(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(64, 48)

    def forward(self, x: Tensor) -> Tensor:
        return self.query(x) * 0.3


class NormFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.query = nn.LayerNorm(64), nn.Linear(64, 48)
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.query(self.norm(x))


def constants(data: bytes) -> list[NDArray[np.float32]]:
    model = schema.Model.GetRootAs(data)
    buffers = [model.Buffers(index) for index in range(model.BuffersLength())]
    whole = [buffer.DataAsNumpy().tobytes() for buffer in buffers if buffer.DataLength() == 4 * 64 * 48]
    return [np.frombuffer(content, np.float32).reshape(48, 64) for content in whole]


@pytest.mark.slow
@pytest.mark.parametrize("module", [ScaledQuery, NormFirst])
def test_litert_torch_still_folds_scales_into_weights(module: Callable[[], nn.Module]) -> None:
    made = frozen(module())
    (weight,) = constants(converted(made, torch.randn(2, 64)))
    assert np.abs(weight - made.query.weight.numpy()).max() > 0.01  # type: ignore[operator, union-attr]


class ReadTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 32, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.fc(x), self.fc.weight + x[:1]


@pytest.mark.slow
def test_the_usual_quantizer_still_calls_the_copy_of_a_weight_by_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    example, module = torch.randn(2, 64), frozen(ReadTwice())
    data = converted(module, example)
    run = Interpreter(model_content=_halve_weights(data)).get_signature_runner()
    for got, expected in zip(run(args_0=example.numpy()).values(), module(example), strict=True):
        np.testing.assert_allclose(got, expected.numpy(), atol=1e-2)
    monkeypatch.setattr(patches, "applied", contextlib.nullcontext)
    with pytest.raises(TypeError, match="can only concatenate str"):
        _halve_weights(data)
