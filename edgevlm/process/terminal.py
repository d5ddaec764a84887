"""What commands put on a terminal: JSON for programs, tables and bars for people."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edgevlm.process.notes import shown
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
def progress_bar(*, log_seconds: float | None = None) -> Iterator[Progress]:
    """Shows a bar on stderr while the block runs, if that is a terminal, and keeps the backends' chatter off it.

    Notes (`edgevlm.process.notes`) are shown above the bar, or as lines where there is none.

    Args:
        log_seconds: Where stderr is no terminal, say a line this often; None says nothing.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with (
        silent_stderr() as stderr,
        Progress(
            *columns,
            console=Console(file=stderr),
            transient=True,
            disable=not stderr.isatty(),
            redirect_stdout=False,
            redirect_stderr=False,  # it would show what is kept off stderr
        ) as bar,
        shown(lambda text: bar.console.print(f"note: {text}", markup=False, highlight=False, soft_wrap=True)),
    ):
        task = bar.add_task("starting", total=None)

        said = -float("inf")

        def tell(stage: str, share: float | None) -> None:
            nonlocal said
            # A task that was complete once stops its clock for good; there is always another stage to come.
            done = min(share or 0.0, 0.999)
            bar.update(task, description=stage, total=None if share is None else 1.0, completed=done)
            if bar.disable and log_seconds is not None and time.monotonic() - said >= log_seconds:
                print(stage, file=stderr, flush=True)
                said = time.monotonic()

        yield tell


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
