"""Which files a process opens, told by Python's own audit events."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CODE = (".py", ".pyc", ".so")
_opened: list[str] | None = None


def install() -> None:
    """Begins to watch; a process cannot stop it, and needs it once."""
    sys.addaudithook(_note)


@contextmanager
def watched(folder: Path) -> Iterator[list[str]]:
    """Gathers the paths outside a folder that are opened while it lasts, but for code that Python imports."""
    global _opened
    outside: list[str] = []
    _opened = []
    try:
        yield outside
    finally:
        opened, _opened = _opened, None
        root = os.path.realpath(folder)
        roots = tuple(os.path.realpath(each) for each in sys.path if each)
        for path in opened:
            real = os.path.realpath(path)
            imported = real.endswith(_CODE) and real.startswith(roots)
            if not imported and os.path.commonpath((root, real)) != root:
                outside.append(path)


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if _opened is not None and event == "open" and isinstance(arguments[0], str | bytes):
        _opened.append(os.fsdecode(arguments[0]))
