"""What coremltools' own tests came to, from the kept results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from edgevlm.benchmarks.tables import table

_PAGE = """# coremltools' own tests of ML Programs, predicted by the evaluator

coremltools' wheel carries its tests of every op and of its torch front end, which compare numbers on macOS alone. A
pytest plugin puts the evaluator in the place of Core ML, fp16 results being rounded as the program declares. Counted
are the cases that made a prediction, or whose package the evaluator refused; those of the older format are left out.
This page is made by `{command}`
from the [results](../results/coremltools-tests.json), which name every case that failed.

{shares}

## Why cases fail
{reasons}

## What made no prediction
{others}
"""
SUITES = {"mil": "ops of MIL", "torch": "torch front end"}


def page(results: Mapping[str, Any]) -> str:
    """The page.

    Args:
        results: As kept in benchmarks/results/coremltools-tests.json.
    """
    suites: Mapping[str, Mapping[str, Any]] = results["suites"]
    return _PAGE.format(
        command=results["command"],
        shares=table(("tests of", "opset", "passed", "of", "share"), _shares(suites), words=2),
        reasons=table(("tests of", "reason", "cases"), _reasons(suites), words=2),
        others=table(("tests of", "what became of them", "cases"), _others(suites), words=2),
    )


def _shares(suites: Mapping[str, Mapping[str, Any]]) -> Iterator[list[str]]:
    for suite, found in suites.items():
        counts = {**found["opsets"], "all": {"passed": found["passed"], "of": found["predicted"]}}
        for opset, count in counts.items():
            share = 100 * count["passed"] / count["of"]
            yield [SUITES[suite], opset, f"{count['passed']:,}", f"{count['of']:,}", f"{share:.2f} %"]


def _reasons(suites: Mapping[str, Mapping[str, Any]]) -> Iterator[list[str]]:
    for suite, found in suites.items():
        for reason, count in Counter(each["reason"] for each in found["failed"]).most_common():
            yield [SUITES[suite], reason.replace("|", "\\|"), f"{count:,}"]


def _others(suites: Mapping[str, Mapping[str, Any]]) -> Iterator[list[str]]:
    for suite, found in suites.items():
        yield [SUITES[suite], "predicted, and fails as Apple expects", f"{found['expected_failures']:,}"]
        for outcome, count in found["no_prediction"].items():
            why = "failed before a package was made" if outcome == "failed" else outcome
            yield [SUITES[suite], why, f"{count:,}"]
