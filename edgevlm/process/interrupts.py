"""Ctrl-C that works at any moment and leaves nothing half-written.

Python's own way, a KeyboardInterrupt out of whatever runs, fails under a converter: backends call Python back from
C++, where the exception ends the process with SIGABRT, or is swallowed and the conversion goes on. So the command
line's handler raises nothing: it removes the folders under construction and ends the process.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_unfinished: set[Path] = set()
_advice = ["nothing was left half-written"]
_endings: list[Callable[[], None]] = []
_waiting: list[int] | None = None  # the signals that came while `put_off` holds them back
_Handler = Callable[[int, FrameType | None], None]


@contextmanager
def temporary_folder(parent: Path | None = None, prefix: str = "edgevlm-") -> Iterator[Path]:
    """A new folder for the block, removed when it ends, be it by an error or by a signal."""
    with ExitStack() as kept:
        with put_off():
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            kept.enter_context(removing(folder))
        yield folder


@contextmanager
def removing(path: Path) -> Iterator[None]:
    """What lies there is removed when the block ends, be it by an error or by a signal."""
    _unfinished.add(path)
    try:
        yield
    finally:
        _remove(path)
        _unfinished.discard(path)


@contextmanager
def advice(text: str) -> Iterator[None]:
    """While the block runs, what a stopped command says instead of "nothing was left half-written"."""
    _advice.append(text)
    try:
        yield
    finally:
        _advice.pop()


@contextmanager
def at_stop(action: Callable[[], None]) -> Iterator[None]:
    """While the block runs, what a stopped command does before it ends: tidies up on another machine, say.

    It must be a matter of seconds. A second Ctrl-C ends it.
    """
    _endings.append(action)
    try:
        yield
    finally:
        if action in _endings:
            _endings.remove(action)


@contextmanager
def put_off() -> Iterator[None]:
    """Signals wait until the block has run, where their handlers are `deferrable`: for what belongs together."""
    global _waiting
    outer, _waiting = _waiting, []
    try:
        yield
    finally:
        came, _waiting = _waiting, outer
        for number in came:
            signal.raise_signal(number)


def deferrable(handler: _Handler) -> _Handler:
    """The same handler of a signal, but that `put_off` holds it back."""

    def handle(number: int, frame: FrameType | None) -> None:
        if _waiting is None:
            handler(number, frame)
        else:
            _waiting.append(number)

    return handle


@contextmanager
def clean_exit() -> Iterator[None]:
    """While the block runs, SIGINT and SIGTERM end the process with 128 + their number and leave nothing behind.

    For a program's main thread. What libraries put among the temporary files is removed as well.
    """
    stderr = os.dup(2)  # fd 2 itself is turned away from the terminal while a backend runs
    owner = os.getpid()

    @deferrable
    def stop(number: int, _: FrameType | None) -> None:
        if os.getpid() == owner:  # a forked worker ends without a word
            while _endings:
                with suppress(Exception):
                    _endings.pop()()
            for path in _unfinished:
                _remove(path)
            clear_line_and_show_cursor = "\r\x1b[2K\x1b[?25h" if os.isatty(stderr) else ""
            os.write(stderr, f"{clear_line_and_show_cursor}stopped: {_advice[-1]}\n".encode())
        os._exit(128 + number)

    usual = tempfile.gettempdir()
    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        with temporary_folder() as scratch:
            tempfile.tempdir = str(scratch)
            yield
    finally:
        sys.stdout.flush()
        tempfile.tempdir = usual
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(stderr)


def _remove(path: Path) -> None:
    with suppress(OSError):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
