"""What shows that the evaluator computes an op: the tests that run it, and what they compare its results with.

A `Case` names its oracle itself. A test of another form says by `@shows` which ops it runs and what it compares them
with, and fails if one of them does not run, or if it uses another oracle than it says.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from edgevlm.runtimes.mlprogram.ops import OPS

Oracle = Literal["NumPy", "torch", "coremltools", "MIL's example", "by hand", "statistics"]
"""NumPy and torch compute what MIL's pages say; coremltools is its own value inference; MIL's example is written on the
op's page; by hand is a result that the test writes out; statistics are those of many random numbers."""
Test = TypeVar("Test", bound=Callable[..., None])


def shows(*kinds: str, by: Oracle) -> Callable[[Test], Test]:
    """Says which ops a test runs, and what it compares them with."""

    def mark(test: Test) -> Test:
        source = inspect.getsource(test)
        marks = {"torch": "torch.", "MIL's example": "on_its_page(", "statistics": ".mean("}
        assert all((mark in source) == (by == oracle) for oracle, mark in marks.items()), f"{test.__name__}: says {by}"

        @functools.wraps(test)
        def checked(*arguments: Any, **named: Any) -> None:
            with running() as ran:
                test(*arguments, **named)
            assert set(kinds) <= ran, f"does not run {', '.join(set(kinds) - ran)}"

        checked.shows = (kinds, by)  # type: ignore[attr-defined]
        return checked  # type: ignore[return-value]

    return mark


@contextlib.contextmanager
def running() -> Iterator[set[str]]:
    """The kinds of ops that the evaluator runs meanwhile, in programs opened meanwhile."""
    ran: set[str] = set()
    before = dict(OPS)

    def noted(kind: str) -> Callable[..., Any]:
        def function(*arguments: Any, **named: Any) -> Any:
            ran.add(kind)
            return before[kind].function(*arguments, **named)

        return function

    OPS.update({kind: replace(op, function=noted(kind)) for kind, op in before.items()})
    try:
        yield ran
    finally:
        OPS.update(before)


class UsesOfTorch(TorchDispatchMode):
    """Counts what torch computes meanwhile."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


def on_its_page(kind: str, *numbers: object) -> None:
    """Fails unless these numbers stand, in this order and whatever is between them, on the page of an op of MIL."""
    from mil_tables import mil_versions

    page = mil_versions(kind)[-1].__doc__
    place = 0
    for number in numbers:
        place = page.find(str(number), place)
        assert place >= 0, f"{number} is not on the page of {kind}"
        place += len(str(number))


def shown_by(*modules: Any) -> dict[str, set[Oracle]]:
    """The ops that tests of these modules say to run, with what they compare them with."""
    found: dict[str, set[Oracle]] = {}
    for test in (each for module in modules for each in vars(module).values()):
        kinds, oracle = getattr(test, "shows", ((), None))
        for kind in kinds:
            found.setdefault(kind, set()).add(oracle)
    return found


def uses_torch(compute: Callable[[], Any]) -> tuple[Any, bool]:
    """What is computed, and whether torch computed it."""
    with UsesOfTorch() as uses, torch.no_grad():
        result = compute()
    return result, uses.count > 0
