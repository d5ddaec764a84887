"""How long work says how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable

Progress = Callable[[str, float | None], None]
"""Told what is being done, and the share of it that is done where that is known."""


def silent(stage: str, share: float | None) -> None:
    """The `Progress` that says nothing.

    >>> silent("coreml: lowering", 0.5)
    """


def duration(seconds: float) -> str:
    """As people say it: `under a minute`, `12 min`, `3 h 5 min`."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min" if minutes else "under a minute"


class Expectation:
    """How long what is under way will still take, judged by how far it has come since it began."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None  # when, and what share was done then
        self._last = (0.0, 0.0)

    def see(self, share: float | None) -> None:
        """Told the share that is done; one that is unknown or smaller than before begins anew."""
        if share is None:
            self._first = None
            return
        now = (time.monotonic(), share)
        if self._first is None or share < self._last[1]:
            self._first = now
        self._last = now

    @property
    def left(self) -> float | None:
        """Seconds; None where nothing can be said yet."""
        if self._first is None or self._first[1] == self._last[1]:
            return None
        (began, before), (at, share) = self._first, self._last
        return max(0.0, (1 - share) / (share - before) * (at - began) - (time.monotonic() - at))


class Countdown:
    """Tells how far a row of like tasks is.

    Args:
        progress: Who is told.
        what: The row.
        total: How many tasks it has.
    """

    def __init__(self, progress: Progress, what: str, total: int) -> None:
        self._progress, self._what, self._total = progress, what, total
        self._done = 0

    def next(self, name: str) -> Progress:
        """Begins with the next task, and gives what that one tells its own stages."""
        share = self._done / self._total
        self._done += 1
        said = f"{self._what} {self._done} of {self._total}: {name}"
        self._progress(said, share)
        return lambda stage, _: self._progress(f"{said} ({stage})", share)
