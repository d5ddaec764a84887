"""What is said to be computed is: by tests that run it, in every definition, with every argument and choice."""

from __future__ import annotations

import json
import subprocess
import sys
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import test_mlprogram_ops
import torch
from click.testing import CliRunner
from evidence import running, shows, uses_torch
from mil_tables import FOLDER, TABLES, mil_defaults, mil_versions, text
from mlprogram_cases import CASES

from edgevlm.cli import main
from edgevlm.runtimes.mlprogram.coverage import NOT_COVERED, coverage
from edgevlm.runtimes.mlprogram.ops import OPS
from edgevlm.runtimes.mlprogram.opsets import definitions

KINDS = sorted({case.kind for case in CASES})


@pytest.mark.parametrize("file", TABLES)
def test_tables_are_what_coremltools_and_the_tests_say(file: str) -> None:
    assert text(TABLES[file]()) == (FOLDER / file).read_text(encoding="utf-8"), "run python tests/mil_tables.py"


def test_an_op_is_covered_if_the_evaluator_has_it_and_a_test_runs_it() -> None:
    covered = {each.kind for each in coverage() if each.covered}
    assert covered == set(OPS)
    assert {each.kind for each in coverage()} - covered == set(NOT_COVERED)


@pytest.mark.parametrize("kind", KINDS)
def test_every_definition_of_an_op_is_run(kind: str) -> None:
    run = {
        test_mlprogram_ops.defined_in(kind, case.opset)
        for case in (*CASES, *test_mlprogram_ops.OLDER)
        if case.kind == kind
    }
    assert run == {each.opset for each in definitions()[kind]}


@pytest.mark.parametrize("kind", KINDS)
def test_every_argument_and_choice_of_an_op_is_given(kind: str) -> None:
    cases = [case for case in CASES if case.kind == kind]
    given: dict[str, list[Any]] = {"values": []} if any(case.values for case in cases) else {}
    for case in cases:
        for name, value in {**case.inputs, **case.arguments}.items():
            given.setdefault(name, []).append(value)
    filled_in = {name: value for version in mil_versions(kind) for name, value in mil_defaults(version).items()}
    for name, hint in get_type_hints(OPS[kind].function).items():
        if name == "return":
            continue
        assert name in given
        missing = choices(hint) - {plain(value) for value in (*given[name], filled_in.get(name))}
        assert not missing, f"{name}: never {missing}"


def choices(hint: Any) -> set[Any]:
    """What an argument may be, if that is one of a few."""
    kinds = {hint} if get_origin(hint) is Literal else set(get_args(hint) or (hint,)) - {NoneType}
    if kinds == {bool}:
        return {True, False}
    return {each for kind in kinds if get_origin(kind) is Literal for each in get_args(kind)}


def plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value if isinstance(value, str | bool) else None


# The tools that show it


def test_a_test_that_does_not_run_the_op_it_says_fails() -> None:
    @shows("sqrt", by="NumPy")
    def empty() -> None:
        pass

    with pytest.raises(AssertionError, match="does not run sqrt"):
        empty()


def test_a_test_that_uses_another_oracle_than_it_says_fails() -> None:
    def by_torch() -> None:
        torch.sqrt(torch.ones(1))

    with pytest.raises(AssertionError, match="by_torch: says NumPy"):
        shows("sqrt", by="NumPy")(by_torch)
    assert uses_torch(lambda: torch.sqrt(torch.ones(1)))[1]
    assert not uses_torch(lambda: np.sqrt(np.ones(1)))[1]


def test_what_runs_is_noted_and_forgotten() -> None:
    before = dict(OPS)
    with running() as ran:
        OPS["sqrt"].function(torch.ones(1))
    assert ran == {"sqrt"}
    assert before == OPS


# The command


def test_targets_lists_the_ops_and_what_shows_each() -> None:
    found = json.loads(CliRunner().invoke(main, ["targets", "--ops", "coreml", "--json"]).stdout)["ops"]
    by_kind = {each["kind"]: each for each in found}
    assert len(by_kind) == len(found) == len(definitions())
    assert by_kind["gather"]["opsets"] == ["iOS15", "iOS16", "iOS17"]
    assert by_kind["random_normal"]["oracles"] == ["statistics"]
    assert [each["kind"] for each in found if not each["covered"]] == ["conv_quantized"]
    lines = CliRunner().invoke(main, ["targets", "--ops", "coreml"]).stdout.splitlines()
    assert any(line.split() == ["abs", "iOS15", "yes", "NumPy,", "coremltools"] for line in lines)
    assert any("conv_quantized" in line and "older neural network format" in line for line in lines)


@pytest.mark.parametrize(("target", "message"), [("tflite", "computes no ops itself"), ("onnx", "no target 'onnx'")])
def test_other_targets_have_no_such_list(target: str, message: str) -> None:
    result = CliRunner().invoke(main, ["targets", "--ops", target])
    assert result.exit_code == 2
    assert message in result.stderr


def test_the_list_needs_neither_torch_nor_coremltools() -> None:
    code = (
        "import sys; from edgevlm.cli import main; main(['targets', '--ops', 'coreml'], standalone_mode=False); "
        "heavy = {'torch', 'coremltools', 'transformers'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
