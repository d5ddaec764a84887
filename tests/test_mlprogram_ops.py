"""Each op by itself: built with coremltools' builder, evaluated, and compared with its oracle."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types
from evidence import on_its_page, shows, uses_torch
from mil_tables import mil_defaults, mil_versions
from mlprogram_cases import CASES, RNG, Case, positive, real, whole
from mlprograms import Array, write_program

from edgevlm.errors import TensorError, UnsupportedError
from edgevlm.runtimes.mlprogram.evaluator import MLProgram
from edgevlm.runtimes.mlprogram.ops import OPS
from edgevlm.runtimes.mlprogram.opsets import definitions

pytestmark = pytest.mark.apple


def has_defaults(case: Case) -> bool:
    given = {"values", *case.inputs, *case.arguments} - {*case.omitted}
    return not set(OPS[case.kind].parameters) <= given


def takes_floats_only(case: Case) -> bool:
    return (
        case.kind != "cast"
        and not case.bools
        and not case.integer
        and all(each.dtype == np.float32 for each in case.inputs.values())
    )


def by_kind(cases: Iterable[Case]) -> list[list[Case]]:
    found: dict[str, list[Case]] = {}
    for case in cases:
        found.setdefault(case.kind, []).append(case)
    return list(found.values())


def halved(value: Any) -> Any:
    """An argument in float16 if it is floating point."""
    if isinstance(value, tuple):
        return tuple(halved(each) for each in value)
    return np.asarray(value, np.float16) if np.asarray(value).dtype.kind == "f" else value


def in_older_opsets() -> Iterator[Case]:
    """Cases of each definition of an op that no case is written for, where an older opset takes the call as well."""
    written = {(case.kind, defined_in(case.kind, case.opset)) for case in CASES}
    for case in CASES:
        for definition in definitions()[case.kind]:
            older = replace(case, opset=ct.target[definition.opset])
            if older.opset < case.opset and (case.kind, definition.opset) not in written and older.fits():
                yield older


def defined_in(kind: str, opset: ct.target) -> str:
    """The opset whose definition of an op a program of that opset has."""
    return [each.opset for each in definitions()[kind] if ct.target[each.opset] <= opset][-1]


OLDER = list(in_older_opsets())
VARIANTS = [
    pytest.param(
        case,
        stripped,
        id=f"{case.kind}-{case.opset.name}-{'defaults left out' if stripped else 'as built'}",
        marks=() if cases is CASES else pytest.mark.slow,
    )
    for cases in (CASES, OLDER)
    for case in cases
    for stripped in ([False, True] if has_defaults(case) else [False])
]
"""An op of an older opset is the same code; whether it is told apart from today's, the second tier asks."""
ONE_A_KIND = [max(cases, key=lambda case: len(case.arguments)) for cases in by_kind(filter(takes_floats_only, CASES))]


@pytest.mark.parametrize(("case", "stripped"), VARIANTS)
def test_op_equals_its_oracle(case: Case, stripped: bool, tmp_path: Path) -> None:
    path = tmp_path / "op.mlpackage"
    write_program(path, case.inputs, case.build, opset=case.opset, edit=case.strip if stripped else lambda block: None)
    answer = MLProgram.open(path).predict(case.inputs)
    expected, by_torch = uses_torch(lambda: case.expected(**case.inputs))
    assert by_torch == (case.oracle == "torch")
    same(answer.values(), expected if isinstance(expected, list) else [expected])
    if not case.inferred_otherwise and (inferred := case.inferred()) is not None:
        same(answer.values(), inferred)


def same(answers: Iterable[Any], expected: list[Any]) -> None:
    for got, want in zip(answers, expected, strict=True):
        want = want if np.ndim(want) or np.ndim(got) == 0 else np.reshape(want, 1)  # a scalar leaves as a vector
        assert got.shape == np.shape(want)
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("kind", sorted(kind for kind, op in OPS.items() if op.moves and "state" not in kind))
def test_what_moves_numbers_makes_none(kind: str) -> None:
    cases = [case for case in CASES if case.kind == kind]
    assert cases
    for case in cases:
        given = np.concatenate([np.ravel(each) for each in (*case.inputs.values(), *constants(case))])
        found = case.expected(**case.inputs)
        for each in found if isinstance(found, list) else [found]:
            assert {*np.ravel(each).tolist()} <= {*given.tolist()}


