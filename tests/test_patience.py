"""The guard over the tests that one waits for."""

from __future__ import annotations

import gc

import patience
import pytest

TESTS = """
import time
import made
import pytest

def compute():
    end = made.cpu_seconds() + 0.3
    while made.cpu_seconds() < end:
        sum(range(100_000))

@pytest.fixture
def dear():
    compute()

def test_short(): time.sleep(0.5)
def test_long(): compute()
def test_whose_fixture_is_dear(dear): pass
def test_of_what_is_shared():
    with made.apart():
        compute()
@pytest.mark.slow
def test_marked(dear): compute()
"""


def run(pytester: pytest.Pytester, ci: str) -> pytest.RunResult:
    """What these tests come to, where a seventh of a second is long."""
    gc.disable()  # a collection of what other tests have imported takes as long
    pytester.makepyfile(test_some=TESTS)
    pytester.makeini("[pytest]\nmarkers = slow: ")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patience, "LIMITS_SECONDS", {"setup": 0.15, "call": 0.15})
        patch.setattr(patience, "_BACKENDS", ())
        patch.setattr(patience, "_slowness", lambda: 1.0)
        patch.setenv("CI", ci)
        try:
            return pytester.runpytest_inprocess("-p", "patience", "-p", "no:xdist")
        finally:
            gc.enable()


def test_under_ci_what_takes_long_fails_unless_it_is_marked(pytester: pytest.Pytester) -> None:
    said = run(pytester, "true")
    said.assert_outcomes(passed=3, failed=1, errors=1)
    said.stdout.fnmatch_lines(["*test_whose_fixture_is_dear: expected at most 0.1 CPU seconds of a setup, took 0.3*"])
    said.stdout.fnmatch_lines(["*test_long: expected at most 0.1 CPU seconds of a call, took 0.3*", "*mark.slow*"])


def test_elsewhere_nothing_fails_for_its_time(pytester: pytest.Pytester) -> None:
    run(pytester, "").assert_outcomes(passed=5)
