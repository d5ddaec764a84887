"""Integers in a TFLite file, put there and read back: of constants that several ops read, some of them as no weight."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils
from numpy.typing import NDArray

from edgevlm.bundle.integer_weights import StoredWeight, prove
from edgevlm.converters.integers import IntegerWeight
from edgevlm.converters.tflite.weights import store_integers
from edgevlm.runtimes.tflite.weights import stored_weights

SIDE = 4
PRODUCT, SUM = schema.BuiltinOperator.FULLY_CONNECTED, schema.BuiltinOperator.ADD


def weight(seed: int, *, zero: bool = False) -> IntegerWeight:
    """[4, 4], of one sign."""
    rng = np.random.default_rng(seed)
    integers = np.zeros((SIDE, SIDE), np.int8) if zero else rng.integers(1, 128, (SIDE, SIDE)).astype(np.int8)
    scale = rng.uniform(0.001, 0.01, (SIDE, 1)).astype(np.float32)
    return IntegerWeight(integers * scale, integers, scale, 8)


def decided(layer: str, of: IntegerWeight) -> StoredWeight:
    return StoredWeight(layer, 8, of.integers, of.scale, np.zeros(of.scale.shape, np.int32))


def model(constants: Sequence[NDArray[np.float32]], chain: Sequence[tuple[int, int]]) -> bytes:
    """A float32 file: [4, 4] features that go through each op and constant of the chain.

    Args:
        constants: Each once, and one buffer for those of equal bytes, as litert-torch has them.
        chain: Ops, each with the index of the constant that it reads beside the result so far.
    """
    made, graph = schema.ModelT(), schema.SubGraphT()
    made.version, made.subgraphs, made.buffers, graph.tensors, graph.operators = 3, [graph], [schema.BufferT()], [], []
    made.operatorCodes = [schema.OperatorCodeT(), schema.OperatorCodeT()]
    for code, kind in zip(made.operatorCodes, (PRODUCT, SUM), strict=True):
        code.builtinCode = code.deprecatedBuiltinCode = kind
        code.version = 1
    buffers: dict[bytes, int] = {}

    def tensor(name: str, constant: NDArray[np.float32] | None = None) -> int:
        new = schema.TensorT()
        new.name, new.type, new.buffer = name.encode(), schema.TensorType.FLOAT32, 0
        new.shape = np.array(constant.shape if constant is not None else (SIDE, SIDE), np.int32)
        if constant is not None:
            content = constant.tobytes()
            if content not in buffers:
                buffers[content] = len(made.buffers)
                made.buffers.append(schema.BufferT())
                made.buffers[-1].data = np.frombuffer(content, np.uint8)
            new.buffer = buffers[content]
        graph.tensors.append(new)
        return len(graph.tensors) - 1

    last = tensor("x")
    read = [tensor(f"constant {index}", constant) for index, constant in enumerate(constants)]
    for index, (kind, constant) in enumerate(chain):
        op, result = schema.OperatorT(), tensor(f"result {index}")
        op.opcodeIndex = (PRODUCT, SUM).index(kind)
        op.inputs, op.outputs = np.array([last, read[constant]], np.int32), np.array([result], np.int32)
        op.builtinOptionsType, op.builtinOptions = {
            PRODUCT: (schema.BuiltinOptions.FullyConnectedOptions, schema.FullyConnectedOptionsT()),
            SUM: (schema.BuiltinOptions.AddOptions, schema.AddOptionsT()),
        }[kind]
        graph.operators.append(op)
        last = result
    graph.inputs, graph.outputs = np.array([0], np.int32), np.array([last], np.int32)
    signature, ends = schema.SignatureDefT(), [schema.TensorMapT(), schema.TensorMapT()]
    for end, name, index in zip(ends, (b"x", b"y"), (0, last), strict=True):
        end.name, end.tensorIndex = name, index
    signature.signatureKey, signature.subgraphIndex = b"tower", 0
    signature.inputs, signature.outputs = ends[:1], ends[1:]
    made.signatureDefs = [signature]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(made))


def read_back(data: bytes, folder: Path) -> tuple[StoredWeight, ...]:
    path = folder / "model.tflite"
    path.write_bytes(data)
    return stored_weights(path.read_bytes())["tower"]


def answer(data: bytes, x: NDArray[np.float32]) -> NDArray[np.float32]:
    interpreter = Interpreter(model_content=data)
    run = interpreter.get_signature_runner("tower")
    answers: NDArray[np.float32] = run(x=x)["y"]
    return answers


def float_bytes(data: bytes) -> int:
    """How many bytes of float constants a file holds that are as large as a weight."""
    buffers = flatbuffer_utils.read_model_from_bytearray(bytearray(data)).buffers
    return sum(len(each.data) for each in buffers if each.data is not None and len(each.data) == 4 * SIDE * SIDE)


X = np.random.default_rng(9).standard_normal((SIDE, SIDE)).astype(np.float32)


@pytest.mark.parametrize("dynamic", [True, False])
def test_a_weight_is_found_once_for_every_op_that_reads_it(dynamic: bool, tmp_path: Path) -> None:
    shared, other = weight(0), weight(1)
    data = store_integers(
        model([shared.value, other.value], [(PRODUCT, 0), (PRODUCT, 1), (PRODUCT, 0)]), [shared, other], dynamic=dynamic
    )
    found = read_back(data, tmp_path)
    layers = [decided("a", shared), decided("b", other), decided("c", shared)]
    assert len(found) == 3
    assert prove("tower", layers, found).lost == ()
    assert prove("tower", [*layers, decided("d", shared)], found).lost == ("d",)
    expected = X @ shared.value.T @ other.value.T @ shared.value.T
    np.testing.assert_allclose(answer(data, X), expected, rtol=1e-5 if not dynamic else 0.05, atol=1e-3)
    assert float_bytes(data) == 0


def test_a_layer_that_lost_its_equal_weight_is_found(tmp_path: Path) -> None:
    shared = weight(0)
    changed = np.nextafter(shared.value, np.float32(1))  # what a converter has done to one of two
    data = store_integers(model([shared.value, changed], [(PRODUCT, 0), (PRODUCT, 1)]), [shared, shared], dynamic=True)
    layers = [decided("a", shared), decided("b", shared)]
    assert prove("tower", layers, read_back(data, tmp_path)).lost == ("b",)


@pytest.mark.parametrize("dynamic", [True, False])
def test_what_is_no_weight_stays_in_float(dynamic: bool, tmp_path: Path) -> None:
    dead = weight(0, zero=True)
    data = store_integers(model([dead.value], [(SUM, 0), (PRODUCT, 0), (SUM, 0)]), [dead], dynamic=dynamic)
    assert prove("tower", [decided("a", dead)], read_back(data, tmp_path)).lost == ()
    np.testing.assert_array_equal(answer(data, X), np.zeros((SIDE, SIDE), np.float32))
    assert float_bytes(data) == 4 * SIDE * SIDE


def test_zeros_of_another_shape_are_another_weight(tmp_path: Path) -> None:
    dead, row = weight(0, zero=True), np.zeros((1, SIDE * SIDE), np.float32)
    wide = IntegerWeight(row, row.astype(np.int8), np.full((1, 1), 0.5, np.float32), 8)
    data = store_integers(model([dead.value], [(PRODUCT, 0)]), [dead, wide], dynamic=True)
    assert prove("tower", [decided("a", dead)], read_back(data, tmp_path)).lost == ()