def constants(case: Case) -> Iterator[Any]:
    """Arguments that are numbers, or several."""
    for value in case.arguments.values():
        yield from (each for each in (value if isinstance(value, tuple) else (value,)) if not isinstance(each, str))


@pytest.mark.parametrize("reason", sorted({case.inferred_otherwise for case in CASES} - {""}))
def test_where_coremltools_infers_otherwise_it_still_does(reason: str) -> None:
    def differs(case: Case) -> bool:
        expected = case.expected(**case.inputs)
        try:
            same(case.inferred() or [], expected if isinstance(expected, list) else [expected])
        except (AssertionError, TypeError, ValueError):
            return True
        return False

    assert any(differs(case) for case in CASES if case.inferred_otherwise == reason)


@pytest.mark.parametrize("case", ONE_A_KIND, ids=lambda case: case.kind)
def test_fp16_rounds_the_result_and_nothing_else(case: Case, tmp_path: Path) -> None:
    halves = {name: array.astype(np.float16).astype(np.float32) for name, array in case.inputs.items()}
    arguments = {name: halved(value) if name != "spatial_scale" else value for name, value in case.arguments.items()}
    half = replace(case, inputs=halves, arguments=arguments)
    path = write_program(tmp_path / "op.mlpackage", halves, half.build, opset=case.opset, fp16=True)
    rounded, unrounded = (MLProgram.open(path, precision=each).predict(halves) for each in ("declared", "fp32"))
    for got, exact in zip(rounded.values(), unrounded.values(), strict=True):
        np.testing.assert_array_equal(got, exact.astype(np.float16).astype(np.float32))


# Where MIL computes a default from the input's rank or the weight, ours is None and means the same.
FROM_RANK = {"strides": [1, 1], "dilations": [1, 1], "pad": [0] * 4, "axes": [0, 1, 2, 3], "bias": [0.0] * 3}


# What is one of two arguments, by version of the op, is optional here; and where ours is None the op has no such
# argument, as the versions before iOS 17 have none to validate.
EITHER = {"crop_resize": {"roi", "boxes"}}
FROM_RANK["validate_indices"] = False
FROM_RANK["box_indices"] = [0]
FROM_RANK["pad_value"] = 0.0


@pytest.mark.parametrize("kind", sorted(set(OPS) - {"write_state"}))  # written by coremltools' back end alone
def test_arguments_and_defaults_are_those_of_coremltools(kind: str) -> None:
    ours = inspect.signature(OPS[kind].function).parameters
    for version in mil_versions(kind):
        # What begins with an underscore is a nested block.
        specification = {name: each for name, each in version.input_spec.input_types.items() if name[0] != "_"}
        assert set(specification) <= set(ours)
        defaults = mil_defaults(version)
        for name, argument in specification.items():
            default = ours[name].default
            if not argument.optional:
                continue
            assert default is not inspect.Parameter.empty, name
            theirs = defaults.get(name)
            if default is None and theirs is not None:
                assert np.array_equal(theirs, FROM_RANK[name]), name
            elif isinstance(default, float):
                assert default == pytest.approx(float(theirs)), name
            else:
                assert default == theirs, name
    required = {name for name, each in ours.items() if each.default is inspect.Parameter.empty}
    required -= set(OPS[kind].branches)
    assert any(
        required | (EITHER.get(kind, set()) & set(types_))
        == {name for name, each in types_.items() if not each.optional and name[0] != "_"}
        for types_ in (version.input_spec.input_types for version in mil_versions(kind))
    )


