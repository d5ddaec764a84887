"""The picture of a blame: one self-contained HTML page that needs neither network nor JavaScript."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from edgevlm.blame.blame import Blame, Step

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 920, 260, 56, 24
_FLOOR = 1e-8
_ROWS_AROUND = 12

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c2733;
  background: #fff }
svg { width: 100%; height: auto } h1 { font-size: 1.4rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100%; font-size: 13px } .wide { overflow-x: auto }
th, td { text-align: left; padding: .25rem .5rem; border-bottom: 1px solid #e2e7ec }
td:nth-child(1), td:last-child { font-variant-numeric: tabular-nums } tr.first { background: #fde4e1 }
.verdict { padding: .6rem .8rem; border-left: 4px solid #2e7d5b; background: #eef6f1 }
.verdict.parted { border-color: #c0392b; background: #fdf0ee }
"""

_LEGEND = """<p>An op's error is the distance of its result from the closest result of the float model's ops, relative
to how much that one varies. Filled: within the limit. Hollow: beyond it, or unlike every op of the model, as the pieces
are into which backends take an op apart; they count only if nothing right is made of them. &ldquo;Like the
model's&rdquo; is the op whose values are closest, whatever its kind; without an error, none has as many.</p>"""


def write_page(found: Sequence[Blame], title: str, path: Path) -> None:
    """Draws how the error grows from op to op of each component, and lists the ops around the one to blame.

    Args:
        found: A blame for each component.
        title: What was verified.
        path: The `.html` to write.
    """
    sections = "".join(_section(each) for each in found)
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style><h1>{escape(title)}</h1>{_LEGEND}{sections}</html>\n",
        encoding="utf-8",
    )


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


def _section(found: Blame) -> str:
    kind = "verdict" if found.first is None else "verdict parted"
    return (
        f"<h2>{escape(found.component)}</h2>"
        f'<p class="{kind}">{escape(verdict(found))}. Parity sample {found.sample}, {len(found.steps)} ops.</p>'
        f"{_plot(found)}{_table(found)}"
    )


def _plot(found: Blame) -> str:
    """Relative error against the order of the ops, on a logarithmic scale; hollow where the model has no such op."""
    errors = [each.error for each in found.steps if each.error]
    low = math.floor(math.log10(max(_FLOOR, min((found.limit, *errors)))))
    high = 1.0
    across = (_WIDTH - _LEFT - 10) / max(1, len(found.steps) - 1)

    def x(index: int) -> float:
        return _LEFT + across * index

    def y(error: float) -> float:
        share = (math.log10(min(max(error, 10.0**low), 10**high)) - low) / (high - low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - 10)

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="error of each op">']
    for power in range(low, int(high) + 1):
        line = y(10.0**power)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{line:.1f}" y2="{line:.1f}" stroke="#e8ecf0"/>')
        parts.append(f'<text x="4" y="{line + 4:.1f}" font-size="11" fill="#667">1e{power}</text>')
    limit = y(found.limit)
    parts.append(
        f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{limit:.1f}" y2="{limit:.1f}" stroke="#c0392b" stroke-dasharray="5 4"/>'
        f'<text x="{_WIDTH - 4}" y="{limit - 4:.1f}" font-size="11" fill="#c0392b" text-anchor="end">limit</text>'
    )
    if found.first is not None:
        here = x(found.first)
        parts.append(
            f'<line x1="{here:.1f}" x2="{here:.1f}" y1="6" y2="{_HEIGHT - _BOTTOM}" stroke="#c0392b" stroke-width="2"/>'
        )
    for index, step in enumerate(found.steps):
        parts.append(_dot(step, x(index), y(1.0 if step.error is None else step.error), found.limit))
    parts.append(
        f'<text x="{_LEFT}" y="{_HEIGHT - 6}" font-size="11" fill="#667">ops in the order in which they run</text>'
        "</svg>"
    )
    return "".join(parts)


def _dot(step: Step, x: float, y: float, limit: float) -> str:
    said = escape(f"{step.kind} {step.op}: {'no such op in the model' if step.error is None else f'{step.error:.2g}'}")
    like = step.error is not None and step.error <= limit
    style = 'fill="#2471a3"' if like else 'fill="none" stroke="#99a3ad"'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" {style}><title>{said}</title></circle>'


def _table(found: Blame) -> str:
    middle = len(found.steps) - 1 if found.first is None else found.first
    begin, end = max(0, middle - _ROWS_AROUND), min(len(found.steps), middle + _ROWS_AROUND)
    rows = "".join(
        ('<tr class="first">' if index == found.first else "<tr>")
        + f"<td>{index}<td>{escape(step.kind)}<td>{escape(step.op)}<td>{escape(step.layer)}<td>{escape(step.like)}"
        + f"<td>{'' if step.error is None else f'{step.error:.2g}'}"
        for index, step in enumerate(found.steps[begin:end], begin)
    )
    heads = "<tr><th>#<th>op<th>result<th>layer<th>like the model's<th>error"
    return f'<div class="wide"><table>{heads}{rows}</table></div>'
