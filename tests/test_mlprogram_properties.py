"""Ops on whatever they may be called with: calls drawn at random, many in one program, compared with NumPy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from mlprogram_cases.arithmetic import ARITHMETIC, COMPARISONS, NARROW, UNARY
from mlprogram_draws import DRAWS, Call, Draw, Draws
from mlprograms import Array, write_program

from edgevlm.runtimes.mlprogram.evaluator import MLProgram
from edgevlm.runtimes.mlprogram.opsets import definitions

pytestmark = pytest.mark.apple

FIRST, REST = range(40), range(40, 120)
"""Seeds of each kind of draw."""
TOLERANCE = {np.dtype(np.float16): 2e-3, np.dtype(np.float32): 3e-6}
"""fp16 results may round to either side of what float32 arithmetic leaves in doubt."""


def drawn(draw: Draw, seeds: Iterable[int] = (*FIRST, *REST)) -> list[Call]:
    return [draw(Draws(seed)) for seed in seeds]


def program(path: Path, calls: Sequence[Call]) -> dict[str, Array]:
    """One program of all calls, its results in their order; gives its inputs."""
    inputs = {f"c{i}_{j}": each.carrier for i, call in enumerate(calls) for j, each in enumerate(call.inputs.values())}

    def body(*variables: Any) -> list[Any]:
        given, results = iter(variables), []
        for call in calls:
            results += call.build([next(given) for _ in call.inputs])
        return results

    write_program(path, inputs, body)
    return inputs


@pytest.mark.parametrize("seeds", [FIRST, pytest.param(REST, marks=pytest.mark.slow)], ids=["first", "rest"])
@pytest.mark.parametrize("draw", DRAWS, ids=lambda draw: draw.__name__)
def test_ops_equal_numpy_whatever_they_are_called_with(draw: Draw, seeds: range, tmp_path: Path) -> None:
    calls = drawn(draw, seeds)
    inputs = program(tmp_path / "p.mlpackage", calls)
    answers = list(MLProgram.open(tmp_path / "p.mlpackage").predict(inputs).values())
    wanted = [(call, want) for call in calls for want in call.wanted]
    for got, (call, want) in zip(answers, wanted, strict=True):
        want = np.atleast_1d(want)  # a scalar leaves a program as a vector
        assert got.shape == want.shape, str(call)
        limit = TOLERANCE.get(want.dtype, 0.0)
        np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), limit, limit, err_msg=str(call))


def test_every_type_that_the_ops_take_is_drawn() -> None:
    seen: dict[str, set[str]] = {}
    for call in (each for draw in DRAWS for each in drawn(draw) if not each.values):
        name, given = next(iter(call.inputs.items()))
        seen.setdefault(f"{call.kind}.{name}", set()).add(given.dtype)
    missing = {place: types_of(place) - found for place, found in seen.items() if types_of(place) - found}
    assert missing == NOT_DRAWN


def types_of(place: str) -> set[str]:
    kind, argument = place.split(".")
    return set(definitions()[kind][-1].arguments[argument].types or ())


NOT_DRAWN: Mapping[str, set[str]] = {
    # Of integers MIL does not say how these round, and the evaluator refuses them.
    "reduce_l2_norm.x": {"int32"},
    "reduce_log_sum.x": {"int32"},
    "reduce_log_sum_exp.x": {"int32"},
    "reduce_mean.x": {"int32"},
}


def test_draws_reach_what_they_are_for() -> None:
    calls = [call for draw in DRAWS for call in drawn(draw)]
    shapes = [np.shape(each.array) for call in calls for each in call.inputs.values()]
    assert {len(shape) for shape in shapes} == set(range(6))
    assert {0, 1} <= {size for shape in shapes for size in shape}
    axes = [call.arguments["axis"] for call in calls if "axis" in call.arguments]
    assert min(axes) <= -5
    assert max(axes) >= 4
    assert len({call.kind for call in calls}) > 80


EXTREMES = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1, -1, 0.5, -2.5, 100, 65504, 1e20, 1e-7], np.float32)
"""What is no number, what overflows, and what the largest of fp16 is."""


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_elementwise_ops_equal_numpy_on_infinities_and_nan(tmp_path: Path) -> None:
    x, y = (each.ravel() for each in np.meshgrid(EXTREMES, EXTREMES))
    one = UNARY | NARROW
    two = ARITHMETIC | COMPARISONS | {"pow": np.power, "real_div": np.true_divide}

    def body(x: Any, y: Any) -> list[Any]:
        return [getattr(mb, kind)(x=x) for kind in one] + [getattr(mb, kind)(x=x, y=y) for kind in two]

    write_program(tmp_path / "p.mlpackage", {"x": x, "y": y}, body)
    answers = MLProgram.open(tmp_path / "p.mlpackage").predict({"x": x, "y": y}).values()
    wanted = [f(x) for f in one.values()] + [f(x, y) for f in two.values()]
    for kind, got, want in zip([*one, *two], answers, wanted, strict=True):
        np.testing.assert_allclose(got, np.asarray(want, np.float32), 1e-5, 1e-7, err_msg=kind)
