"""Runs coremltools' own tests of ML Programs on the evaluator, in parts, and says what share passes.

    python -m edgevlm.benchmarks.coremltools_tests --work WORK [--suites mil torch] [--again] [--keep]

Some 60,000 cases take hours of one core: what is done lies in WORK, and the same command goes on from there;
`--again` runs those that failed once more, after the evaluator was mended. Counted
are the cases that made a prediction, or whose package the evaluator refused; every one that failed is listed with
its reason.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from edgevlm.benchmarks.coremltools_tests.page import page
from edgevlm.benchmarks.measuring import keep

SUITES = {
    "mil": ("coremltools.converters.mil.mil.ops.tests", 24),
    "torch": ("coremltools.converters.mil.frontend.torch.test.test_torch_ops", 16),
}
"""The package of tests, and the parts that it is run in."""

REASONS = (
    (
        r"ios17_invalid_indices.*validate_indices=False",
        "the case wants any result but the one counted from the end: undefined in MIL, and refused here",
    ),
    (
        r"iOS15/.*TestCropResize",
        "a box beyond the picture, back to front: undefined in MIL's op of iOS 15, and refused here",
    ),
    (
        r"TestMatMul::test_ios17_mixed_precision",
        "whole numbers times a floating-point constant, declared as whole: undefined in MIL how it rounds, and refused",
    ),
    (r"LocalResponseNorm", "the expected values square each element alone, unlike the same file's torch oracle"),
    (r"TestCropResize.*ios1[67]", "an expected value is written as 7.899 where 7.9 is meant, and compared at 1e-4"),
    (r"TestResample.*iOS16.*fp32", "coordinates in float16 are compared with float32 results at 1e-4"),
    (
        r"TestLSTMWithPackedSequence",
        "the converter takes the sequence's length for the batch's size in the initial states: refused",
    ),
    (
        r"test_stack_dynamic_range_dim",
        "Core ML refuses a default size that fits no other when it loads; the evaluator when it is predicted with",
    ),
    (
        r"test_batchnorm_fp16_weight|test_linear_fp16",
        "a float16 model of torch's is compared with float32 results at 1e-4",
    ),
    (r"test_gather_nd_int16_indices", "the case looks for types in the converted program, not at results"),
    (r"TestResample", "the case counts the casts of a float16 program, asked for fp32"),
)
"""Why a case fails, by its name; the first that fits."""

PAGE = Path(__file__).with_name("README.md")


def main() -> None:
    """Runs what is missing, and reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, required=True, help="folder for what is done so far")
    parser.add_argument("--suites", nargs="+", choices=tuple(SUITES), default=list(SUITES))
    parser.add_argument("--precision", choices=("declared", "fp32"), default="declared")
    parser.add_argument("--again", action="store_true", help="run once more what failed")
    parser.add_argument("--keep", action="store_true", help="keep the result in benchmarks/results/, and the page")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    report = {}
    for suite in arguments.suites:
        lines: list[dict[str, Any]] = []
        parts = SUITES[suite][1]
        for part in range(1, parts + 1):
            print(f"{suite}: part {part} of {parts}", file=sys.stderr)
            lines += _run_part(suite, part, arguments.work, arguments.precision)
        if arguments.again:
            lines = _run_again(suite, lines, arguments.work, arguments.precision)
        report[suite] = summary(lines)
        _show(suite, report[suite])
    if arguments.keep:
        again = " --again" * arguments.again
        options = f"--work WORK --precision {arguments.precision}{again} --keep"
        command = f"python -m edgevlm.benchmarks.coremltools_tests {options}"
        kept = keep("coremltools-tests", {"precision": arguments.precision, "suites": report}, command)
        PAGE.write_text(page(json.loads(kept.read_text(encoding="utf-8"))), encoding="utf-8")


def summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """What became of the cases.

    Args:
        lines: Of the plugin's outcomes.
    """
    predicted = [line for line in lines if line["opsets"]]
    judged = [line for line in predicted if line["outcome"] in ("passed", "failed")]
    opsets = {}
    for opset in sorted({each for line in judged for each in line["opsets"]}):
        counts = Counter(line["outcome"] for line in judged if opset in line["opsets"])
        opsets[opset] = {"passed": counts["passed"], "of": counts["passed"] + counts["failed"]}
    failed = [{"case": line["case"], "reason": reason(line)} for line in judged if line["outcome"] == "failed"]
    without = Counter(line["outcome"] for line in lines if not line["opsets"])
    return {
        "cases": len(lines),
        "predicted": len(judged),
        "passed": len(judged) - len(failed),
        "opsets": opsets,
        "expected_failures": sum(line["outcome"] == "expected failure" for line in predicted),
        "no_prediction": dict(without),
        "failed": failed,
        "not_converted": dict(
            Counter(
                line["why"].strip().splitlines()[-1][:120]
                for line in lines
                if not line["opsets"] and line["outcome"] == "failed" and line["why"].strip()
            ).most_common(20)
        ),
    }


def reason(line: dict[str, Any]) -> str:
    """Why a case failed: what is known, else the end of its message."""
    known = (text for pattern, text in REASONS if re.search(pattern, line["case"]))
    return next(known, " ".join(line["why"].split())[-200:])


def _run_part(suite: str, part: int, work: Path, precision: str) -> list[dict[str, Any]]:
    outcomes, done = work / f"{suite}-{part}.jsonl", work / f"{suite}-{part}.done"
    if not done.exists():
        _run(suite, outcomes, "--precision", precision, "--part", f"{part}/{SUITES[suite][1]}")
        done.touch()
    return _read(outcomes)


def _run_again(suite: str, lines: list[dict[str, Any]], work: Path, precision: str) -> list[dict[str, Any]]:
    """The lines, those of cases that failed being of another run."""
    failed = [line["case"] for line in lines if line["opsets"] and line["outcome"] == "failed"]
    print(f"{suite}: {len(failed)} once more", file=sys.stderr)
    listed, outcomes = work / f"{suite}-again.txt", work / f"{suite}-again.jsonl"
    listed.write_text("\n".join(failed), encoding="utf-8")
    _run(suite, outcomes, "--precision", precision, "--only", str(listed.resolve()))
    newer = {line["case"]: line for line in _read(outcomes)}
    return [newer.get(line["case"], line) for line in lines]


def _run(suite: str, outcomes: Path, *options: str) -> None:
    """Runs cases of a suite, and writes a line for each."""
    outcomes.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "-W", "ignore", "--tb=no"]
    command += ["-p", "edgevlm.benchmarks.coremltools_tests.plugin", "--continue-on-collection-errors"]
    command += [*options, "--outcomes", str(outcomes.resolve()), "--pyargs", SUITES[suite][0]]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with outcomes.with_suffix(".log").open("w", encoding="utf-8") as log:
        ended = subprocess.run(command, stdout=log, stderr=log, cwd=outcomes.parent, env=environment, check=False)
    if ended.returncode not in (0, 1):  # 1: some cases failed
        raise SystemExit(f"{suite}: pytest ended with {ended.returncode}: see {log.name}")


def _read(outcomes: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in outcomes.read_text(encoding="utf-8").splitlines()]


def _show(suite: str, found: dict[str, Any]) -> None:
    share = found["passed"] / max(1, found["predicted"])
    print(f"{suite}: {found['passed']} of {found['predicted']} predicting cases pass ({100 * share:.2f} %)")
    for opset, counts in found["opsets"].items():
        print(f"  {opset}: {counts['passed']} of {counts['of']} ({100 * counts['passed'] / counts['of']:.2f} %)")
    for why, count in Counter(each["reason"] for each in found["failed"]).most_common():
        print(f"  {count} fail: {why}")
    print(
        f"  Apple's own expected failures: {found['expected_failures']}; without a prediction: {found['no_prediction']}"
    )


if __name__ == "__main__":
    main()