def test_shapes_that_are_computed_at_run_time(tmp_path: Path) -> None:
    def body(x: Any, n: Any) -> Any:
        count = mb.squeeze(x=n)
        ramp = mb.range_1d(start=np.int32(1), end=count, step=np.int32(2))
        sizes = mb.concat(values=[n, mb.shape(x=ramp)], axis=0)
        return ramp, mb.fill(shape=sizes, value=2.5), mb.reshape(x=x, shape=mb.concat(values=[n, [-1]], axis=0))

    inputs = {"x": real(6, 4), "n": np.array([8], np.int32)}
    program = MLProgram.open(write_program(tmp_path / "p.mlpackage", inputs, body))
    ramp, filled, reshaped = program.predict(inputs).values()
    np.testing.assert_array_equal(ramp, [1, 3, 5, 7])
    np.testing.assert_array_equal(filled, np.full((8, 4), 2.5))
    np.testing.assert_array_equal(reshaped, inputs["x"].reshape(8, 3))


@shows("fill", "range_1d", by="by hand")
def test_fill_and_range_of_constants(tmp_path: Path) -> None:
    def body(x: Any) -> Any:
        return (
            mb.fill(shape=[2, 3]),
            mb.fill(shape=[2], value=np.int32(7)),
            mb.fill(shape=[2], value=True),
            mb.range_1d(start=0.5, end=2.1, step=0.5),
            mb.identity(x=x),
        )

    inputs = {"x": real(1)}
    zeros, sevens, trues, ramp, _ = (
        MLProgram.open(write_program(tmp_path / "p.mlpackage", inputs, body)).predict(inputs).values()
    )
    np.testing.assert_array_equal(zeros, np.zeros((2, 3)))
    np.testing.assert_array_equal(sevens, [7, 7])
    np.testing.assert_array_equal(trues, [1, 1])
    np.testing.assert_array_equal(ramp, [0.5, 1, 1.5, 2])


@pytest.mark.parametrize("kind", ["gather", "gather_nd", "gather_along_axis"])
@pytest.mark.parametrize(
    ("index", "opset"), [(4, ct.target.iOS16), (-5, ct.target.iOS16), (4, ct.target.iOS17), (-1, ct.target.iOS17)]
)
def test_an_index_out_of_range_is_refused(kind: str, index: int, opset: ct.target, tmp_path: Path) -> None:
    inputs = {"x": real(4), "indices": np.array([0], np.int32)}
    body = {
        "gather_nd": lambda x, indices: mb.gather_nd(x=x, indices=mb.expand_dims(x=indices, axes=[1])),
        "gather": lambda x, indices: mb.gather(x=x, indices=indices),
        "gather_along_axis": lambda x, indices: mb.gather_along_axis(x=x, indices=indices),
    }[kind]
    program = MLProgram.open(write_program(tmp_path / "p.mlpackage", inputs, body, opset=opset))
    with pytest.raises(TensorError, match=f"op {kind} .* out of range"):
        program.predict({**inputs, "indices": np.array([index], np.int32)})


@pytest.mark.parametrize("length", [2, -1])
def test_where_a_slice_begins_may_be_computed(length: int, tmp_path: Path) -> None:
    inputs = {"x": real(1, 4), "begin": np.array([0, 2], np.int32)}

    def body(x: Any, begin: Any) -> Any:
        return mb.slice_by_size(x=x, begin=begin, size=[1, length])

    program = MLProgram.open(write_program(tmp_path / "p.mlpackage", inputs, body))  # whose trial begins at [1, 1]
    (answer,) = program.predict(inputs).values()
    np.testing.assert_array_equal(answer, inputs["x"][:, 2:])
    with pytest.raises(TensorError, match=r"op slice_by_size .* a slice from 1 to 2 of an axis of size 1"):
        program.predict({**inputs, "begin": np.array([1, 2], np.int32)})


