"""Inline SVG: axes and the few shapes that the plots of a report are made of, styled by the page."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from edgevlm.bench.results import Evidence
from edgevlm.process.pages import fill

WIDTH = 360
"""Of every full plot, in the units of its own that are about a phone's points: text of 11 stays legible there."""
_EM = 0.6  # the width of a letter, of the widest of the usual fonts
_LOGARITHMIC_FROM = 20.0


@dataclass(frozen=True)
class Shape:
    """An element of a picture.

    Attributes:
        tag: SVG's name of it.
        attributes: SVG's, its `class` among them, which says how the page draws it.
        words: What a text says.
    """

    tag: str
    attributes: Mapping[str, str]
    words: str = ""


@dataclass(frozen=True)
class Scale:
    """From values to places.

    Attributes:
        low, high: The values at the ends.
        begin, end: Their places.
        logarithmic: Whether equal factors, rather than equal steps, are equally far apart.
    """

    low: float
    high: float
    begin: float
    end: float
    logarithmic: bool

    def __call__(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.begin + part * (self.end - self.begin)

    def ticks(self, most: int = 5) -> tuple[float, ...]:
        """Round values within it, not more than so many."""
        if not self.logarithmic:
            return _round_steps(self.low, self.high, most)
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for factors in ((1, 2, 5), (1, 3), (1,)):
            found = [factor * 10.0**power for power in powers for factor in factors]
            inside = [each for each in found if self.low <= each <= self.high]
            if len(inside) <= most:
                break
        return tuple(inside[:: math.ceil(len(inside) / most)])


def scale(values: Iterable[float], begin: float, end: float, *, from_zero: bool = True) -> Scale:
    """A scale that holds these values, logarithmic where they span a factor of twenty and none is zero.

    Args:
        values: At least one.
        begin, end: Places of the least and the greatest.
        from_zero: Whether a linear one begins at zero.
    """
    values = tuple(values)
    least, most = min(values), max(values)
    if least > 0 and most / least > _LOGARITHMIC_FROM:
        return Scale(least / 1.3, most * 1.3, begin, end, True)
    if from_zero:
        return Scale(0.0, most * 1.08 or 1.0, begin, end, False)
    room = (most - least) * 0.12 or abs(most) * 0.05 or 1.0
    return Scale(least - room, most + room, begin, end, False)


def plot(width: float, height: float, title: str, said: str, shapes: Iterable[Shape]) -> Markup:
    """A picture with a text that says the same.

    Args:
        width, height: Its own units; it is scaled to the page.
        title: What it shows.
        said: What a screen reader reads.
        shapes: What is drawn, back to front.
    """
    size = {"width": f"{width:g}", "height": f"{height:g}"}
    return fill(Path(__file__).parent, "plot.svg.jinja", **size, title=title, said=said, shapes=shapes)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Shape:
    return _shape("line", kind, x1=x1, y1=y1, x2=x2, y2=y2)


def box(x: float, y: float, width: float, height: float, kind: str) -> Shape:
    return _shape("rect", kind, x=x, y=y, width=max(width, 0), height=height)


def path(places: Sequence[tuple[float, float]], kind: str) -> Shape:
    return Shape("polyline", {"class": kind, "points": _points(places)})


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> Shape:
    return Shape("text", {"class": kind, "x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor}, words)


def mark(kind: Evidence, x: float, y: float, size: float = 5) -> Shape:
    """The shape of a kind of evidence: disc, square, hollow diamond, cross."""
    style = f"mark {'failed' if kind == 'none' else kind}"
    if kind == "measured":
        return _shape("circle", style, cx=x, cy=y, r=size)
    if kind == "emulated":
        return box(x - size * 0.9, y - size * 0.9, size * 1.8, size * 1.8, style)
    if kind == "estimated":
        corners = [(x, y - size), (x + size, y), (x, y + size), (x - size, y)]
        return Shape("polygon", {"class": style, "points": _points(corners)})
    low, high = -size * 0.8, size * 0.8
    lines = (
        f"M{x + low:.1f} {y + low:.1f}L{x + high:.1f} {y + high:.1f}"
        f"M{x + low:.1f} {y + high:.1f}L{x + high:.1f} {y + low:.1f}"
    )
    return Shape("path", {"class": style, "d": lines})


def _shape(tag: str, kind: str, **places: float) -> Shape:
    return Shape(tag, {"class": kind, **{name: f"{value:.1f}" for name, value in places.items()}})


def _points(places: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def across(along: Scale, top: float, bottom: float, unit: str) -> list[Shape]:
    """A horizontal axis below a plot: a line at each tick, its value, and the unit at the end."""
    parts = []
    for tick in along.ticks():
        parts += [line(along(tick), top, along(tick), bottom, "grid")]
        parts += [text(along(tick), bottom + 14, tick_text(tick), "tick", "middle")]
    return [*parts, text(along.end, bottom + 29, unit, "tick", "end")]


def tick_text(value: float) -> str:
    """A round value, without needless digits."""
    return f"{value:,.10g}"


def text_width(words: str, size: float) -> float:
    """About how wide a text is, rather more than less."""
    wide = sum(2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in words)
    return wide * size * _EM


def fitted(words: str, width: float, size: float) -> str:
    """The text, or as much of its beginning and end as fits."""
    if text_width(words, size) <= width:
        return words
    for kept in range(len(words) - 1, 1, -1):
        shorter = words[: math.ceil(kept * 0.6)] + "…" + words[len(words) - math.floor(kept * 0.4) :]
        if text_width(shorter, size) <= width:
            return shorter
    return "…"


def _round_steps(low: float, high: float, most: int) -> tuple[float, ...]:
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first = math.ceil(low / step - 1e-9)
    return tuple(index * step for index in range(first, math.floor(high / step + 1e-9) + 1))
