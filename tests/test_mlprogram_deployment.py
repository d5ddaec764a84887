"""What is said of a package before it meets a device: the system that it needs, and advice with its source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types
from mlprogram_cases import positive, real, whole
from mlprograms import Array, write_program

from edgevlm.runtimes.mlprogram.deployment import advise, systems
from edgevlm.runtimes.mlprogram.facts import OF_FUNCTIONS, OF_OPS
from edgevlm.runtimes.mlprogram.inspection import inspect_package
from edgevlm.runtimes.mlprogram.opsets import SYSTEMS
from edgevlm.runtimes.mlprogram.package import function_names, read_function, specification_version
from edgevlm.targets.inspection import Addressee, Advice

Body = Callable[..., Any]
X = {"x": real(2, 8)}
IMAGE = {"x": real(1, 4, 32, 32)}
ONE = np.float16(1)


@dataclass(frozen=True)
class Shown:
    """A program about which a fact is known, by the words in which it is said, and one that is like it but for that."""

    says: str
    body: Body
    unlike: Body
    inputs: Mapping[str, Array] = field(default_factory=lambda: X)
    fp16: bool = True
    edit: Callable[[Any], None] = lambda block: None


def masked(*values: float) -> Body:
    return lambda x: mb.add(x=x, y=np.array([*values] * 4, np.float16))


def scaled(blocks: int) -> Body:
    """Integer weights with scales for so many blocks of each output channel."""

    def body(x: Any) -> Any:
        weight = mb.constexpr_blockwise_shift_scale(
            data=np.ones((4, 8), np.int8), scale=np.ones((4, blocks), np.float16)
        )
        return mb.linear(x=x, weight=weight)

    return body


def in_palettes(tables: int) -> Body:
    def body(x: Any) -> Any:
        weight = mb.constexpr_lut_to_dense(
            indices=np.zeros((16, 8), types.np_uint1_dtype), lut=np.ones((tables, 1, 2, 1), np.float16)
        )
        return mb.linear(x=x, weight=weight)

    return body


def looked_up(rows: int) -> Body:
    return lambda x: mb.gather(x=np.zeros((rows, 1), np.float16), indices=x)


def conv(size: int, **arguments: Any) -> Body:
    return lambda x: mb.conv(x=x, weight=np.ones((4, 4, size, size), np.float16), **arguments)


def pool(stride: int) -> Body:
    return lambda x: mb.max_pool(x=x, kernel_sizes=[3, 3], strides=[stride] * 2, pad_type="valid")


def norm(epsilon: float) -> Body:
    return lambda x: mb.layer_norm(x=x, axes=[-1], epsilon=np.float16(epsilon))


def squared_after_scaling(x: Any) -> Any:
    largest = mb.maximum(x=mb.reduce_max(x=mb.abs(x=x), axes=[-1], keep_dims=True), y=np.float16(1e-4))
    x = mb.real_div(x=x, y=largest)
    return mb.reduce_sum(x=mb.mul(x=x, y=x), axes=[-1])


def counted(x: Any) -> Any:
    return mb.while_loop(
        _cond=lambda x: mb.less(x=mb.reduce_sum(x=x), y=np.float16(9)),
        _body=lambda x: mb.add(x=x, y=np.float16(1)),
        loop_vars=(x,),
    )


def recurrent(x: Any) -> Any:
    weights = {"weight_ih": np.ones((3, 8), np.float16), "weight_hh": np.ones((3, 3), np.float16)}
    return mb.rnn(x=mb.expand_dims(x=x, axes=[0]), initial_h=np.zeros((2, 3), np.float16), **weights)[0]


def resampled(x: Any) -> Any:
    return mb.resample(
        x=x,
        coordinates=np.zeros((1, 2, 2, 2), np.float16),
        sampling_mode="bilinear",
        padding_mode="constant",
        padding_value=np.float16(0),
        coordinates_mode="unnormalized",
        align_corners=True,
    )


def one_axis_more(block: Any) -> None:
    """coremltools writes no tensor of six axes, so that one is declared by hand."""
    for operation in block.operations:
        if operation.type == "relu":
            declared = operation.outputs[0].type.tensorType
            for _ in range(4):
                declared.dimensions.add().constant.size = 1
            declared.rank = len(declared.dimensions)


SHOWN = (
    Shown("no tensors of more than 5 axes", lambda x: mb.relu(x=x), lambda x: mb.tanh(x=x), edit=one_axis_more),
    Shown("where the input passes 10.4", lambda x: mb.softplus(x=x), lambda x: mb.softsign(x=x)),
    Shown("the sum of exp(x) overflows", lambda x: mb.reduce_log_sum_exp(x=x), lambda x: mb.reduce_max(x=x)),
    Shown("its logarithm -inf", lambda x: mb.log(x=mb.softmax(x=x)), lambda x: mb.log(x=mb.exp(x=x))),
    Shown(
        "places found in fp16",
        lambda x: mb.reduce_argmax(x=x),
        lambda x: mb.reduce_argmax(x=mb.cast(x=x, dtype="fp32")),
    ),
    Shown("does not handle infinity", masked(0, -np.inf), masked(0, -4e4)),
    Shown("a constant holds NaN", masked(0, np.nan), masked(0, -4e4)),
    Shown(
        "a constant beyond 65504",
        lambda x: mb.add(x=x, y=mb.cast(x=np.float32(-1e9), dtype="fp16")),
        lambda x: mb.add(x=x, y=mb.cast(x=np.float32(-1e4), dtype="fp16")),
    ),
    Shown("its epsilon is 0", norm(1e-12), norm(1e-5)),
    Shown("overflows fp16 when it is squared", lambda x: mb.mul(x=x, y=x), squared_after_scaling),
    Shown(
        "overflows fp16 when it is squared",
        lambda x: mb.pow(x=x, y=np.float16(2)),
        lambda x: mb.pow(x=x, y=np.float16(3)),
    ),
    Shown("overflows fp16 when it is squared", lambda x: mb.reduce_l2_norm(x=x), lambda x: mb.reduce_l1_norm(x=x)),
    Shown("fp32 runs on the GPU", lambda x: mb.exp(x=mb.cast(x=x, dtype="fp32")), lambda x: mb.exp(x=x)),
    Shown(
        "int32 is for the CPU",
        lambda x: mb.add(x=mb.cast(x=x, dtype="int32"), y=np.int32(1)),
        lambda x: mb.cast(x=x, dtype="int32"),
    ),
    Shown("recurrent layers do not run", recurrent, lambda x: mb.tanh(x=x)),
    Shown("loops were not seen", counted, lambda x: mb.tanh(x=x)),
    Shown(
        "scatters fall off",
        lambda x: mb.scatter(data=x, indices=[0], updates=np.zeros((1, 8), np.float16)),
        lambda x: mb.gather(x=x, indices=[0]),
    ),
    Shown("a detector whose other ops", lambda x: mb.topk(x=x, k=1)[0], lambda x: mb.reduce_max(x=x)),
    Shown("grid sampling", resampled, lambda x: mb.resize_bilinear(x=x), IMAGE),
    Shown("indices into more than 32,767 rows", looked_up(32_768), looked_up(32_767), {"x": whole(2, low=0)}),
    Shown(
        "an axis of more than 16,384",
        lambda x: mb.tile(x=x, reps=[1, 2049]),
        lambda x: mb.tile(x=x, reps=[1, 2048]),
    ),
    Shown("per output channel or per tensor", scaled(2), scaled(1)),
    Shown(
        "activations as integers",
        lambda x: mb.dequantize(input=mb.quantize(input=x, scale=ONE, output_dtype="int8"), scale=ONE),
        lambda x: mb.dequantize(input=mb.cast(x=x, dtype="int8"), scale=ONE),
    ),
    Shown("many palettes a weight", in_palettes(4), in_palettes(2)),
    Shown("pads the last axis", lambda x: mb.reduce_max(x=x, axes=[-1], keep_dims=True), lambda x: mb.exp(x=x)),
    Shown("1x1 convolutions", lambda x: mb.linear(x=x, weight=np.ones((2, 8), np.float16)), lambda x: mb.exp(x=x)),
    Shown("the factors 2 and 3 alone", conv(14, strides=[14, 14]), conv(16, strides=[16, 16]), IMAGE),
    Shown("pools well by strides", pool(3), pool(2), IMAGE),
    Shown("wide dilations", conv(3, dilations=[4, 4]), conv(3, dilations=[3, 3]), IMAGE),
)


def found(path: Path, *, weight_bytes: int = 0) -> tuple[Advice, ...]:
    functions = [read_function(path, name) for name in function_names(path)]
    return advise(functions, specification_version(path), weight_bytes)


def saying(advice: tuple[Advice, ...], words: str) -> list[Advice]:
    return [each for each in advice if words in each.message]


@pytest.mark.parametrize("shown", SHOWN, ids=lambda shown: shown.says)
def test_advice_is_given_where_it_holds_and_not_beside(shown: Shown, tmp_path: Path) -> None:
    paths = [
        write_program(tmp_path / f"{name}.mlpackage", shown.inputs, body, fp16=shown.fp16, edit=shown.edit)
        for name, body in (("shown", shown.body), ("unlike", shown.unlike))
    ]
    (advice,) = saying(found(paths[0]), shown.says)
    assert advice.source.startswith("https://")
    assert not saying(found(paths[1]), shown.says)


# Of functions, by what the description says


def edited(path: Path, edit: Callable[[Any], None]) -> Path:
    from coremltools.proto import Model_pb2

    file = path / "Data" / "com.apple.CoreML" / "model.mlmodel"
    spec = Model_pb2.Model.FromString(file.read_bytes())
    edit(spec)
    file.write_bytes(spec.SerializeToString())
    return path


def program(path: Path, body: Body = lambda x: mb.exp(x=x), inputs: Mapping[str, Array] = X, **options: Any) -> Path:
    return write_program(path / "p.mlpackage", inputs, body, **options)


def sized(*bounds: tuple[int, int]) -> Callable[[Any], None]:
    def edit(spec: Any) -> None:
        for low, high in bounds:
            spec.description.input[0].type.multiArrayType.shapeRange.sizeRanges.add(lowerBound=low, upperBound=high)

    return edit


def typed(code: int) -> Callable[[Any], None]:
    """Gives the input another element type, numbered as in MIL.proto."""

    def edit(spec: Any) -> None:
        spec.mlProgram.functions["main"].inputs[0].type.tensorType.dataType = code

    return edit


def with_state(path: Path, width: int) -> Path:
    @mb.program(
        input_specs=[mb.TensorSpec((width,), dtype=types.fp16), mb.StateTensorSpec((width,), dtype=types.fp16)],
        opset_version=ct.target.iOS18,
    )
    def program(x: Any, memory: Any) -> Any:
        return mb.coreml_update_state(state=memory, value=mb.add(x=mb.read_state(input=memory), y=x))

    ct.convert(program, minimum_deployment_target=ct.target.iOS18, skip_model_load=True).save(str(path))
    return path


FUNCTIONS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Path]]] = {
    "hands arrays of": (
        lambda folder: edited(program(folder), typed(24)),
        lambda folder: edited(program(folder), typed(10)),
    ),
    "no size without an upper bound": (
        lambda folder: edited(program(folder), sized((1, -1), (8, 8))),
        lambda folder: edited(program(folder), sized((1, 9), (8, 8))),
    ),
    "only the default one runs": (
        lambda folder: edited(program(folder), sized((1, 9), (8, 8))),
        lambda folder: edited(program(folder), sized((2, 2), (8, 8))),
    ),
    "sizes that depend on values": (lambda folder: program(folder, lambda x: mb.non_zero(x=x)), program),
    "no multiple of 32": (
        lambda folder: with_state(folder / "p.mlpackage", 30),
        lambda folder: with_state(folder / "p.mlpackage", 32),
    ),
}


@pytest.mark.parametrize("says", FUNCTIONS)
def test_advice_on_a_function_is_given_where_it_holds_and_not_beside(says: str, tmp_path: Path) -> None:
    for name, write, count in zip(("shown", "unlike"), FUNCTIONS[says], (1, 0), strict=True):
        (tmp_path / name).mkdir()
        assert len(saying(found(write(tmp_path / name)), says)) == count


def test_every_fact_is_shown_and_has_an_address() -> None:
    messages = [fact.message for fact in (*OF_OPS, *OF_FUNCTIONS)]
    shown = [*(each.says for each in SHOWN), *FUNCTIONS]
    assert all(any(words in message for words in shown) for message in messages)
    assert all(sum(words in message for message in messages) == 1 for words in shown)
    assert all(fact.source.startswith("https://") for fact in (*OF_OPS, *OF_FUNCTIONS))
    assert {fact.to for fact in (*OF_OPS, *OF_FUNCTIONS)} == set(get_args(Addressee))


def test_advice_is_to_who_can_act_on_it() -> None:
    """What a recipe decides is for who converts, the network's own layers for its maker, how ops are written for us."""
    expected = {
        "convert in fp16": "app",
        "float32_ops of a recipe": "app",
        "scales per block": "app",
        "recurrent layers": "model",
        "the factors 2 and 3 alone": "model",
        "1x1 convolutions": "converter",
        "a finite number such as -40000; torch": "converter",
    }
    for words, to in expected.items():
        assert [fact.to for fact in (*OF_OPS, *OF_FUNCTIONS) if words in fact.message] == [to]


