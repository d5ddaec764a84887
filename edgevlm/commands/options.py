"""What several commands take."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import click

from edgevlm.errors import OutputError

PATH = click.Path(path_type=Path)


class Number(click.FloatRange):
    """A finite number in a range; click's own takes NaN and infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number that a user wrote."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"expected a finite number, got {value}", param, ctx)
        return number


max_unreadable = click.option(
    "--max-unreadable",
    type=Number(0, 1),
    default=0.01,
    show_default=True,
    help="Share of the pictures that may be unreadable; they are skipped. With more, the command refuses.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout instead of a table.")


def refuse_unwritable(path: Path) -> None:
    """Says that a file cannot be written before the work rather than after it.

    Raises:
        OutputError: it cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writable = not path.is_dir() and os.access(path if path.exists() else path.parent, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise OutputError(f"{path}: expected a file that can be written", hint="choose another with --out")
