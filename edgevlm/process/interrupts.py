"""Ctrl-C that works at any moment and leaves nothing half-written.

Python's own way, a KeyboardInterrupt out of whatever runs, fails under a converter: backends call Python back from
C++, where the exception ends the process with SIGABRT, or is swallowed and the conversion goes on. So the command
line's handler raises nothing: it removes the folders under construction and ends the process.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from edgevlm.process import scratch

FROM_A_TERMINAL = tuple(getattr(signal, name) for name in ("SIGINT", "SIGHUP") if hasattr(signal, name))
"""What a terminal sends to every process of a command: Ctrl-C, and that it is closed."""
_SIGNALS = (signal.SIGTERM, *FROM_A_TERMINAL)
_unfinished: set[Path] = set()
_advice: list[Callable[[], str]] = [lambda: "nothing was left half-written"]
_endings: list[Callable[[], None]] = []
_holding: list[object] = []  # one for each block of `put_off` that runs, in whichever thread
_waiting: list[int] = []  # the signals that came meanwhile
_Handler = Callable[[int, FrameType | None], None]


@contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """A new folder for the block, removed when it ends, be it by an error or by a signal.

    What killed processes left there is removed first; see `edgevlm.process.scratch`.

    Args:
        parent: Where it is made; among the temporary files where None.

    Raises:
        OSError: it cannot be made.
    """
    where = parent or Path(tempfile.gettempdir())
    scratch.sweep(where)
    with ExitStack() as kept:
        with put_off():
            folder, lock = scratch.make(where)
            kept.enter_context(removing(folder))
            kept.callback(os.close, lock)  # before it is removed: some network file systems keep an open file
        yield folder


@contextmanager
def own_temporary_files() -> Iterator[None]:
    """While the block runs, what libraries put among the temporary files goes to a folder that is removed with it."""
    usual = tempfile.tempdir
    with temporary_folder() as folder:
        tempfile.tempdir = str(folder)
        try:
            yield
        finally:
            tempfile.tempdir = usual


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
def advice(text: str | Callable[[], str]) -> Iterator[None]:
    """While the block runs, what a stopped command says instead of "nothing was left half-written".

    Args:
        text: What it says, or what finds it out at that moment.
    """
    _advice.append(text if callable(text) else lambda: text)
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
def at_leisure() -> Iterator[Callable[[], int | None]]:
    """In the block the first SIGINT, SIGTERM or SIGHUP does nothing but to be told; a second one is acted upon at once.

    For work that can be stopped well only now and then. In a thread that is not the main one, where Python lets nobody
    handle signals, none is ever told.

    Yields:
        What tells the number of the signal that has come. Whoever learns of one puts things in order and leaves the
        block; at its end the signal does what it usually does.

    """
    came: list[int] = []
    usual: dict[int, Any] = {}

    def give_back() -> None:
        while usual:
            number, handler = usual.popitem()
            signal.signal(number, handler)

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)
        give_back()

    if threading.current_thread() is threading.main_thread():
        heeded = [number for number in _SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
        usual |= {number: signal.signal(number, note) for number in heeded}
    try:
        yield lambda: came[0] if came else None
    finally:
        give_back()
    if came:
        signal.raise_signal(came[0])


@contextmanager
def put_off() -> Iterator[None]:
    """Signals wait until the block has run, where their handlers are `deferrable`: for what belongs together."""
    _holding.append(None)
    try:
        yield
    finally:
        _holding.pop()
        while not _holding and (number := _next_waiting()) is not None:
            signal.raise_signal(number)


def deferrable(handler: _Handler) -> _Handler:
    """The same handler of a signal, but that `put_off` holds it back."""

    def handle(number: int, frame: FrameType | None) -> None:
        # In this order: a block that ends meanwhile in another thread finds the signal, or is seen to have ended.
        _waiting.append(number)
        if not _holding and (came := _next_waiting()) is not None:
            handler(came, frame)

    return handle


def _next_waiting() -> int | None:
    try:
        return _waiting.pop(0)
    except IndexError:
        return None


@contextmanager
def clean_exit() -> Iterator[None]:
    """While the block runs, SIGINT, SIGTERM and SIGHUP end the process with 128 + their number; nothing is left behind.

    For a program's main thread. What libraries put among the temporary files is removed as well. A signal that
    whoever started the process has ignored, as nohup does SIGHUP, stays ignored.
    """
    stderr = os.dup(2)  # fd 2 itself is turned away from the terminal while a backend runs
    owner = os.getpid()

    @deferrable
    def stop(number: int, _: FrameType | None) -> None:
        if os.getpid() == owner:  # a forked worker ends without a word
            while _endings:
                with suppress(Exception):
                    _endings.pop()()
            for path in tuple(_unfinished):
                _remove(path)
            clear_line_and_show_cursor = "\r\x1b[2K\x1b[?25h" if os.isatty(stderr) else ""
            os.write(stderr, f"{clear_line_and_show_cursor}stopped: {_advice[-1]()}\n".encode())
        os._exit(128 + number)

    heeded = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heeded}
    try:
        with own_temporary_files():
            yield
    finally:
        sys.stdout.flush()
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(stderr)


def _remove(path: Path) -> None:
    with suppress(OSError):
        scratch.remove(path) if path.is_dir() else path.unlink(missing_ok=True)