def test_weights_of_more_than_a_gigabyte(tmp_path: Path) -> None:
    path = program(tmp_path)
    (advice,) = saying(found(path, weight_bytes=1_500_000_000), "less than 1 GB")
    assert advice.where == "1.5 GB of weights"
    assert not saying(found(path, weight_bytes=900_000_000), "less than 1 GB")


def test_where_names_the_ops_and_the_function(tmp_path: Path) -> None:
    def body(x: Any) -> Any:
        return mb.softplus(x=mb.softplus(x=x, name="first"), name="second")

    (advice,) = saying(found(program(tmp_path, body, fp16=True)), "10.4")
    assert advice.where == "2 softplus, the first being 'first'"


# Systems

INDICES = np.array([0, 1], np.int32)


def attention(x: Any) -> Any:
    return mb.scaled_dot_product_attention(query=x, key=x, value=x)


NEEDS: dict[str, tuple[Body, ct.target, str, str]] = {
    "an old op": (lambda x: mb.exp(x=x), ct.target.iOS18, "iOS15", ""),
    "a newer spelling": (lambda x: mb.gather(x=x, indices=INDICES), ct.target.iOS17, "iOS15", ""),
    "a newer argument": (
        lambda x: mb.gather(x=x, indices=INDICES, validate_indices=True),
        ct.target.iOS18,
        "iOS17",
        "1 gather",
    ),
    "a newer type of indices": (
        lambda x: mb.gather(x=x, indices=INDICES.astype(np.uint16)),
        ct.target.iOS18,
        "iOS16",
        "1 gather",
    ),
    "a newer type": (lambda x: mb.cast(x=x, dtype="int8"), ct.target.iOS17, "iOS17", "2 cast"),
    "types that differ": (
        lambda x: mb.leaky_relu(x=x, alpha=np.float16(0.5)),
        ct.target.iOS17,
        "iOS17",
        "1 leaky_relu",
    ),
    "types that no definition has": (  # the builder itself fills in an epsilon in fp32
        lambda x: mb.layer_norm(x=x, axes=[-1], gamma=np.ones(8, np.float16), beta=np.zeros(8, np.float16)),
        ct.target.iOS17,
        "iOS17",
        "1 layer_norm",
    ),
    "a weight that is computed": (
        lambda x: mb.conv_transpose(x=mb.expand_dims(x=x, axes=[0]), weight=mb.reshape(x=x, shape=[2, 2, 4])),
        ct.target.iOS18,
        "iOS17",
        "1 conv_transpose",
    ),
    "a new op": (
        lambda x: attention(mb.expand_dims(x=x, axes=[0])),
        ct.target.iOS18,
        "iOS18",
        "1 scaled_dot_product_attention",
    ),
    "compressed weights": (scaled(1), ct.target.iOS18, "iOS18", "1 constexpr_blockwise_shift_scale"),
}


