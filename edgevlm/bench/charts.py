"""Plots with a line for each artefact: latency, memory and work; and throughput against threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgevlm.bench.drawing import (
    WIDTH,
    Scale,
    across,
    box,
    fitted,
    line,
    mark,
    path,
    scale,
    svg,
    text,
    text_width,
    tick_text,
)
from edgevlm.bench.figures import WORDS, Names, megabytes, number, threads
from edgevlm.bench.fronts import Point
from edgevlm.bench.results import Artefact, Emulated, Evidence, Measured, evidence
from edgevlm.onboard.figures import Memory

_PITCH, _TOP, _LEFT, _RIGHT = 40, 6, 12, WIDTH - 12
_PANEL_WIDTH, _PANEL_HEIGHT = 168, 132


@dataclass(frozen=True)
class _Line:
    """One artefact's line: its name at the left, its figure at the right, and below them what is drawn."""

    name: str
    figure: str
    evidence: Evidence


def latency_chart(points: Sequence[Point], what: str, names: Names) -> str:
    """The fastest thread count's latency of each artefact, from fast to slow.

    Args:
        points: At least one, of one component on one device.
        what: Component and device, for those who cannot see it.
        names: What the artefacts are called.
    """
    ranked = sorted(points, key=lambda each: each.middle_ms)
    along = scale([ms for each in ranked for ms in (each.low_ms, each.middle_ms, each.high_ms)], _LEFT, _RIGHT)
    lines, drawn = [], []
    for index, each in enumerate(ranked):
        figure = f"{number(each.middle_ms)} ms"
        if each.evidence == "estimated":
            figure = f"{number(each.low_ms)} to {number(each.high_ms)} ms"
        lines.append(_Line(_named(each.artefact, names), f"{figure}, {threads(each.threads)}", each.evidence))
        drawn += _times(each, along, _middle(index))
    kind = ", logarithmic" if along.logarithmic else ""
    return _chart(f"Latency of {what}", f"milliseconds{kind}", lines, drawn, along)


def memory_chart(results: Sequence[Measured | Emulated], what: str, names: Names) -> str:
    """Peak memory of each artefact: anonymous and file-mapped one after the other, and what was there before.

    Args:
        results: Of one component on one device; of each artefact the one that took most memory is drawn.
        what: Component and device, for those who cannot see it.
        names: What the artefacts are called.
    """
    most: dict[tuple[Artefact, Evidence], Memory] = {}
    for each in results:
        key = (each.artefact, evidence(each))
        if each.memory and (key not in most or each.memory.resident_bytes > most[key].resident_bytes):
            most[key] = each.memory
    if not most:
        return ""
    ends = [(each.anonymous_bytes + each.file_mapped_bytes) / 1e6 for each in most.values()]
    along = scale([0.0, *ends, *((each.before_bytes or 0) / 1e6 for each in most.values())], _LEFT, _RIGHT)
    lines, drawn = [], []
    for index, ((artefact, kind), memory) in enumerate(most.items()):
        figure = f"{megabytes(memory.anonymous_bytes)} + {megabytes(memory.file_mapped_bytes)} MB"
        lines.append(_Line(_named(artefact, names), figure, kind))
        drawn += _stack(memory, along, _middle(index))
    return _chart(f"Peak memory of {what}", "megabytes", lines, drawn, along)


def work_chart(results: Sequence[Emulated], what: str, names: Names) -> str:
    """Instructions that each artefact executes for one inference, from few to many."""
    ranked = sorted(
        ((each.counts.instructions / 1e6, index, each) for index, each in enumerate(results) if each.counts),
        key=lambda each: each[:2],
    )
    if not ranked:
        return ""
    along = scale([millions for millions, _, _ in ranked], _LEFT, _RIGHT)
    lines = [
        _Line(_named(each.artefact, names), f"{number(millions)} million", "emulated") for millions, _, each in ranked
    ]
    drawn = []
    for index, (millions, _, _) in enumerate(ranked):
        drawn += [line(_LEFT, _middle(index), along(millions), _middle(index), "whisker emulated")]
        drawn += [mark("emulated", along(millions), _middle(index))]
    kind = ", logarithmic" if along.logarithmic else ""
    return _chart(f"Instructions of {what}", f"million instructions{kind}", lines, drawn, along)


