"""Third parties' chatter kept out of sight, of which there are two kinds.

`quiet` is for a block that calls a library and silences what it says from Python. `silent_stderr` is for a whole
command that draws on the terminal and silences what backends write to file descriptor 2, from C++ as well. What went
wrong is raised, not logged; EDGEVLM_DEBUG=1 lets all of it through.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from edgevlm.errors import debugging


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps libraries off stdout, which is for answers; logs and warnings below an error, and bars, out of sight."""
    with contextlib.redirect_stdout(sys.stderr):
        if debugging():
            yield
            return
        level = logging.root.manager.disable
        with warnings.catch_warnings(action="ignore"), _hidden_bars():
            logging.disable(logging.WARNING)
            try:
                yield
            finally:
                logging.disable(level)


@contextlib.contextmanager
def silent_stderr() -> Iterator[TextIO]:
    """Sends file descriptor 2 to nowhere for the block, and gives the real one."""
    if debugging():
        yield sys.stderr
        return
    sys.stderr.flush()
    with os.fdopen(os.dup(2), "w", encoding="utf-8") as real, open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield real
        finally:
            os.dup2(real.fileno(), 2)


@contextlib.contextmanager
def _hidden_bars() -> Iterator[None]:
    """Starts every progress bar disabled: converters and NNCF have no switch for theirs."""
    from rich.progress import Progress
    from tqdm import tqdm  # type: ignore[import-untyped]

    starts: dict[Any, Any] = {kind: kind.__init__ for kind in (tqdm, Progress)}
    for kind, start_bar in starts.items():
        kind.__init__ = _start_hidden(start_bar)
    try:
        yield
    finally:
        for kind, start_bar in starts.items():
            kind.__init__ = start_bar


def _start_hidden(start_bar: Callable[..., None]) -> Callable[..., None]:
    def start(bar: object, *args: object, **options: object) -> None:
        start_bar(bar, *args, **{**options, "disable": True})

    return start