@pytest.mark.parametrize("name", NEEDS)
def test_the_oldest_system_follows_from_what_is_used(name: str, tmp_path: Path) -> None:
    body, opset, needed, because = NEEDS[name]
    path = program(tmp_path, body, opset=opset, fp16=name == "compressed weights")
    function = read_function(path)
    answer = systems([function], specification_version(path))
    assert answer.needed.opset == needed
    assert answer.declared is not None
    assert answer.declared.opset == opset.name
    assert ", ".join(need.what for need in answer.because) == because


def test_a_package_that_asks_for_more_than_it_needs_is_named(tmp_path: Path) -> None:
    path = program(tmp_path, opset=ct.target.iOS18)
    (advice,) = (each for each in found(path) if each.kind == "system")
    assert "asks for iOS 18, macOS 15, and needs no more than iOS 15, macOS 12, for anything in it" in advice.message
    for opset in (ct.target.iOS15, ct.target.iOS18):
        body = NEEDS["a new op" if opset == ct.target.iOS18 else "an old op"][0]
        (tmp_path / opset.name).mkdir()
        assert not [each for each in found(program(tmp_path / opset.name, body, opset=opset)) if each.kind == "system"]


def test_a_package_that_asks_for_less_than_it_needs_is_named(tmp_path: Path) -> None:
    path = program(tmp_path, NEEDS["a new op"][0])
    (advice,) = (
        each
        for each in found(edited(path, lambda spec: setattr(spec, "specificationVersion", 6)))
        if each.kind == "system"
    )
    assert advice.where == "1 scaled_dot_product_attention"
    assert "needs iOS 18, macOS 15, and the package asks for iOS 15" in advice.message