@pytest.mark.parametrize(
    ("inputs", "body", "message"),
    [
        ({"x": whole(3, 3)}, lambda x: mb.reduce_mean(x=x, axes=[0]), "reduce_mean.*fp16 or fp32, got int32"),
        (
            {"x": real(1, 1, 4, 4)},
            lambda x: mb.resize_nearest_neighbor(x=x, target_size_height=6, target_size_width=4),
            "resize_nearest_neighbor.*4 pixels to 6",
        ),
        (
            {"x": real(1, 1, 4, 4)},
            lambda x: mb.resize(
                x=x,
                shape=[6, 6],
                resized_dims=np.uint32(2),
                interpolation_mode="NEAREST_NEIGHBOR",
                sampling_mode="ALIGN_CORNERS",
            ),
            "resize.*ALIGN_CORNERS with the nearest pixel",
        ),
    ],
    ids=["integer mean", "fractional nearest", "corners of the nearest"],
)
def test_what_an_op_does_not_handle_is_refused_at_open(
    inputs: dict[str, Array], body: Callable[..., Any], message: str, tmp_path: Path
) -> None:
    path = write_program(tmp_path / "p.mlpackage", inputs, body)
    with pytest.raises(UnsupportedError, match=message):
        MLProgram.open(path)


def test_a_negative_quotient_of_integers(tmp_path: Path) -> None:
    inputs = {"x": np.array([7, -6], np.int32), "y": np.array([2, 3], np.int32)}
    program = MLProgram.open(write_program(tmp_path / "p.mlpackage", inputs, lambda x, y: mb.real_div(x=x, y=y)))
    np.testing.assert_array_equal(program.predict(inputs)["out0"], [3, -2])
    with pytest.raises(UnsupportedError, match=r"real_div.*negative quotient"):
        program.predict({**inputs, "x": np.array([7, -7], np.int32)})


def compressed(path: Path, body: Callable[[], Any], opset: ct.target) -> Array:
    """Evaluates a constexpr op by adding its result to zero."""
    write_program(path, {"x": np.zeros(1, np.float32)}, lambda x: mb.add(x=x, y=body()), opset=opset)
    (answer,) = MLProgram.open(path).predict({"x": np.zeros(1, np.float32)}).values()
    return answer


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@shows("constexpr_affine_dequantize", by="NumPy")
def test_affine_dequantize(axis: int, dtype: Any, tmp_path: Path) -> None:
    data = RNG.integers(0 if dtype is np.uint8 else -128, 127, (3, 4)).astype(dtype)
    n = data.shape[axis]
    scale, zero = positive(n), RNG.integers(0, 100, n).astype(dtype)
    spread = (-1, 1) if axis == 0 else (1, -1)
    answer = compressed(
        tmp_path / "p.mlpackage",
        lambda: mb.constexpr_affine_dequantize(quantized_data=data, zero_point=zero, scale=scale, axis=axis),
        ct.target.iOS16,
    )
    expected = (data.astype(np.float64) - zero.reshape(spread)) * scale.reshape(spread)
    np.testing.assert_allclose(answer, expected, rtol=1e-6)


