"""Pages in benchmarks/ say what the kept results say."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from edgevlm.benchmarks.attacks import page as attacks
from edgevlm.benchmarks.attacks.__main__ import KINDS
from edgevlm.benchmarks.blame import page as blame
from edgevlm.benchmarks.calibration import page as calibration
from edgevlm.benchmarks.coremltools_tests import page as coremltools_tests
from edgevlm.benchmarks.measuring import RESULTS
from edgevlm.benchmarks.talkers import page as talkers

BENCHMARKS = RESULTS.parent


@pytest.mark.parametrize(
    ("name", "folder", "page"),
    [
        ("attacks", "attacks", attacks.page),
        ("blame", "blame", blame.page),
        ("calibration", "calibration", calibration.page),
        ("talkers", "talkers", talkers.page),
        ("coremltools-tests", "coremltools_tests", coremltools_tests.page),
    ],
)
def test_a_page_is_that_of_its_results(name: str, folder: str, page: Callable[[Mapping[str, Any]], str]) -> None:
    results = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    assert (BENCHMARKS / folder / "README.md").read_text(encoding="utf-8") == page(results)


def test_apples_tests_pass_on_the_evaluator() -> None:
    results = json.loads((RESULTS / "coremltools-tests.json").read_text(encoding="utf-8"))
    for suite in results["suites"].values():
        assert suite["predicted"] > 5_000
        assert all(each["passed"] >= 0.99 * each["of"] for each in suite["opsets"].values())


def test_every_planted_fault_is_blamed() -> None:
    results = json.loads((RESULTS / "blame.json").read_text(encoding="utf-8"))
    assert results["right"] == results["of"] == len(results["rows"])


def test_every_talker_passes_on_every_target() -> None:
    rows = json.loads((RESULTS / "talkers.json").read_text(encoding="utf-8"))["rows"]
    kinds = {(row["checkpoint"], row["target"], row["recipe"]) for row in rows}
    assert {row["checkpoint"] for row in rows} == {
        *("llava", "smolvlm", "internvl", "blip"),
        *("qwen2.5-vl", "qwen3-vl", "paligemma-2", "idefics"),
        *("llava-next", "florence-2", "blip-2", "blip-vqa"),
    }
    assert len(kinds) == len(rows) == 12 * 3 * 5
    failed = {(row["checkpoint"], row["recipe"], row["target"]) for row in rows if row["status"] == "failed parity"}
    # In all files alike: 4 bits are too few for these random weights, where a word is hardly ahead of the next.
    assert failed == {
        *(("qwen3-vl", "int4-weights", target) for target in ("coreml", "executorch", "tflite")),
        ("blip-2", "fp16", "executorch"),  # to be mended
    }
    refused = [row for row in rows if row["status"] == "failed"]
    assert {(row["target"], row["recipe"]) for row in refused} == {("executorch", "int8-weights")}
    assert all("executorch cannot hold this" in row["error"] for row in refused)
    asked = [share for row in rows for share in row["runners"].values()]
    assert asked
    assert min(asked) == 1


def test_no_attack_is_a_finding() -> None:
    results = json.loads((RESULTS / "attacks.json").read_text(encoding="utf-8"))
    assert results["attacks"] >= 1_000
    assert {row["kind"] for row in results["rows"]} == {*KINDS}
    assert results["findings"] == []


def test_no_mutant_is_a_finding() -> None:
    results = json.loads((RESULTS / "fuzzing.json").read_text(encoding="utf-8"))
    assert results["mutants"] >= 20_000
    assert results["findings"] == []
