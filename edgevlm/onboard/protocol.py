"""The answering side of the protocol that the package's docstring describes."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from edgevlm.errors import DeviceError, EdgeVLMError, OutOfMemory, named_failures, to_json
from edgevlm.process.progress import Progress

Say = Callable[[Mapping[str, Any]], None]
Work = Callable[[Mapping[str, Any], Say], None]
"""Takes what was asked, and says its results itself."""


def answer(work: Work, orphaned: Callable[[], None]) -> None:
    """Reads what is asked from stdin, has it done, and says on stdout what came of it.

    Args:
        work: Does it.
        orphaned: Called from another thread when stdin ends: whoever asked has gone.
    """
    line = sys.stdin.readline()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what backends print goes to stderr

    def say(data: Mapping[str, Any]) -> None:
        out.write(json.dumps(data) + "\n")
        out.flush()

    def wait_for_end() -> None:
        while sys.stdin.readline():
            pass
        orphaned()

    threading.Thread(target=wait_for_end, daemon=True).start()
    try:
        asked = json.loads(line)
        with named_failures("the job"), _memory_errors():
            work(asked, say)
    except EdgeVLMError as error:
        say({"error": to_json(error)})
    except ValueError as error:
        say({"error": to_json(DeviceError(f"expected a job as one line of JSON, got {line.strip()[:200]!r}: {error}"))})
    except OSError as error:
        say({"error": to_json(DeviceError(str(error)))})


@contextmanager
def _memory_errors() -> Iterator[None]:
    """An allocation that the system refuses means what a process that it kills means."""
    try:
        yield
    except MemoryError as error:
        raise OutOfMemory(
            f"there is too little memory for it: {error or 'an allocation was refused'}",
            hint="a smaller recipe, or a device with more memory",
        ) from error


def telling(say: Say) -> Progress:
    """A `Progress` whose reports are said."""
    return lambda stage, share: say({"progress": {"stage": stage, "share": share}})
