"""Under CI a test that takes long fails unless it is marked `slow`, so that the README's command stays one to wait for.

Seconds are those of processors in user mode, children's included, so that a busy machine blames nobody; a slow machine
is asked for its speed before it blames anybody. What tests share (`made`) is nobody's.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Generator

import made
import pytest

LIMITS_SECONDS = {"setup": 30.0, "call": 8.0, "teardown": 8.0}
"""For the fixtures that a test is the first to ask for, the test itself, and the fixtures that end with it."""
_BACKENDS = ("torch", "transformers", "coremltools", "executorch.exir", "litert_torch", "nncf", "torchao")
_LOOP, _LOOP_SECONDS = 3_000_000, 0.2
"""A piece of work, and what it takes where the limits were chosen."""
_BESIDE = 1.5
"""How much longer a processor's second lasts beside another worker that shares its core (two hyperthreads)."""

_took = pytest.StashKey[dict[str, float]]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Imports what most tests need, which the first of them would else be blamed for."""
    if not _guarding() or session.config.option.collectonly or session.config.getoption("numprocesses", None):
        return
    for name in _BACKENDS:
        importlib.import_module(name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    return (yield from _timed(item, "setup"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    return (yield from _timed(item, "call"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    return (yield from _timed(item, "teardown"))


def _timed(item: pytest.Item, phase: str) -> Generator[None]:
    before = made.cpu_seconds() - made.spent
    try:
        return (yield)
    finally:
        item.stash.setdefault(_took, {})[phase] = made.cpu_seconds() - made.spent - before


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    took, limit = item.stash.get(_took, {}).get(report.when or "", 0.0), LIMITS_SECONDS.get(report.when or "")
    if limit and took > limit and report.passed and _guarding() and not item.get_closest_marker("slow"):
        allowed = limit * _slowness()
        if took > allowed:
            report.outcome = "failed"
            report.longrepr = (
                f"{item.nodeid}: expected at most {allowed:.1f} CPU seconds of a {report.when}, took {took:.1f}.\n"
                "Ask tests/library.py for the bundle, or try less here; or mark it @pytest.mark.slow, beside a small "
                "test of the same that is not."
            )
    return report


def _guarding() -> bool:
    return os.environ.get("CI") == "true"


def _slowness() -> float:
    """How much longer this machine may take than the quiet one of the limits: asked now, at least `_BESIDE`."""
    began = time.process_time()
    sum(number * number for number in range(_LOOP))
    return max(_BESIDE, (time.process_time() - began) / _LOOP_SECONDS)
