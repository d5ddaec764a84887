"""ML Programs that must be refused: unknown ops, contradictions, and damaged packages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types
from mlprograms import write_program

from edgevlm.bundle.integer_weights import StoredWeight
from edgevlm.errors import BundleError, EdgeVLMError, UnsupportedError
from edgevlm.runtimes.mlprogram.evaluator import MLProgram
from edgevlm.runtimes.mlprogram.package import read_function
from edgevlm.runtimes.mlprogram.stored import stored_weights

INPUTS = {"x": np.ones((2, 64), np.float32)}
MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


def body(x: Any) -> Any:
    return mb.softmax(x=mb.linear(x=x, weight=np.ones((32, 64), np.float32)), axis=1, name="shares")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_program(tmp_path_factory.mktemp("sound") / "p.mlpackage", INPUTS, body)
    MLProgram.open(path).predict(INPUTS)
    return path


def test_every_unknown_op_is_named_at_open(tmp_path: Path) -> None:
    def unknown(x: Any) -> Any:
        return mb.sqrt(x=mb.relu(x=mb.relu(x=x, name="first"), name="second"), name="third")

    def renamed(block: Any) -> None:
        for operation in block.operations:
            operation.type = {"relu": "bend", "sqrt": "fold"}.get(operation.type, operation.type)

    path = write_program(tmp_path / "p.mlpackage", INPUTS, unknown, edit=renamed)
    with pytest.raises(UnsupportedError, match=r"bend \(2, .*'first'\); fold \(1, .*'third'\)"):
        MLProgram.open(path)


def rename_argument(block: Any) -> None:
    softmax = next(each for each in block.operations if each.type == "softmax")
    softmax.inputs["dimension"].CopyFrom(softmax.inputs["axis"])


def drop_argument(block: Any) -> None:
    del next(each for each in block.operations if each.type == "linear").inputs["weight"]


def declare_shape(block: Any) -> None:
    linear = next(each for each in block.operations if each.type == "linear")
    linear.outputs[0].type.tensorType.dimensions[1].constant.size = 31


def declare_integer(block: Any) -> None:
    softmax = next(each for each in block.operations if each.type == "softmax")
    softmax.outputs[0].type.tensorType.dataType = 23


def read_later_result(block: Any) -> None:
    linear = next(each for each in block.operations if each.type == "linear")
    linear.inputs["x"].arguments[0].name = "shares"


def return_nothing_computed(block: Any) -> None:
    block.outputs[0] = "elsewhere"


def two_results(block: Any) -> None:
    softmax = next(each for each in block.operations if each.type == "softmax")
    softmax.outputs.add(name="more").type.CopyFrom(softmax.outputs[0].type)


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (rename_argument, UnsupportedError, "op softmax 'shares': arguments .* not know: dimension"),
        (drop_argument, BundleError, "op linear 'linear_0': lacks the arguments weight"),
        (declare_shape, BundleError, r"op linear .* declares 'linear_0' as \[2, 31\], .* result is \[2, 32\]"),
        (declare_integer, BundleError, "op softmax .* declares 'shares' as int32, .* floating point"),
        (read_later_result, BundleError, "op linear .*'x': reads 'shares', which nothing before it computes"),
        (return_nothing_computed, BundleError, "returns 'elsewhere', which nothing computes"),
        (two_results, BundleError, "op softmax 'shares': 2 results declared, 1 computed"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_program_that_contradicts_itself_is_refused_at_open(
    edit: Callable[[Any], None], error: type[EdgeVLMError], message: str, tmp_path: Path
) -> None:
    path = write_program(tmp_path / "p.mlpackage", INPUTS, body, edit=edit)
    with pytest.raises(error, match=message):
        MLProgram.open(path)


def edit_manifest(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def damage(package: Path) -> None:
        manifest = json.loads((package / "Manifest.json").read_text())
        change(manifest)
        (package / "Manifest.json").write_text(json.dumps(manifest))

    return damage


def escape(manifest: dict[str, Any]) -> None:
    for entry in manifest["itemInfoEntries"].values():
        entry["path"] = "../../../elsewhere.mlmodel"


def overwrite(file: str, offset: int, content: bytes) -> Callable[[Path], None]:
    def damage(package: Path) -> None:
        with (package / file).open("r+b") as stream:
            stream.seek(offset)
            stream.write(content)

    return damage


def cut(file: str, size_bytes: int) -> Callable[[Path], None]:
    def damage(package: Path) -> None:
        content = (package / file).read_bytes()
        (package / file).write_bytes(content[:size_bytes])

    return damage


def other_model_kind(package: Path) -> None:
    from coremltools.proto import Model_pb2

    spec = Model_pb2.Model(specificationVersion=4)
    spec.neuralNetwork.SetInParent()
    (package / MODEL).write_bytes(spec.SerializeToString())


def become_a_file(package: Path) -> None:
    shutil.rmtree(package)
    package.write_bytes(b"model")


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "no folder": (shutil.rmtree, "there is no such package"),
    "a file": (become_a_file, "expected an .mlpackage folder, got a file"),
    "no manifest": (lambda package: (package / "Manifest.json").unlink(), "Manifest.json, which is missing"),
    "manifest is no JSON": (overwrite("Manifest.json", 0, b"~"), "not readable as JSON"),
    "manifest without root": (
        edit_manifest(lambda manifest: manifest.pop("rootModelIdentifier")),
        "expected a root model",
    ),
    "manifest is a list": (lambda package: (package / "Manifest.json").write_text("[]"), "expected a root model"),
    "manifest leads outside": (edit_manifest(escape), "lies outside the package"),
    "no spec": (lambda package: (package / MODEL).unlink(), "model file, which is missing"),
    "empty spec": (cut(MODEL, 0), "expected an ML Program, got an empty specification"),
    "cut spec": (cut(MODEL, 200), "not a Core ML model specification"),
    "another kind of model": (other_model_kind, "expected an ML Program, got neuralNetwork"),
    "no weights": (lambda package: (package / WEIGHTS).unlink(), "weights are missing"),
    "empty weights": (cut(WEIGHTS, 0), "expected at least 64 bytes, got 0"),
    "weights cut before the record": (cut(WEIGHTS, 100), "lies beyond the file's end at 100"),
    "weights cut in the data": (cut(WEIGHTS, 5000), "pass the file's end at 5000"),
    "another storage version": (overwrite(WEIGHTS, 4, b"\x09"), "expected blob storage version 2, got 9"),
    "bad sentinel": (overwrite(WEIGHTS, 64, b"\x00"), "expected the sentinel 0xdeadbeef, got 0xdeadbe00"),
    "another element type": (overwrite(WEIGHTS, 68, b"\x01"), r"expected element type fp32 \(code 2\), got code 1"),
    "too few elements": (overwrite(WEIGHTS, 72, b"\x00\x01"), "expected 2048 fp32 elements, got 256 bytes"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_package_is_refused(kind: str, sound: Path, tmp_path: Path) -> None:
    damage, message = DAMAGE[kind]
    package = tmp_path / "p.mlpackage"
    shutil.copytree(sound, package)
    damage(package)
    with pytest.raises(BundleError, match=message):
        MLProgram.open(package)


# Integer weights, read without running the program


def integers(x: Any, axis: int = 0) -> Any:
    data = np.arange(-64, 64, dtype=np.int8).repeat(16).reshape(32, 64)
    weight = mb.constexpr_affine_dequantize(
        quantized_data=data, zero_point=np.int8(3), scale=np.full(data.shape[axis], 0.5, np.float32), axis=axis
    )
    return mb.linear(x=x, weight=weight, name="product")


def compute_the_scale(block: Any) -> None:
    dequantise = next(each for each in block.operations if each.type == "constexpr_affine_dequantize")
    del dequantise.attributes["scale"]
    dequantise.inputs["scale"].arguments.add().name = "x"


def read_stored(path: Path) -> tuple[StoredWeight, ...]:
    return stored_weights(read_function(path))


def test_integers_are_read_as_they_are_stored(tmp_path: Path) -> None:
    (weight,) = read_stored(write_program(tmp_path / "p.mlpackage", INPUTS, integers))
    assert (weight.bits, weight.scale_type, weight.values.shape) == (8, "float32", (32, 64))
    assert (weight.values.min(), weight.values.max()) == (-64, 63)
    np.testing.assert_array_equal(weight.scale, np.full((32, 1), 0.5))
    np.testing.assert_array_equal(weight.zero_point, np.full((32, 1), 3))


@pytest.mark.parametrize("sparse", [False, True])
def test_integers_are_found_once_for_every_op_that_reads_them(sparse: bool, tmp_path: Path) -> None:
    there = np.arange(32 * 64).reshape(32, 64) % 2 == 1

    def shared(x: Any) -> Any:
        scale, data = np.full((32, 1), 0.5, np.float32), np.where(there, 3, 0).astype(np.int8)
        if sparse:
            mask, values = mb.constexpr_sparse_blockwise_shift_scale(
                data_mask=there.astype(types.np_uint1_dtype), nonzero_data=data[there], scale=scale
            )
            weight = mb.constexpr_sparse_to_dense(nonzero_data=values, mask=mask)
        else:
            weight = mb.constexpr_blockwise_shift_scale(data=data, scale=scale)
        mb.constexpr_blockwise_shift_scale(data=-data, scale=scale, name="unread")
        return mb.add(x=mb.linear(x=x, weight=weight), y=mb.linear(x=mb.tanh(x=x), weight=weight), name="sum")

    first, second = read_stored(write_program(tmp_path / "p.mlpackage", INPUTS, shared))
    assert first.digest() == second.digest()
    np.testing.assert_array_equal(first.values, np.where(there, 3, 0))


def test_integers_that_no_converter_of_ours_wrote_are_refused(tmp_path: Path) -> None:
    across = write_program(tmp_path / "across.mlpackage", INPUTS, lambda x: integers(x, axis=1))
    with pytest.raises(BundleError, match="expected scales along axis 0"):
        read_stored(across)
    computed = write_program(tmp_path / "computed.mlpackage", INPUTS, integers, edit=compute_the_scale)
    with pytest.raises(BundleError, match="expected a constant as scale"):
        read_stored(computed)


@pytest.mark.parametrize("kind", ["no weights", "empty weights", "bad sentinel", "another element type"])
def test_integers_of_a_damaged_package_are_refused(kind: str, tmp_path: Path) -> None:
    package = write_program(tmp_path / "p.mlpackage", INPUTS, integers)
    damage, _ = DAMAGE[kind]
    damage(package)
    with pytest.raises(BundleError):
        read_stored(package)
