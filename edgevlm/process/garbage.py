"""Garbage looked for seldom, while frameworks make millions of objects that a conversion needs to its end."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

_ALLOCATIONS = 50_000
"""Between two looks: with CPython's own 700, a tenth of a conversion goes into them."""


def collect_seldom() -> None:
    """Has the collector look seldom from now on: for a process that is ours."""
    gc.set_threshold(max(_ALLOCATIONS, gc.get_threshold()[0]), *gc.get_threshold()[1:])


@contextlib.contextmanager
def seldom_collected() -> Iterator[None]:
    """Has the collector look seldom within the block, and leave alone what was there before it.

    coremltools collects all garbage after each conversion, and would go through every module that is imported. What
    the caller has frozen stays frozen, and nothing else is then.
    """
    thresholds, frozen = gc.get_threshold(), gc.get_freeze_count()
    collect_seldom()
    if not frozen:
        gc.freeze()
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        if not frozen:
            gc.unfreeze()
