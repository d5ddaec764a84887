"""Third parties' chatter kept out of sight."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps third-party chatter off stdout; logs and warnings below an error, and progress bars, out of sight."""
    from rich.progress import Progress
    from tqdm import tqdm  # type: ignore[import-untyped]

    level = logging.root.manager.disable
    bars: dict[Any, Any] = {kind: kind.__init__ for kind in (tqdm, Progress)}
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        for kind, start_bar in bars.items():
            kind.__init__ = _start_hidden(start_bar)  # converters and NNCF have no switch for theirs
        try:
            yield
        finally:
            for kind, start_bar in bars.items():
                kind.__init__ = start_bar
            logging.disable(level)


def _start_hidden(start_bar: Callable[..., None]) -> Callable[..., None]:
    def start(bar: object, *args: object, **options: object) -> None:
        start_bar(bar, *args, **{**options, "disable": True})

    return start


@contextmanager
def _hushed() -> Iterator[TextIO]:
    """Sends file descriptor 2 to nowhere for the block, and gives the real one: backends log from C++ as well.

    What went wrong is raised, not logged. EDGEVLM_DEBUG=1 lets all of it through.
    """
    if os.environ.get("EDGEVLM_DEBUG"):
        yield sys.stderr
        return
    sys.stderr.flush()
    with os.fdopen(os.dup(2), "w", encoding="utf-8") as real, open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield real
        finally:
            os.dup2(real.fileno(), 2)
