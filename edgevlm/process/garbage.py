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
_open: list[tuple[tuple[int, int, int], bool]] = []
"""Thresholds, and whether something was frozen, as each block that is open found them, in whichever thread: the last to
end takes the first one's."""


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
        frozen = gc.get_freeze_count() > 0
        _open.append((gc.get_threshold(), frozen))
        collect_seldom()
        if not frozen:
            gc.collect()
            gc.freeze()
    try:
        yield
    finally:
        with _LOCK:
            thresholds, frozen = _open.pop()
            if not _open:
                gc.set_threshold(*thresholds)
                if not frozen:
                    gc.unfreeze()
