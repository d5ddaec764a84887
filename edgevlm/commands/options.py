"""What several commands take."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from edgevlm.errors import InputError, OutputError
from edgevlm.process.limits import MOST, MOST_THREADS

PATH = click.Path(path_type=Path)
_LONGEST_SHOWN = 40


class Number(click.FloatRange):
    """A finite number in a range; click's own takes NaN and infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number that a user wrote."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"expected a finite number, got {value}", param, ctx)
        return number


class Whole(click.IntRange):
    """A whole number between two ends; click's own may have any number of digits, and torch's and C's may not.

    Args:
        least: The smallest that is taken.
        most: The largest.
    """

    def __init__(self, least: int = 1, most: int = MOST) -> None:
        super().__init__(least, most)
        self.least, self.most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number that a user wrote."""
        number: int = click.INT.convert(value, param, ctx)
        if not self.least <= number <= self.most:
            said = str(value)
            got = said if len(said) <= _LONGEST_SHOWN else f"one of {len(said):,} digits"
            self.fail(f"expected a whole number from {self.least:,} to {self.most:,}, got {got}", param, ctx)
        return number

    def _describe_range(self) -> str:
        """For the help, which click asks for it: an end that nobody comes to is not said."""
        if self.most < MOST:
            return f"{self.least}<=x<={self.most}"
        return f"x>={self.least}" if self.least > -MOST else ""


class Share(click.ParamType):  # type: ignore[type-arg]  # older ones take no arguments
    """A part of a whole, which every option takes alike: `5%`, or `0.05`; the value is 0.05.

    A number without its sign that could be meant as a percentage is refused: 1 is neither 1 % nor 100 %.

    Args:
        most: The largest that is taken.
        below: Whether even that is too large.
        signed: Whether `0.05` is refused as well, where people are as likely to mean 0.05 %.
    """

    name = "share"

    def __init__(self, most: float = 1.0, *, below: bool = False, signed: bool = False) -> None:
        self.most, self.below, self.signed = most, below, signed

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """What stands for the value in the help."""
        return "PERCENT%"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The share that a user wrote."""
        text = str(value).strip()
        try:
            number = float(text.removesuffix("%"))
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            self.fail(f"expected a percentage such as 5%, got {value!r}", param, ctx)
        percent = text.endswith("%")
        if not percent and number != 0 and (self.signed or number >= 1):
            self.fail(f"expected a percentage with its sign, got {value!r}: {_ways(number)}", param, ctx)
        share = number / 100 if percent else number
        if not 0 <= share <= self.most or (self.below and share == self.most):
            most = f"less than {self.most:.0%}" if self.below else f"at most {self.most:.0%}"
            self.fail(f"expected 0% or more and {most}, got {value!r}", param, ctx)
        return share


def whole_numbers(option: str, text: str, example: str) -> tuple[int, ...]:
    """The numbers that a user wrote with commas between them.

    Raises:
        InputError: something else is among them, or a number that has more than nine digits, or is none to count with.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,9}", part) and int(part) for part in parts):
        raise InputError(
            f"{option}: expected whole numbers of at least 1 with commas between them, such as {example}, got "
            f"{text!r:.60}"
        )
    return tuple(map(int, parts))


def _ways(number: float) -> str:
    """How to write each thing that a bare number may mean."""
    meant = f"write {number:g}%"
    return meant if number > 1 else f"{meant}, or {100 * number:g}%"


threads = click.option("--threads", type=Whole(1, MOST_THREADS), help="CPU threads of the backend.")
max_unreadable = click.option(
    "--max-unreadable",
    type=Share(),
    default="1%",
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


def refuse_given(names: tuple[str, ...], whose: str) -> None:
    """Refuses options, by their parameters' names, that were given and of which nothing would be made.

    Args:
        names: Such as `max_tokens`.
        whose: What they belong to.

    Raises:
        InputError: one was given.
    """
    context = click.get_current_context()
    options = {option.name: option.opts[0] for option in context.command.params}
    given = [options[name] for name in names if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if given:
        raise InputError(f"{', '.join(given)}: of {whose}", hint="leave it out")


def _picture_size(context: click.Context, option: click.Parameter, given: str | None) -> tuple[int, int] | None:
    if given is None:
        return None
    found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", given.strip())
    if found is None:
        raise InputError(f"--picture-size: expected a height in pixels, or height x width as 448x672, got {given!r}")
    return int(found[1]), int(found[2] or found[1])


context = click.option(
    "--context",
    "context_length",
    type=Whole(),
    help="Of a model that talks: positions of a dialogue, pictures and answers included.",
)
picture_size = click.option(
    "--picture-size",
    metavar="H[xW]",
    callback=_picture_size,
    help="Of a model that takes pictures of any size: the pixels of all, such as 448 or 448x672.",
)
