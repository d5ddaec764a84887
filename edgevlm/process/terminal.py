"""What commands put on a terminal: JSON for programs, tables and bars for people."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from edgevlm.process.progress import Expectation, duration
from edgevlm.process.quiet import silent_stderr

if TYPE_CHECKING:
    from edgevlm.process.progress import Progress

SCHEMA_VERSION = 1


def print_json(data: dict[str, Any]) -> None:
    """One JSON object on stdout, with `schema_version` first."""
    print(json_text(data))


def json_text(data: dict[str, Any]) -> str:
    """The same as text, for a file."""
    return json.dumps({"schema_version": SCHEMA_VERSION} | data, indent=2, ensure_ascii=False)


@contextmanager
def progress_bar(*, first_line: float = 10.0, line_every: float = 30.0) -> Iterator[Progress]:
    """Shows on stderr how far the work in the block is, and keeps the backends' chatter off it.

    On a terminal that is a bar; elsewhere, where the work is long, a line now and then: what is being done, how much of
    it is done and how long it will still take.

    Args:
        first_line: Seconds until the first line.
        line_every: Seconds from each to the next.
    """
    with ExitStack() as held:
        stderr = held.enter_context(silent_stderr())
        shown = _bar(stderr) if stderr.isatty() else _lines(stderr, first_line, line_every)
        yield held.enter_context(shown)


@contextmanager
def _bar(stderr: TextIO) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns,
        console=Console(file=stderr),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,  # it would show what is kept off stderr
    ) as bar:
        task, expected = bar.add_task("starting", total=None), Expectation()

        def tell(stage: str, share: float | None) -> None:
            expected.see(share)
            # A task that was complete once stops its clock for good; there is always another stage to come.
            done = min(share or 0.0, 0.999)
            bar.update(task, description=stage + _left(expected), total=None if share is None else 1.0, completed=done)

        yield tell


@contextmanager
def _lines(stderr: TextIO, first: float, every: float) -> Iterator[Progress]:
    began, expected, ended = time.monotonic(), Expectation(), threading.Event()
    now: tuple[str, float | None] = ("starting", None)

    def tell(stage: str, share: float | None) -> None:
        nonlocal now
        expected.see(share)
        now = (stage, share)

    def say() -> None:
        wait = first
        while not ended.wait(wait):
            (stage, share), wait = now, every
            done = "" if share is None else f", {share:.0%}"
            spent = f", {duration(time.monotonic() - began)} so far"
            print(f"{stage}{done}{_left(expected) or spent}", file=stderr, flush=True)

    thread = threading.Thread(target=say, daemon=True)
    thread.start()
    try:
        yield tell
    finally:
        ended.set()
        thread.join()


def _left(expected: Expectation) -> str:
    return "" if expected.left is None else f", {duration(expected.left)} left"


def table(title: str | None, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout; columns whose heading starts with `>` are right-aligned."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    grid = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        grid.add_column(
            heading.removeprefix(">"), justify="right" if heading.startswith(">") else "left", overflow="fold"
        )
    for row in rows:
        grid.add_row(*row)
    # Piped, a table is as wide as it needs to be: something else will cut it.
    console = Console(highlight=False, emoji=False)
    (console if console.is_terminal else Console(highlight=False, emoji=False, width=160)).print(grid)