def throughput_panels(results: Sequence[Measured], what: str, names: Names) -> list[str]:
    """A small plot of inferences a second against threads for each artefact that ran with several thread counts."""
    panels = []
    for artefact in dict.fromkeys(each.artefact for each in results):
        rates = {
            each.threads: each.times.per_second
            for each in results
            if each.artefact == artefact and each.times.engine_ms.median > 0
        }
        if len(rates) > 1:
            panels.append(_panel(_named(artefact, names), what, sorted(rates.items())))
    return panels


def _named(artefact: Artefact, names: Names) -> str:
    return names.label(artefact) + (" (peer)" if artefact.peer else "")


def _middle(index: int) -> float:
    """Where the line of that number is drawn, below its words."""
    return _TOP + _PITCH * index + 26


def _chart(title: str, unit: str, lines: Sequence[_Line], drawn: Sequence[str], along: Scale) -> str:
    bottom = _TOP + _PITCH * len(lines)
    words = []
    for index, each in enumerate(lines):
        baseline = _TOP + _PITCH * index + 13
        room = WIDTH - 2 * _LEFT - 16 - text_width(each.figure, 12) - 8
        words += [mark(each.evidence, _LEFT, baseline - 4, 4)]
        words += [text(_LEFT + 10, baseline, fitted(each.name, room, 12), "name")]
        words += [text(_RIGHT + 8, baseline, each.figure, "figure", "end")]
    said = "; ".join(f"{each.name} {each.figure}, {WORDS[each.evidence]}" for each in lines)
    parts = (*across(along, _TOP, bottom, unit), *drawn, *words)
    return svg(WIDTH, bottom + 36, title, f"{title}. {said}", parts)


def _times(point: Point, along: Scale, y: float) -> list[str]:
    low, middle, high = along(point.low_ms), along(point.middle_ms), along(point.high_ms)
    if point.evidence == "estimated":
        return [box(low, y - 5, max(high - low, 2), 10, "band"), mark("estimated", middle, y)]
    ends = [line(end, y - 4, end, y + 4, "whisker measured") for end in (low, high)]
    return [line(low, y, high, y, "whisker measured"), *ends, mark("measured", middle, y)]


def _stack(memory: Memory, along: Scale, y: float) -> list[str]:
    start = along(0)
    middle = along(memory.anonymous_bytes / 1e6)
    end = along((memory.anonymous_bytes + memory.file_mapped_bytes) / 1e6)
    bars = [box(start, y - 6, middle - start, 12, "anonymous"), box(middle, y - 5.5, end - middle, 11, "mapped")]
    if memory.before_bytes is None:
        return bars
    before = along(memory.before_bytes / 1e6)
    return [*bars, *(line(before, y - 8, before, y + 8, kind) for kind in ("before-halo", "before"))]


def _panel(name: str, what: str, rates: Sequence[tuple[int, float]]) -> str:
    """Inferences a second against threads; dashed, what perfect scaling from the fewest threads would give."""
    least, most = rates[0][0], rates[-1][0]
    top = max(rate for _, rate in rates)
    along = Scale(0, most, 10, _PANEL_WIDTH - 18, False)
    up = Scale(0, top * 1.2, _PANEL_HEIGHT - 22, 26, False)
    first = rates[0][1] / least
    reach = min(most, up.high / first)
    places = [(along(count), up(rate)) for count, rate in rates]
    parts = [line(along(0), up(0), along(most) + 8, up(0), "axis")]
    parts += [path([(along(0), up(0)), (along(reach), up(first * reach))], "perfect"), path(places, "curve")]
    parts += [mark("measured", x, y, 4) for x, y in places]
    for index, ((count, rate), (x, y)) in enumerate(zip(rates, places, strict=True)):
        parts.append(text(x, _PANEL_HEIGHT - 8, tick_text(count), "tick", "middle"))
        if index in (0, len(rates) - 1):
            parts.append(text(min(x, _PANEL_WIDTH - 22), y + 16, number(rate), "figure", "middle"))
    parts.append(text(2, 13, fitted(name, _PANEL_WIDTH - 4, 11.5), "name"))
    said = ", ".join(f"{threads(count)} {number(rate)} a second" for count, rate in rates)
    return svg(_PANEL_WIDTH, _PANEL_HEIGHT, f"Throughput of {name}", f"Throughput of {name}, {what}: {said}", parts)
