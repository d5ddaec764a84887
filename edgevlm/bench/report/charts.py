"""Plots with a line for each artefact: latency, memory and work; and throughput against threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from markupsafe import Markup

from edgevlm.bench.report.fronts import Point, ranked
from edgevlm.bench.report.svg import (
    WIDTH,
    Scale,
    Shape,
    across,
    box,
    fitted,
    line,
    mark,
    path,
    plot,
    scale,
    text,
    text_width,
    tick_text,
)
from edgevlm.bench.report.wording import WORDS, Names, number, own_memory, threads
from edgevlm.bench.results import Artefact, Emulated, Evidence, Measured, evidence
from edgevlm.onboard.figures import Memory

_PITCH, _TOP, _LEFT, _RIGHT = 40, 6, 12, WIDTH - 12
_PANEL_WIDTH, _PANEL_HEIGHT = 168, 112


@dataclass(frozen=True)
class _Line:
    """One artefact's line: its name and its figure, and below them what is drawn, given where its middle is."""

    name: str
    figure: str
    evidence: Evidence
    draw: Callable[[float], list[Shape]]


def latency_chart(points: Sequence[Point], what: str, names: Names) -> Markup:
    """The latency of each artefact at the thread count whose median is least, from fast to slow.

    Args:
        points: At least one, of one component on one device.
        what: Component and device, for those who cannot see it.
        names: What the artefacts are called.
    """
    along = scale([ms for each in points for ms in (each.low_ms, each.middle_ms, each.high_ms)], _LEFT, _RIGHT)
    lines = []
    for each in ranked(points):
        figure = f"{number(each.middle_ms)} ms"
        if each.evidence == "estimated":
            figure = f"{number(each.low_ms)} to {number(each.high_ms)} ms"
        figure += f", {threads(each.threads)}"
        lines.append(_Line(named(each.artefact, names), figure, each.evidence, partial(_times, each, along)))
    kind = ", logarithmic" if along.logarithmic else ""
    return _chart(f"Latency of {what}", f"milliseconds{kind}", lines, along)


def memory_chart(results: Sequence[Measured | Emulated], what: str, names: Names) -> Markup:
    """Peak memory of each artefact: its own, and after that what Python had taken before.

    Args:
        results: Of one component on one device; of each artefact the one that added most is drawn.
        what: Component and device, for those who cannot see it.
        names: What the artefacts are called.
    """
    most: dict[tuple[Artefact, Evidence], Memory] = {}
    for each in results:
        key = (each.artefact, evidence(each))
        if each.memory and (key not in most or each.memory.own_bytes > most[key].own_bytes):
            most[key] = each.memory
    if not most:
        return Markup()
    along = scale([0.0, *((each.own_bytes + (each.before_bytes or 0)) / 1e6 for each in most.values())], _LEFT, _RIGHT)
    lines = []
    for (artefact, kind), memory in most.items():
        lines.append(_Line(named(artefact, names), own_memory(memory), kind, partial(_stack, memory, along)))
    return _chart(f"Peak memory of {what}", "megabytes", lines, along)


def work_chart(results: Sequence[Emulated], what: str, names: Names) -> Markup:
    """Instructions that each artefact executes for one inference, from few to many."""
    found = sorted(
        ((each.counts.instructions / 1e6, index, each) for index, each in enumerate(results) if each.counts),
        key=lambda each: each[:2],
    )
    if not found:
        return Markup()
    along = scale([millions for millions, _, _ in found], _LEFT, _RIGHT)
    lines = [
        _Line(named(each.artefact, names), f"{number(millions)} million", "emulated", partial(_work, millions, along))
        for millions, _, each in found
    ]
    kind = ", logarithmic" if along.logarithmic else ""
    return _chart(f"Instructions of {what}", f"million instructions{kind}", lines, along)


def throughput_panels(results: Sequence[Measured], what: str, names: Names) -> dict[str, Markup]:
    """A small plot of inferences a second against threads for each artefact that ran with several thread counts.

    Returns:
        The plots by the names to be written above them.
    """
    panels = {}
    for artefact in dict.fromkeys(each.artefact for each in results):
        rates = {
            each.threads: each.times.per_second
            for each in results
            if each.artefact == artefact and each.times.engine_ms.median > 0
        }
        if len(rates) > 1:
            name = named(artefact, names)
            panels[name] = _panel(name, what, sorted(rates.items()))
    return panels


def named(artefact: Artefact, names: Names) -> str:
    """What a plot calls an artefact, which has no room for a mark of its own for peers."""
    return names.label(artefact) + (" (peer)" if artefact.peer else "")


def _chart(title: str, unit: str, lines: Sequence[_Line], along: Scale) -> Markup:
    """Names and figures side by side, or one below the other where a pair of them is too long."""
    room = WIDTH - 2 * _LEFT - 2 - 12
    below = 15 if any(text_width(each.name, 12) + text_width(each.figure, 12) > room for each in lines) else 0
    pitch = _PITCH + below
    bottom = _TOP + pitch * len(lines)
    words, drawn = [], []
    for index, each in enumerate(lines):
        baseline = _TOP + pitch * index + 13
        words += [mark(each.evidence, _LEFT, baseline - 4, 4)]
        words += [text(_LEFT + 10, baseline, fitted(each.name, room, 12), "name")]
        at, anchor = (_LEFT + 10, "start") if below else (_RIGHT + 8, "end")
        words += [text(at, baseline + below, each.figure, "figure", anchor)]
        drawn += each.draw(baseline + below + 13)
    said = "; ".join(f"{each.name} {each.figure}, {WORDS[each.evidence]}" for each in lines)
    parts = (*across(along, _TOP, bottom, unit), *drawn, *words)
    return plot(WIDTH, bottom + 36, title, f"{title}. {said}", parts)


def _work(millions: float, along: Scale, y: float) -> list[Shape]:
    return [line(_LEFT, y, along(millions), y, "whisker emulated"), mark("emulated", along(millions), y)]


def _times(point: Point, along: Scale, y: float) -> list[Shape]:
    low, middle, high = along(point.low_ms), along(point.middle_ms), along(point.high_ms)
    if point.evidence == "estimated":
        return [box(low, y - 5, max(high - low, 2), 10, "band"), mark("estimated", middle, y)]
    ends = [line(end, y - 4, end, y + 4, "whisker measured") for end in (low, high)]
    return [line(low, y, high, y, "whisker measured"), *ends, mark("measured", middle, y)]


def _stack(memory: Memory, along: Scale, y: float) -> list[Shape]:
    start, middle = along(0), along(memory.own_bytes / 1e6)
    own = box(start, y - 6, middle - start, 12, "own")
    if not memory.before_bytes:
        return [own]
    end = along((memory.own_bytes + memory.before_bytes) / 1e6)
    return [own, box(middle, y - 5.5, end - middle, 11, "python")]


def _panel(name: str, what: str, rates: Sequence[tuple[int, float]]) -> Markup:
    """Inferences a second against threads; dashed, what perfect scaling from the fewest threads would give."""
    least, most = rates[0][0], rates[-1][0]
    top = max(rate for _, rate in rates)
    along = Scale(0, most, 10, _PANEL_WIDTH - 18, False)
    up = Scale(0, top * 1.2, _PANEL_HEIGHT - 22, 6, False)
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
    said = ", ".join(f"{threads(count)} {number(rate)} a second" for count, rate in rates)
    return plot(_PANEL_WIDTH, _PANEL_HEIGHT, f"Throughput of {name}", f"Throughput of {name}, {what}: {said}", parts)
