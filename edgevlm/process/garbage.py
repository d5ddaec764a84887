"""Garbage looked for seldom, while frameworks make millions of objects that a conversion needs to its end."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

_ALLOCATIONS, _YOUNG = 20_000, 5
"""Between two looks, and how many of these until one at what is older: with CPython's own 700 and 10, a tenth of a
conversion goes into them. Graphs are cycles and hold weights: much more seldom, and they would pile up."""
_LOCK = threading.Lock()
_within: list[None] = []
"""One for each block that is open, in whichever thread: the last to end puts the collector back."""
_before: dict[str, tuple[int, int, int] | bool] = {}


def collect_seldom() -> None:
    """Has the collector look seldom from now on: for a process that is ours."""
    if gc.get_threshold()[0] < _ALLOCATIONS:
        gc.set_threshold(_ALLOCATIONS, _YOUNG, _YOUNG)


@contextlib.contextmanager
def seldom_collected() -> Iterator[None]:
    """Has the collector look seldom within the block, and leave alone what was there before it, once it has looked.

    coremltools collects all garbage after each conversion, and would go through every module that is imported. What
    the caller has frozen stays frozen, and nothing else is then.
    """
    with _LOCK:
        if not _within:
            _begin()
        _within.append(None)
    try:
        yield
    finally:
        with _LOCK:
            _within.pop()
            if not _within:
                _end()


def _begin() -> None:
    frozen = gc.get_freeze_count() > 0
    _before.update(thresholds=gc.get_threshold(), frozen=frozen)
    collect_seldom()
    if not frozen:
        gc.collect()
        gc.freeze()


def _end() -> None:
    gc.set_threshold(*_before["thresholds"])  # type: ignore[misc]
    if not _before["frozen"]:
        gc.unfreeze()