def enumerated(*names: int) -> Callable[[Any], None]:
    def edit(spec: Any) -> None:
        for index in names:
            shapes = spec.description.input[index].type.multiArrayType.enumeratedShapes.shapes
            for rows in (2, 4):
                shapes.add(shape=[rows, 8])

    return edit


def several(folder: Path) -> Path:
    descriptor = ct.utils.MultiFunctionDescriptor()
    for name in ("one", "two"):
        path = write_program(folder / f"{name}.mlpackage", X, lambda x: mb.exp(x=x))
        descriptor.add_function(str(path), src_function_name="main", target_function_name=name)
    descriptor.default_function_name = "two"
    ct.utils.save_multifunction(descriptor, str(folder / "both.mlpackage"))
    return folder / "both.mlpackage"


TWO = {"x": real(2, 8), "y": real(2, 8)}
FEATURES: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "a state": (lambda folder: with_state(folder / "p.mlpackage", 32), "iOS18", "the state memory"),
    "several functions": (several, "iOS18", "2 functions"),
    "no inputs": (lambda folder: program(folder, lambda: mb.fill(shape=[2], value=1.5), {}), "iOS18", "no inputs"),
    "an input in fp16": (lambda folder: edited(program(folder), typed(10)), "iOS16", "x in fp16"),
    "an input in int8": (lambda folder: edited(program(folder), typed(21)), "iOS26", "x in int8"),
    "enumerated shapes of two inputs": (
        lambda folder: edited(program(folder, lambda x, y: mb.add(x=x, y=y), TWO), enumerated(0, 1)),
        "iOS18",
        "enumerated shapes of x, y",
    ),
    "enumerated shapes of one": (
        lambda folder: edited(program(folder, lambda x, y: mb.add(x=x, y=y), TWO), enumerated(0)),
        "iOS15",
        "",
    ),
}


