"""How long work says how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable

Progress = Callable[[str, float | None], None]
"""Told what is being done, and the share of it that is done where that is known."""


def silent(stage: str, share: float | None) -> None:
    """The `Progress` that says nothing."""


def duration(seconds: float) -> str:
    """As people say it: `under a minute`, `12 min`, `3 h 5 min`."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min" if minutes else "under a minute"


class Countdown:
    """Tells how far a row of like tasks is, and about how long the rest of it takes.

    Args:
        progress: Who is told.
        what: The row.
        total: How many tasks it has.
    """

    def __init__(self, progress: Progress, what: str, total: int) -> None:
        self._progress, self._what, self._total = progress, what, total
        self._done, self._began = 0, time.monotonic()

    def next(self, name: str) -> Progress:
        """Begins with the next task, and gives what that one tells its own stages."""
        done, seconds = self._done, time.monotonic() - self._began
        self._done += 1
        said = f"{self._what} {self._done} of {self._total}: {name}"
        if done:
            said += f", {duration(seconds / done * (self._total - done))} left"
        self._progress(said, done / self._total)
        return lambda stage, share: self._progress(f"{said} ({stage})", done / self._total)
