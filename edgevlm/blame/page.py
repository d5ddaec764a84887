"""The picture of a blame: one self-contained HTML page that needs neither network nor JavaScript."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgevlm.blame.blame import Blame, Step
from edgevlm.process.pages import fill

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 920, 260, 56, 236
_FLOOR = 1e-8
_ROWS_AROUND = 12


@dataclass(frozen=True)
class _Op:
    """An op as the page shows it.

    Attributes:
        x, y: Its place in the plot.
        error: Empty if it is like none of the model's.
        like: Whether its error is within the limit.
    """

    index: int
    step: Step
    x: str
    y: str
    error: str
    like: bool


@dataclass(frozen=True)
class _Drawing:
    """A component as the page shows it.

    Attributes:
        powers: The powers of ten on the vertical axis, and their places.
        limit: Its place.
        first: The op to blame.
        around: The ops that the table lists.
    """

    component: str
    verdict: str
    sample: int
    powers: Sequence[tuple[int, str]]
    limit: str
    ops: Sequence[_Op]
    first: _Op | None
    around: Sequence[_Op]


def write_page(found: Sequence[Blame], title: str, path: Path) -> None:
    """Draws how the error grows from op to op of each component, and lists the ops around the one to blame.

    Args:
        found: A blame for each component.
        title: What was verified.
        path: The `.html` to write.
    """
    frame = {"width": _WIDTH, "height": _HEIGHT, "left": _LEFT, "bottom": _BOTTOM}
    drawings = [_draw(each) for each in found]
    page = fill(Path(__file__).parent, "page.html.jinja", title=title, drawings=drawings, **frame)
    path.write_text(page, encoding="utf-8")


def verdict(found: Blame) -> str:
    """The finding in a sentence."""
    culprit = found.culprit
    if culprit is None:
        return (
            f"{found.component}: no op differs from the model's by more than {found.limit:g} of what its result varies"
        )
    far = f"off by {culprit.error:.2g} of what it varies" if culprit.error is not None else "like no op of the model"
    if culprit.nan:
        far = f"in {culprit.nan} places not a number"
    where = f", of the layer {culprit.layer}" if culprit.layer else ""
    return f"{found.component}: first differs at {culprit.kind} {culprit.op!r}{where}: {far} (limit {found.limit:g})"


def _draw(found: Blame) -> _Drawing:
    errors = [each.error for each in found.steps if each.error]
    low, high = math.floor(math.log10(max(_FLOOR, min((found.limit, *errors))))), 1
    across = (_WIDTH - _LEFT - 10) / max(1, len(found.steps) - 1)

    def y(error: float) -> str:
        share = (math.log10(min(max(error, 10.0**low), 10.0**high)) - low) / (high - low)
        return f"{_BOTTOM - share * (_BOTTOM - 10):.1f}"

    ops = [
        _Op(
            index,
            step,
            x=f"{_LEFT + across * index:.1f}",
            y=y(1.0 if step.error is None else step.error),
            error="" if step.error is None else f"{step.error:.2g}",
            like=step.error is not None and step.error <= found.limit,
        )
        for index, step in enumerate(found.steps)
    ]
    middle = len(ops) - 1 if found.first is None else found.first
    return _Drawing(
        found.component,
        verdict(found),
        found.sample,
        powers=[(power, y(10.0**power)) for power in range(low, high + 1)],
        limit=y(found.limit),
        ops=ops,
        first=None if found.first is None else ops[found.first],
        around=ops[max(0, middle - _ROWS_AROUND) : middle + _ROWS_AROUND],
    )
