"""What coremltools' own tests came to, from the kept results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from edgevlm.benchmarks.measuring import RESULTS
from edgevlm.process.pages import fill

SUITES = {"mil": "ops of MIL", "torch": "torch front end"}


def page(results: Mapping[str, Any]) -> str:
    """The page.

    Args:
        results: As kept in benchmarks/results/coremltools-tests.json.
    """
    suites: Mapping[str, Mapping[str, Any]] = results["suites"]
    return fill(
        RESULTS.parent,
        "coremltools_tests/page.md.jinja",
        command=results["command"],
        shares=_shares(suites),
        reasons=_reasons(suites),
        others=_others(suites),
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
            yield [SUITES[suite], reason, f"{count:,}"]


def _others(suites: Mapping[str, Mapping[str, Any]]) -> Iterator[list[str]]:
    for suite, found in suites.items():
        yield [SUITES[suite], "predicted, and fails as Apple expects", f"{found['expected_failures']:,}"]
        for outcome, count in found["no_prediction"].items():
            why = "failed before a package was made" if outcome == "failed" else outcome
            yield [SUITES[suite], why, f"{count:,}"]
