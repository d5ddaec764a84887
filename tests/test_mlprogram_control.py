"""Branches, loops, lists, states, random numbers and classes: what is more than a function of tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types
from evidence import shows
from mlprograms import write_program

from edgevlm.errors import BundleError, TensorError, UnsupportedError
from edgevlm.runtimes.mlprogram import steps
from edgevlm.runtimes.mlprogram.evaluator import MLProgram
from edgevlm.runtimes.mlprogram.ops import lists
from edgevlm.runtimes.mlprogram.program import Operation

pytestmark = pytest.mark.apple


def run(path: Path, **inputs: Any) -> list[Any]:
    return list(MLProgram.open(path).predict(inputs).values())


@shows("cond", by="by hand")
def test_a_branch_is_taken_and_sees_what_is_around_it(tmp_path: Path) -> None:
    def body(x: Any, n: Any) -> Any:
        doubled = mb.add(x=x, y=x)
        scale = mb.const(val=np.float32(10))
        big = mb.greater(x=mb.squeeze(x=n), y=3)
        # One branch computes, the other returns a value from outside as it is.
        return mb.add(x=mb.cond(pred=big, _true_fn=lambda: mb.mul(x=doubled, y=scale), _false_fn=lambda: x), y=doubled)

    inputs = {"x": np.array([1, -2], np.float32), "n": np.array([5], np.int32)}
    path = write_program(tmp_path / "p.mlpackage", inputs, body)
    np.testing.assert_array_equal(run(path, **inputs)[0], [22, -44])
    np.testing.assert_array_equal(run(path, **{**inputs, "n": np.array([3], np.int32)})[0], [3, -6])


@shows("while_loop", by="by hand")
def test_nested_loops_count(tmp_path: Path) -> None:
    def table(total: Any, i: Any, n: Any) -> Any:
        def inner(total: Any, j: Any) -> Any:
            return mb.add(x=total, y=mb.mul(x=i, y=j)), mb.add(x=j, y=1)

        total, _ = mb.while_loop(
            _cond=lambda total, j: mb.less(x=j, y=n), _body=inner, loop_vars=(total, mb.sub(x=n, y=n))
        )
        return total, mb.add(x=i, y=1), n

    def body(n: Any) -> Any:
        size = mb.squeeze(x=n)
        nought = mb.sub(x=size, y=size)
        results = mb.while_loop(
            _cond=lambda total, i, n: mb.less(x=i, y=n), _body=table, loop_vars=(nought, nought, size)
        )
        return mb.expand_dims(x=results[0], axes=[0])

    path = write_program(tmp_path / "p.mlpackage", {"n": np.array([3], np.int32)}, body)
    for n in (0, 1, 4):
        expected = sum(i * j for i in range(n) for j in range(n))
        np.testing.assert_array_equal(run(path, n=np.array([n], np.int32))[0], [expected])


def test_a_loop_that_does_not_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "MOST_STEPS", 50)

    def body(x: Any) -> Any:
        return mb.while_loop(
            _cond=lambda i: mb.less(x=mb.reduce_sum(x=i), y=1e9), _body=lambda i: mb.add(x=i, y=1.0), loop_vars=(x,)
        )

    with pytest.raises(UnsupportedError, match=r"while_loop .*has not ended after 50 ops"):
        MLProgram.open(write_program(tmp_path / "p.mlpackage", {"x": np.ones(1, np.float32)}, body))


def test_a_branch_may_change_a_size(tmp_path: Path) -> None:
    def body(x: Any, n: Any) -> Any:
        longer = mb.greater(x=mb.squeeze(x=n), y=0)
        part = mb.slice_by_size(x=x, begin=[0], size=mb.add(x=n, y=1))
        return mb.cond(pred=longer, _true_fn=lambda: part, _false_fn=lambda: mb.concat(values=[part, part], axis=0))

    inputs = {"x": np.arange(4, dtype=np.float32), "n": np.array([2], np.int32)}
    path = write_program(tmp_path / "p.mlpackage", inputs, body)
    np.testing.assert_array_equal(run(path, **inputs)[0], [0, 1, 2])
    np.testing.assert_array_equal(run(path, **{**inputs, "n": np.array([0], np.int32)})[0], [0, 0])


def listed(x: Any, y: Any) -> Any:
    made = mb.make_list(init_length=2, elem_shape=(2,))
    empty = mb.list_read(ls=made, index=1)
    made = mb.list_write(ls=made, index=0, value=x)
    longer = mb.list_write(ls=made, index=4, value=y)
    scattered = mb.list_scatter(ls=longer, indices=[2, 1], value=np.array([[-1, -2], [-4, -5]], np.float32))
    return (
        empty,
        mb.list_gather(ls=scattered, indices=[4, 2, 3, 0]),
        mb.list_read(ls=longer, index=1),  # a list is a value: the scatter changed another one
        mb.expand_dims(x=mb.list_length(ls=scattered), axes=[0]),
    )


@shows("make_list", "list_read", "list_write", "list_scatter", "list_gather", "list_length", by="by hand")
def test_lists(tmp_path: Path) -> None:
    inputs = {"x": np.array([1, 3], np.float32), "y": np.array([2, 4], np.float32)}
    empty, gathered, unchanged, length = run(write_program(tmp_path / "p.mlpackage", inputs, listed), **inputs)
    np.testing.assert_array_equal(empty, [0, 0])
    np.testing.assert_array_equal(gathered, [[2, 4], [-1, -2], [0, 0], [1, 3]])
    np.testing.assert_array_equal(unchanged, [0, 0])
    np.testing.assert_array_equal(length, [5])


@pytest.mark.parametrize("dtype", ["fp16", "fp32", "int32", "bool"])
@shows("make_list", "list_read", "list_write", "list_scatter", by="by hand")
def test_lists_of_other_types(dtype: str, tmp_path: Path) -> None:
    def body(x: Any) -> Any:
        value = mb.cast(x=x, dtype=dtype)
        made = mb.list_write(ls=mb.make_list(init_length=3, elem_shape=(2,), dtype=dtype), index=1, value=value)
        rows = mb.list_scatter(ls=made, indices=[2], value=mb.expand_dims(x=value, axes=[0]))
        return [mb.cast(x=mb.list_read(ls=rows, index=i), dtype="fp32") for i in range(3)]

    inputs = {"x": np.array([2.5, -1], np.float32)}
    written = {"int32": [2, -1], "bool": [1, 1]}.get(dtype, [2.5, -1])
    answers = run(write_program(tmp_path / "p.mlpackage", inputs, body), **inputs)
    np.testing.assert_array_equal(answers, [[0, 0], written, written])


@pytest.mark.parametrize(
    ("index", "grows", "message"),
    [(5, True, "index 5 of a list of 2"), (-1, True, "index -1"), (2, False, "may not grow")],
)
def test_an_element_that_a_list_has_not(index: int, grows: bool, message: str, tmp_path: Path) -> None:
    def body(x: Any, n: Any) -> Any:
        made = mb.make_list(init_length=2, elem_shape=(2,), dynamic_length=grows)
        place = mb.squeeze(x=n)
        return mb.list_read(ls=mb.list_write(ls=made, index=place, value=x) if not grows else made, index=place)

    inputs = {"x": np.ones(2, np.float32), "n": np.array([index], np.int32)}
    program = MLProgram.open(write_program(tmp_path / "p.mlpackage", inputs, body))
    with pytest.raises(TensorError, match=f"list_.*{message}"):
        program.predict(inputs)


def test_a_list_beyond_all_memory_is_refused(tmp_path: Path) -> None:
    def body(x: Any) -> Any:
        made = mb.make_list(init_length=2**31 - 1, elem_shape=(1,))
        return mb.list_read(ls=mb.list_write(ls=made, index=0, value=x), index=0)

    path = write_program(tmp_path / "p.mlpackage", {"x": np.ones(1, np.float32)}, body)
    with pytest.raises(UnsupportedError, match=f"make_list.*0 to {lists.LONGEST:,}"):
        MLProgram.open(path)


def stateful(path: Path, *, precision: str = "declared") -> MLProgram:
    """memory <- memory + x; returns the sum before and after, each doubled."""

    @mb.program(
        input_specs=[mb.TensorSpec((2,), dtype=types.fp16), mb.StateTensorSpec((2,), dtype=types.fp16)],
        opset_version=ct.target.iOS18,
    )
    def program(x: Any, memory: Any) -> Any:
        before = mb.read_state(input=memory)
        after = mb.coreml_update_state(state=memory, value=mb.add(x=before, y=x))
        return mb.add(x=before, y=before, name="before"), mb.add(x=after, y=after, name="after")

    ct.convert(program, minimum_deployment_target=ct.target.iOS18, skip_model_load=True).save(str(path))
    return MLProgram.open(path, precision=precision)  # type: ignore[arg-type]


@shows("read_state", "write_state", by="NumPy")
def test_a_state_lasts_from_one_prediction_to_the_next(tmp_path: Path) -> None:
    program = stateful(tmp_path / "p.mlpackage")
    assert [(each.name, each.dtype, each.shape) for each in program.states] == [("memory", "fp16", (2,))]
    assert [each.name for each in program.inputs] == ["x"]
    x = np.array([1, 2], np.float16)
    mine, other = program.make_state(), program.make_state()
    for count in range(3):
        answer = program.predict({"x": x}, mine)
        np.testing.assert_array_equal(answer["before"], 2 * count * x)
        np.testing.assert_array_equal(answer["after"], 2 * (count + 1) * x)
    np.testing.assert_array_equal(mine.read_state("memory"), 3 * x)
    np.testing.assert_array_equal(other.read_state("memory"), 0 * x)
    other.write_state("memory", np.array([5, 6], np.float16))
    np.testing.assert_array_equal(program.predict({"x": x}, other)["before"], [10, 12])
    for _ in range(2):  # without a state each prediction starts anew
        np.testing.assert_array_equal(program.predict({"x": x})["after"], 2 * x)


def test_a_state_is_rounded_like_any_result(tmp_path: Path) -> None:
    x = np.array([2049, 1], np.float32)  # 2049 is no float16
    for precision, expected in (("declared", 2048), ("fp32", 2049)):
        program = stateful(tmp_path / f"{precision}.mlpackage", precision=precision)
        state = program.make_state()
        state.write_state("memory", x)
        assert state.cells["memory"].value[0] == expected


def test_what_a_state_refuses(tmp_path: Path) -> None:
    program = stateful(tmp_path / "p.mlpackage")
    state = program.make_state()
    with pytest.raises(TensorError, match="expected one of the states memory, got 'cache'"):
        state.read_state("cache")
    with pytest.raises(TensorError, match=r"expected \[2\], got \[3\]"):
        state.write_state("memory", np.zeros(3, np.float16))
    path = write_program(tmp_path / "q.mlpackage", {"x": np.ones(1, np.float32)}, lambda x: mb.exp(x=x))
    with pytest.raises(TensorError, match="made by another program"):
        MLProgram.open(path).predict({"x": np.ones(1, np.float32)}, state)


@pytest.mark.parametrize("seed", [-1, 7])
@shows("random_normal", "random_uniform", "random_bernoulli", "random_categorical", by="statistics")
def test_random_numbers_have_their_distribution(seed: int, tmp_path: Path) -> None:
    def body(x: Any) -> Any:
        shape = [200, 100]
        shares = np.log(np.array([[0.2, 0.8], [0.6, 0.4]], np.float32)) + 3
        return (
            mb.random_normal(shape=shape, mean=3.0, stddev=2.0, seed=seed),
            mb.random_uniform(shape=shape, low=-1.0, high=2.0, seed=seed),
            mb.random_bernoulli(shape=shape, prob=0.3, seed=seed),
            mb.random_categorical(x=shares, mode="logits", size=20_000, seed=seed),
            mb.random_categorical(x=np.exp(shares - 3), mode="probs", size=20_000, seed=seed),
            mb.identity(x=x),
        )

    path = write_program(tmp_path / "p.mlpackage", {"x": np.ones(1, np.float32)}, body)
    program = MLProgram.open(path)
    answers = [list(program.predict({"x": np.ones(1, np.float32)}).values()) for _ in range(2)]
    normal, uniform, bernoulli, logits, probabilities, _ = answers[0]
    assert normal.mean() == pytest.approx(3, abs=0.06)
    assert normal.std() == pytest.approx(2, abs=0.05)
    assert (uniform.min(), uniform.max(), uniform.mean()) == pytest.approx((-1, 2, 0.5), abs=0.03)
    assert set(np.unique(bernoulli)) == {0, 1}
    assert bernoulli.mean() == pytest.approx(0.3, abs=0.02)
    for drawn in (logits, probabilities):
        np.testing.assert_allclose(drawn.mean(-1), [0.8, 0.4], atol=0.02)
    for first, second in zip(answers[0][:-1], answers[1][:-1], strict=True):
        assert np.array_equal(first, second) == (seed != -1)  # a seed repeats itself, none draws anew


@pytest.mark.parametrize("labels", [["cat", "dog", "owl"], [10, 20, 30]], ids=["texts", "numbers"])
@shows("classify", by="NumPy")
def test_a_classifier_names_the_class(labels: list[Any], tmp_path: Path) -> None:
    @mb.program(input_specs=[mb.TensorSpec((1, 3))], opset_version=ct.target.iOS16)
    def program(x: Any) -> Any:
        return mb.softmax(x=x, name="shares")

    model = ct.convert(
        program,
        minimum_deployment_target=ct.target.iOS16,
        classifier_config=ct.ClassifierConfig(labels, predicted_feature_name="what"),
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    model.save(str(tmp_path / "p.mlpackage"))
    answer = MLProgram.open(tmp_path / "p.mlpackage").predict({"x": np.array([[1, 3, 2]], np.float32)})
    assert answer["what"] == labels[1]
    assert type(answer["what"]) is type(labels[1])
    (shares,) = (value for value in answer.values() if isinstance(value, dict))
    expected = np.exp([1, 3, 2]) / np.exp([1, 3, 2]).sum()
    assert shares == {label: pytest.approx(share, rel=1e-6) for label, share in zip(labels, expected, strict=True)}


def test_ops_in_nested_blocks_are_seen(tmp_path: Path) -> None:
    def body(x: Any) -> Any:
        small = mb.less(x=mb.reduce_sum(x=x), y=2.0)
        return mb.cond(pred=small, _true_fn=lambda: mb.exp(x=x), _false_fn=lambda: mb.sqrt(x=x))

    def bent(block: Any) -> None:
        nested = next(each for each in block.operations if each.type == "cond").blocks[1].operations
        next(each for each in nested if each.type == "sqrt").type = "bend"

    inputs = {"x": np.ones(1, np.float32)}
    path = write_program(tmp_path / "p.mlpackage", inputs, body)
    program = MLProgram.open(path)
    assert {"exp", "sqrt", "cond"} <= {each.kind for each in program.op_counts()}
    ran: list[str] = []

    def note(operation: Operation, results: Any) -> None:
        ran.append(operation.kind)

    program.predict(inputs, observe=note)
    assert ("exp" in ran, "sqrt" in ran) == (True, False)
    with pytest.raises(UnsupportedError, match="bend"):
        MLProgram.open(write_program(tmp_path / "q.mlpackage", inputs, body, edit=bent))


def test_a_branch_without_its_block_is_refused(tmp_path: Path) -> None:
    def body(x: Any) -> Any:
        small = mb.less(x=mb.reduce_sum(x=x), y=2.0)
        return mb.cond(pred=small, _true_fn=lambda: mb.exp(x=x), _false_fn=lambda: mb.sqrt(x=x))

    def cut(block: Any) -> None:
        del next(each for each in block.operations if each.type == "cond").blocks[1]

    path = write_program(tmp_path / "p.mlpackage", {"x": np.ones(1, np.float32)}, body, edit=cut)
    with pytest.raises(BundleError, match="expected 2 nested blocks, got 1"):
        MLProgram.open(path)
