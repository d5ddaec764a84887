"""What a user should know of work that goes on all the same, said when it is found.

Notes go through Python's logging, to the logger `edgevlm`: a program takes them where it takes its other logs, and the
command line shows them on stderr, above its bar.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LOGGER = logging.getLogger("edgevlm")


def note(text: str) -> None:
    """Says something; of several processes of one run, the first one does."""
    if os.environ.get("RANK", "0") == "0":
        _LOGGER.warning(text)


@contextmanager
def shown(show: Callable[[str], object]) -> Iterator[None]:
    """Hands each different note of the block to `show`, once, and to nobody else."""
    handler = _Shown(show)
    propagate = _LOGGER.propagate
    _LOGGER.addHandler(handler)
    _LOGGER.propagate = False
    try:
        yield
    finally:
        _LOGGER.propagate = propagate
        _LOGGER.removeHandler(handler)


class _Shown(logging.Handler):
    def __init__(self, show: Callable[[str], object]) -> None:
        super().__init__()
        self._show = show
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text not in self._said:
            self._said.add(text)
            self._show(text)
