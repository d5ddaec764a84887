"""What commands put on a terminal: JSON for programs, tables and bars for people.

Names, licences and labels come from whoever made a bundle. They are shown literally: a terminal gets no escape sequence
from them, and rich no markup.
"""

from __future__ import annotations

import json
import math
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TextIO

from edgevlm.process.notes import shown
from edgevlm.process.progress import Expectation, duration
from edgevlm.process.quiet import silent_stderr

if TYPE_CHECKING:
    from edgevlm.process.progress import Progress

SCHEMA_VERSION = 1
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What moves a cursor, colours, or turns the direction of reading, and halves of characters; not line ends and tabs."""


class Cell(NamedTuple):
    """A table's cell in a colour."""

    text: str
    colour: str


def visible(text: str, *, one_line: bool = False) -> str:
    """A text as it is shown: what a terminal would obey is written out, and of a name line ends and tabs as well.

    >>> visible("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    found = _UNSEEN.sub(_written_out, text)
    return re.sub("[\n\t]", _written_out, found) if one_line else found


def _written_out(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def say(text: str, *, err: bool = False, end: str = "\n") -> None:
    """A text on stdout, or on stderr, shown literally."""
    print(visible(text), file=sys.stderr if err else sys.stdout, end=end, flush=True)


def print_json(data: dict[str, Any]) -> None:
    """One JSON object on stdout, with `schema_version` first."""
    text = json_text(data)
    if not (sys.stdout.encoding or "utf-8").lower().startswith("utf"):
        text = re.sub(r"[^\x00-\x7f]", _escaped, text)
    print(text)


def json_text(data: dict[str, Any]) -> str:
    """The same as text, for a file; a number that JSON cannot hold is null."""
    found = json.dumps(
        _storable({"schema_version": SCHEMA_VERSION} | data), indent=2, ensure_ascii=False, allow_nan=False
    )
    return _UNSEEN.sub(_escaped, found)


def _escaped(found: re.Match[str]) -> str:
    return json.dumps(found[0])[1:-1]


def _storable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _storable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(each) for each in value]
    return value


@contextmanager
def progress_bar(*, first_line: float = 10.0, line_every: float = 30.0) -> Iterator[Progress]:
    """Shows on stderr how far the work in the block is, and keeps the backends' chatter off it.

    On a terminal that is a bar; elsewhere, where the work is long, a line now and then: what is being done, how much of
    it is done and how long it will still take.

    Notes (`edgevlm.process.notes`) are shown above the bar, or as lines where there is none.

    Args:
        first_line: Seconds until the first line.
        line_every: Seconds from each to the next.
    """
    with ExitStack() as held:
        stderr = held.enter_context(silent_stderr())
        yield held.enter_context(_bar(stderr) if stderr.isatty() else _lines(stderr, first_line, line_every))


@contextmanager
def _bar(stderr: TextIO) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with (
        Progress(
            *columns,
            console=Console(file=stderr),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,  # it would show what is kept off stderr
        ) as bar,
        shown(lambda text: bar.console.print(f"note: {visible(text)}", markup=False, highlight=False, soft_wrap=True)),
    ):
        task, expected = bar.add_task("starting", total=None), Expectation()

        def tell(stage: str, share: float | None) -> None:
            expected.see(share)
            # A task that was complete once stops its clock for good; there is always another stage to come.
            done = min(share or 0.0, 0.999)
            said = visible(stage) + _left(expected)
            bar.update(task, description=said, total=None if share is None else 1.0, completed=done)

        yield tell


@contextmanager
def _lines(stderr: TextIO, first: float, every: float) -> Iterator[Progress]:
    began, expected, ended = time.monotonic(), Expectation(), threading.Event()
    now: tuple[str, float | None] = ("starting", None)

    def tell(stage: str, share: float | None) -> None:
        nonlocal now
        expected.see(share)
        now = (stage, share)

    def report() -> None:
        wait = first
        while not ended.wait(wait):
            (stage, share), wait = now, every
            done = "" if share is None else f", {share:.0%}"
            spent = f", {duration(time.monotonic() - began)} so far"
            print(f"{visible(stage)}{done}{_left(expected) or spent}", file=stderr, flush=True)

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        with shown(lambda text: print(f"note: {visible(text)}", file=stderr, flush=True)):
            yield tell
    finally:
        ended.set()
        thread.join()


def _left(expected: Expectation) -> str:
    return "" if expected.left is None else f", {duration(expected.left)} left"


def table(title: str | None, headings: Sequence[str], rows: Iterable[Sequence[str | Cell]]) -> None:
    """A table on stdout; columns whose heading starts with `>` are right-aligned."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def text(cell: str | Cell) -> Text:
        return Text(visible(cell)) if isinstance(cell, str) else Text(visible(cell.text), style=cell.colour)

    named = None if title is None else Text(visible(title), style="table.title")
    grid = Table(title=named, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        justify: Literal["left", "right"] = "right" if heading.startswith(">") else "left"
        grid.add_column(text(heading.removeprefix(">")), justify=justify, overflow="fold")
    for row in rows:
        grid.add_row(*map(text, row))
    # Piped, a table is as wide as it needs to be: something else will cut it.
    console = Console(highlight=False, emoji=False)
    (console if console.is_terminal else Console(highlight=False, emoji=False, width=160)).print(grid)