@pytest.mark.parametrize("blocks", [(1, 1), (4, 1), (4, 2), (2, 3)])
@pytest.mark.parametrize(
    "dtype",
    [types.np_int4_dtype, types.np_uint4_dtype, np.int8, np.uint8],
    ids=["int4", "uint4", "int8", "uint8"],
)
@pytest.mark.parametrize("shifted", [True, False])
@shows("constexpr_blockwise_shift_scale", by="NumPy")
def test_blockwise_shift_scale(blocks: tuple[int, int], dtype: Any, shifted: bool, tmp_path: Path) -> None:
    low, high = (0, 16) if dtype in (types.np_uint4_dtype, np.uint8) else (-8, 8)
    data = RNG.integers(low, high, (4, 6))
    scale, offset = positive(*blocks), RNG.integers(low, high, blocks) * shifted
    answer = compressed(
        tmp_path / "p.mlpackage",
        lambda: mb.constexpr_blockwise_shift_scale(
            data=data.astype(dtype), scale=scale, **({"offset": offset.astype(dtype)} if shifted else {})
        ),
        ct.target.iOS18,
    )
    repeat = np.ones((4 // blocks[0], 6 // blocks[1]))
    expected = (data - np.kron(offset, repeat)) * np.kron(scale, repeat)
    np.testing.assert_allclose(answer, expected, rtol=1e-6)


@pytest.mark.parametrize("blocks", [(1, 1), (4, 1), (2, 3)])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("dtype", [types.np_int4_dtype, np.int8], ids=["int4", "int8"])
@shows("constexpr_sparse_blockwise_shift_scale", "constexpr_sparse_to_dense", by="NumPy")
def test_sparse_blockwise_shift_scale(blocks: tuple[int, int], shifted: bool, dtype: Any, tmp_path: Path) -> None:
    mask = RNG.integers(0, 2, (4, 6)).astype(np.uint8)
    data = RNG.integers(-8, 8, (4, 6))
    scale, offset = positive(*blocks), RNG.integers(-8, 8, blocks) * shifted

    def body() -> Any:
        there, values = mb.constexpr_sparse_blockwise_shift_scale(
            data_mask=mask.astype(types.np_uint1_dtype),
            nonzero_data=data[mask == 1].astype(dtype),
            scale=scale,
            **({"offset": offset.astype(dtype)} if shifted else {}),
        )
        return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=there)

    answer = compressed(tmp_path / "p.mlpackage", body, ct.target.iOS18)
    repeat = np.ones((4 // blocks[0], 6 // blocks[1]))
    expected = (data - np.kron(offset, repeat)) * np.kron(scale, repeat) * mask
    np.testing.assert_allclose(answer, expected, rtol=1e-6)


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
@shows("constexpr_lut_to_dense", by="NumPy")
def test_packed_lookup_table(bits: int, tmp_path: Path) -> None:
    table, keys = real(2**bits), RNG.integers(0, 2**bits, (3, 5))
    stream = "".join(f"{key:0{bits}b}"[::-1] for key in keys.reshape(-1))
    stream += "0" * (-len(stream) % 8)
    packed = np.array([int(stream[i : i + 8][::-1], 2) for i in range(0, len(stream), 8)], np.uint8)
    answer = compressed(
        tmp_path / "p.mlpackage",
        lambda: mb.constexpr_lut_to_dense(indices=packed, lut=table, shape=np.array([3, 5], np.uint32)),
        ct.target.iOS16,
    )
    np.testing.assert_array_equal(answer, table[keys])


@shows("constexpr_lut_to_dense", by="MIL's example")
def test_grouped_lookup_tables(tmp_path: Path) -> None:
    keys = np.array([2, 3, 3, 0, 1, 0, 3, 0, 2, 1, 0, 3], types.np_uint2_dtype).reshape(6, 2)
    tables = np.array([1, 5, 9, 13, 2, 10, 18, 26], np.float32).reshape(2, 1, 4, 1)
    answer = compressed(
        tmp_path / "p.mlpackage", lambda: mb.constexpr_lut_to_dense(indices=keys, lut=tables), ct.target.iOS18
    )
    expected = [[9, 13], [13, 1], [5, 1], [26, 2], [18, 10], [2, 26]]
    on_its_page("constexpr_lut_to_dense", *(f"->{each}.0" for row in expected for each in row))
    np.testing.assert_array_equal(answer, expected)


@pytest.mark.parametrize("axis", [1, 2, -1])
@shows("constexpr_lut_to_dense", by="MIL's example")
def test_lookup_tables_of_vectors(axis: int, tmp_path: Path) -> None:
    keys = np.array([0, 0, 1, 0, 1, 1, 0, 0], types.np_uint1_dtype).reshape(2, 2, 2)
    table = np.array([[1, 2, 3], [4, 5, 6]], np.float32).reshape(1, 1, 1, 2, 3)
    answer = compressed(
        tmp_path / "p.mlpackage",
        lambda: mb.constexpr_lut_to_dense(indices=keys, lut=table, vector_axis=axis),
        ct.target.iOS18,
    )
    by_columns = [[[1, 1], [2, 2], [3, 3], [4, 1], [5, 2], [6, 3]], [[4, 4], [5, 5], [6, 6], [1, 1], [2, 2], [3, 3]]]
    by_rows = [[[1, 2, 3, 1, 2, 3], [4, 5, 6, 1, 2, 3]], [[4, 5, 6, 4, 5, 6], [1, 2, 3, 1, 2, 3]]]
    expected = by_columns if axis == 1 else by_rows
    letters = ["", "a0", "a1", "a2", "b0", "b1", "b2"]  # as the page calls the numbers of the table
    lines = (f"[{', '.join(letters[each] for each in row)}]" for plane in expected for row in plane)
    on_its_page("constexpr_lut_to_dense", f"vector_axis = {axis % 3}", "The output values are", *lines)
    np.testing.assert_array_equal(answer, expected)


@pytest.mark.parametrize("vector", [1, 2])
@pytest.mark.parametrize("axis", [0, 1])
@shows("constexpr_lut_to_sparse", by="NumPy")
def test_lookup_tables_of_sparse_weights(vector: int, axis: int, tmp_path: Path) -> None:
    mask = np.array([[1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 1], [0, 1, 1, 0, 1, 0], [0, 0, 0, 1, 0, 0]], np.uint8)
    keys = np.array([0, 1, 1, 0, 1, 1, 0, 0, 1], np.uint8)
    table = np.array([[2.0, 2.5], [3.0, 3.5]], np.float32)[:, :vector]

    def body() -> Any:
        there, values = mb.constexpr_lut_to_sparse(
            indices_mask=mask.astype(types.np_uint1_dtype),
            indices_nonzero_data=keys.astype(types.np_uint1_dtype),
            lut=table.reshape(1, 1, 2, vector),
            vector_axis=axis,
        )
        return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=there)

    answer = compressed(tmp_path / "p.mlpackage", body, ct.target.iOS18)
    lines = np.zeros((*mask.shape, vector))
    lines[mask == 1] = table[keys]
    expected = lines.transpose((0, 2, 1) if axis == 0 else (0, 1, 2)).reshape(
        (4 * vector, 6) if axis == 0 else (4, 6 * vector)
    )
    np.testing.assert_array_equal(answer, expected)


@pytest.mark.parametrize("precision", ["declared", "fp32"])
def test_a_restored_weight_is_what_the_device_holds(precision: Any, tmp_path: Path) -> None:
    data, scale = np.array([[1, 3, 100]], np.int8), np.array([[1 / 3]], np.float16)

    def body(x: Any) -> Any:
        return mb.add(x=x, y=mb.constexpr_blockwise_shift_scale(data=data, scale=scale))

    nought = {"x": np.zeros((1, 3), np.float32)}
    path = write_program(tmp_path / "p.mlpackage", nought, body, opset=ct.target.iOS18, fp16=True)
    (answer,) = MLProgram.open(path, precision=precision).predict(nought).values()
    products = data * scale.astype(np.float64)
    assert np.all(products[:, 1:] != products[:, 1:].astype(np.float16))
    np.testing.assert_array_equal(answer, products.astype(np.float16))


@pytest.mark.parametrize("opset", [ct.target.iOS16, ct.target.iOS18])
@shows("constexpr_cast", by="by hand")
def test_a_constant_that_is_cast(opset: ct.target, tmp_path: Path) -> None:
    half = np.array([1.5, -2], np.float16)
    answer = compressed(
        tmp_path / "p.mlpackage",
        lambda: mb.constexpr_cast(source_val=half, output_dtype="fp32"),
        opset,
    )
    np.testing.assert_array_equal(answer, half)


@pytest.mark.parametrize("opset", [ct.target.iOS16, ct.target.iOS18])
@shows("constexpr_sparse_to_dense", by="by hand")
def test_sparse_to_dense(opset: ct.target, tmp_path: Path) -> None:
    mask = np.array([[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]], np.uint8)
    data = np.array([1.5, -2, 3, 4], np.float32)

    def body() -> Any:
        if opset == ct.target.iOS18:
            return mb.constexpr_sparse_to_dense(nonzero_data=data, mask=mask.astype(types.np_uint1_dtype))
        packed = np.packbits(mask, bitorder="little")
        return mb.constexpr_sparse_to_dense(nonzero_data=data, mask=packed, shape=np.array([2, 5], np.uint32))

    answer = compressed(tmp_path / "p.mlpackage", body, opset)
    np.testing.assert_array_equal(answer, [[0, 1.5, -2, 0, 0], [3, 0, 0, 0, 4]])


@pytest.mark.parametrize("biased", [False, True])
def test_a_product_whose_halves_are_widened_in_parts(biased: bool, tmp_path: Path) -> None:
    x, weight, bias = (real(*shape).astype(np.float16) for shape in ((3, 5), (600, 5), (600,)))
    path = write_program(
        tmp_path / "p.mlpackage",
        {"x": x.astype(np.float32)},
        lambda x: mb.linear(x=x, weight=weight, **({"bias": bias} if biased else {})),
        fp16=True,
    )
    (answer,) = MLProgram.open(path, precision="fp32").predict({"x": x}).values()
    expected = x.astype(np.float64) @ weight.T.astype(np.float64) + bias * biased
    np.testing.assert_allclose(answer, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("biased", [False, True])
def test_a_row_of_halves_is_summed_in_float32(biased: bool, tmp_path: Path) -> None:
    x, weight = np.full((1, 1, 4096), 0.125, np.float16), np.full((2, 4096), 8, np.float16)
    weight[1, ::2] = -8  # sums of halves would stop at 2,048, and lose what cancels
    weight[1, 0] = 0
    bias = np.array([1.0, 2**-9], np.float16)
    path = write_program(
        tmp_path / "p.mlpackage",
        {"x": x.astype(np.float32)},
        lambda x: mb.linear(x=x, weight=weight, **({"bias": bias} if biased else {})),
        fp16=True,
    )
    exact = np.array([4096, 1], np.float32) + bias * biased
    for precision in ("declared", "audit", "fp32"):
        (answer,) = MLProgram.open(path, precision=precision).predict({"x": x}).values()
        expected = exact if precision == "fp32" else exact.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(answer, expected[None, None])


def test_half_rounds_to_even_and_overflows_to_infinity(tmp_path: Path) -> None:
    values = np.array([1 + 2**-11, 1 + 3 * 2**-11, 65519, 65520, -1e6, 2**-24, 2**-26], np.float32)
    path = write_program(tmp_path / "p.mlpackage", {"x": values}, lambda x: mb.cast(x=x, dtype="fp16"))
    (answer,) = MLProgram.open(path).predict({"x": values}).values()
    np.testing.assert_array_equal(answer, np.array([1, 1 + 2**-9, 65504, np.inf, -np.inf, 2**-24, 0], np.float32))


@pytest.mark.parametrize(("steady", "ends"), [(True, 3), (False, 1)])
def test_a_place_that_is_computed_makes_nothing_larger(steady: bool, ends: int, tmp_path: Path) -> None:
    """Where an update stands is of no matter to memory, but what a slice takes is; only the first is not watched."""
    x, place = real(4, 3), np.array([1], np.int32)

    def body(x: Any, place: Any) -> Any:
        begin = mb.concat(values=[place, np.array([0], np.int32)], axis=0)
        end = mb.concat(values=[mb.add(x=place, y=np.int32(1)), np.array([ends], np.int32)], axis=0)
        if steady:
            return mb.slice_update(x=x, update=np.ones((1, 3), np.float32), begin=begin, end=end)
        return mb.slice_by_index(x=x, begin=begin, end=end)

    path = write_program(tmp_path / "p.mlpackage", {"x": x, "place": place}, body, opset=ct.target.iOS18)
    program = MLProgram.open(path)
    assert program._bounded == steady
    (answer,) = program.predict({"x": x, "place": place}).values()
    expected = np.concatenate([x[:1], np.ones((1, 3)), x[2:]]) if steady else x[1:2, :1]
    np.testing.assert_array_equal(answer, expected)
