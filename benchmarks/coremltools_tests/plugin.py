"""A pytest plugin that runs coremltools' own tests with the evaluator in Core ML's place.

    pytest -p edgevlm.benchmarks.coremltools_tests.plugin --pyargs coremltools.converters.mil.mil.ops.tests

The wheel carries the tests but compares numbers on macOS alone. Options: `--sample N` runs N cases drawn with
`--sample-seed S`; `--part I/N` every N-th case, `--only FILE` those it lists; `--outcomes FILE`
appends a JSON line for each case.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import inspect
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Read by coremltools' tests when they are imported: ML Programs alone, of every opset, in both precisions.
os.environ.setdefault("PYMIL_TEST_TARGETS", "mlprogram")
os.environ.setdefault("INCLUDE_MIL_FP32_UNIT_TESTS", "1")
os.environ.setdefault("RUN_BACKWARD_COMPATIBILITY", "1")

_OPSETS = {6: "iOS15", 7: "iOS16", 8: "iOS17", 9: "iOS18", 10: "iOS26"}
_stack = contextlib.ExitStack()
_opened: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("evaluator")
    group.addoption("--sample", type=int, metavar="N", help="run N cases, drawn at random")
    group.addoption("--sample-seed", type=int, default=0, metavar="S", help="seed of the draw")
    group.addoption("--part", metavar="I/N", help="run every N-th case from the I-th on, 1/N to N/N")
    group.addoption("--only", type=Path, metavar="FILE", help="run the cases that it lists, one on a line")
    group.addoption("--precision", choices=("declared", "fp32"), default="declared", help="of the evaluator")
    group.addoption("--outcomes", type=Path, metavar="FILE", help="append a JSON line for each case that predicted")


def pytest_configure(config: pytest.Config) -> None:
    from edgevlm.runtimes.mlprogram.stand_in import stand_in

    _stack.enter_context(stand_in(precision=config.option.precision, watch=_note))
    testing: Any = importlib.import_module("coremltools.converters.mil.testing_utils")
    dependencies: Any = importlib.import_module("coremltools._deps")
    testing._IS_MACOS = dependencies._IS_MACOS = True
    testing.compare_backend = _at_the_resolution_of_half(testing.compare_backend)
    operators: Any = importlib.import_module("coremltools.converters.mil.frontend.torch.ops")
    operators._cast = _cast_with_numpy_2(operators)


def pytest_collection_finish() -> None:
    # Each conversion collects garbage, which takes half a second while all cases are among what is searched.
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    _stack.close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept = [item for item in items if not _is_neural_network(item)]
    if config.option.sample is not None:
        kept = random.Random(config.option.sample_seed).sample(kept, min(config.option.sample, len(kept)))
    if config.option.part:
        index, count = map(int, config.option.part.split("/"))
        kept = kept[index - 1 :: count]
    if config.option.only:
        listed = set(config.option.only.read_text(encoding="utf-8").splitlines())
        kept = [item for item in kept if item.nodeid in listed]
    chosen = set(kept)
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = kept


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.when == "setup":
        _opened.clear()
    file = item.config.option.outcomes
    if report.when == "call" and file is not None:
        kind = "expected failure" if hasattr(report, "wasxfail") else report.outcome
        why = "" if report.passed else str(call.excinfo.value if call.excinfo else report.longrepr)[-500:]
        line = {"case": item.nodeid, "outcome": kind, "opsets": sorted(set(_opened)), "why": why}
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")


def _note(path: Path) -> None:
    from edgevlm.runtimes.mlprogram.package import specification_version

    _opened.append(_OPSETS[specification_version(path)])


def _at_the_resolution_of_half(compare: Callable[..., Any]) -> Callable[..., Any]:
    """The tests' comparison, but where a case asks for fp32 and yet computes in float16, at 5e-3 instead of 1e-4.

    Apple's own tolerance for float16 is 0.5; the tests of fp32 are off unless an environment variable asks for them.
    """
    from edgevlm.runtimes.mlprogram.package import read_function

    signature = inspect.signature(compare)

    @functools.wraps(compare)
    def compared(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        model = given.arguments["mlmodel"]
        if given.arguments["dtype"] == "fp32" and model.package_path is not None:
            values = [each for op in read_function(Path(model.package_path)).walk() for each in op.outputs]
            if any(each.type.dtype == "fp16" for each in values):
                for name in ("atol", "rtol"):
                    given.arguments[name] = max(given.arguments[name], 5e-3)
        return compare(*given.args, **given.kwargs)

    return compared


def _cast_with_numpy_2(operators: Any) -> Callable[..., None]:
    """coremltools 9.0's conversion of `int()` and its like, which fails on constants of one element since NumPy 2.4."""
    from coremltools.converters.mil import Builder  # type: ignore[import-untyped]

    original = operators._cast

    def cast(context: Any, node: Any, dtype: type, dtype_name: str) -> None:
        (x,) = operators._get_inputs(context, node, expected=1)
        if x.can_be_folded_to_const() and np.size(x.val) == 1:
            context.add(Builder.const(val=dtype(np.asarray(x.val).item()), name=node.name), node.name)
        else:
            original(context, node, dtype, dtype_name)

    return cast


def _is_neural_network(item: pytest.Item) -> bool:
    """Whether a case is of the format that came before ML Programs."""
    return "neuralnetwork" in item.nodeid