@pytest.mark.parametrize("name", FEATURES)
def test_the_oldest_system_follows_from_what_a_package_offers(name: str, tmp_path: Path) -> None:
    write, needed, what = FEATURES[name]
    path = write(tmp_path)
    answer = systems([read_function(path, each) for each in function_names(path)], specification_version(path))
    assert answer.needed.opset == needed
    assert what in [need.what for need in answer.because] or (what == "" and not answer.because)
    assert all(need.source.startswith("https://") for need in answer.because)


def test_systems_are_those_of_coremltools() -> None:
    versions = {each.opset: each.specification_version for each in SYSTEMS}
    assert versions == {name: getattr(ct, f"_SPECIFICATION_VERSION_IOS_{name[3:]}") for name in versions}
    assert {each.specification_version: each.program_opset for each in SYSTEMS}.items() <= ct._OPSET.items()
    assert all(ct.target[each.opset] == ct.target[f"macOS{each.requires['macOS']}"] for each in SYSTEMS)


# Packages


def test_a_package_is_read_whoever_wrote_it(tmp_path: Path) -> None:
    path = several(tmp_path)
    package = inspect_package(path)
    assert [function.name for function in package.functions] == ["two", "one"]
    assert [(value.role, value.name, value.shape) for value in package.functions[0].values] == [
        ("input", "x", (2, 8)),
        ("output", "out0", (2, 8)),
    ]
    assert package.declares == package.needs == {"iOS": "18", "macOS": "15"}
    assert package.because == ("2 functions",)
    assert "Manifest.json" in package.files
    assert {each.where.split(":")[0] for each in package.advice} == {"one", "two"}


def test_states_pictures_and_sizes_are_shown(tmp_path: Path) -> None:
    values = inspect_package(with_state(tmp_path / "p.mlpackage", 32)).functions[0].values
    assert [(value.role, value.name, value.dtype) for value in values[:2]] == [
        ("input", "x", "fp16"),
        ("state", "memory", "fp16"),
    ]
    (tmp_path / "sized").mkdir()
    ranged = edited(program(tmp_path / "sized"), sized((1, 9), (8, 8)))
    assert inspect_package(ranged).functions[0].values[0].sizes == ((1, 9), (8, 8))


def test_a_damaged_constant_is_told(tmp_path: Path) -> None:
    from edgevlm.errors import BundleError

    mask = np.full((64, 64), -1.0, np.float16)
    path = program(tmp_path, lambda x: mb.add(x=x, y=mask), {"x": positive(64, 64)}, fp16=True)
    weights = path / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BundleError, match="pass the file's end at 1000"):
        inspect_package(path)
    weights.unlink()
    with pytest.raises(BundleError, match="weights are missing"):
        inspect_package(path)


def test_an_op_that_no_opset_has_is_told(tmp_path: Path) -> None:
    def rename(spec: Any) -> None:
        (function,) = spec.mlProgram.functions.values()
        function.block_specializations[function.opset].operations[-1].type = "flash_attention"

    path = edited(program(tmp_path, lambda x: mb.relu(x=x), {"x": positive(4)}), rename)
    (told,) = (each for each in inspect_package(path).advice if each.kind == "refused")
    assert told.where == "1 flash_attention"
    assert "the evaluator does not compute it" in told.message
