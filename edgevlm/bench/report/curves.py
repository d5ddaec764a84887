"""Plots against two axes: what size and accuracy cost in latency, and how a sustained run went."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from edgevlm.bench.report.fronts import Point, Respect, front, stairs
from edgevlm.bench.report.svg import (
    WIDTH,
    Scale,
    Shape,
    across,
    line,
    mark,
    path,
    plot,
    scale,
    text,
    tick_text,
)
from edgevlm.bench.report.wording import UNKNOWN, Names, cosine, megabytes, number
from edgevlm.onboard.figures import Sustained, Window

_LEFT, _RIGHT, _TOP, _BOTTOM = 54, WIDTH - 14, 30, 250
_Place = tuple[float, float]
_TRIED = [(radius, math.radians(angle)) for radius in (9, 13, 20, 28, 38, 50) for angle in range(-45, 315, 30)]
_CLOSEST = 1e-6  # to one, that a cosine is drawn


@dataclass(frozen=True)
class _Upwards:
    """The vertical axis of a front: where a point stands, and what is written beside it."""

    unit: str
    place: Callable[[Point], float]
    ticks: Sequence[tuple[float, str]]


def front_chart(points: Sequence[Point], against: Respect, what: str, names: Names) -> Markup:
    """Latency against size or accuracy, with the front: what nothing beats in both.

    Args:
        points: Of one component on one device.
        against: `size` or `accuracy`; points of unknown accuracy are not drawn against it.
        what: Component and device, for those who cannot see it.
        names: Their numbers are written at the points.

    Returns:
        Nothing where fewer than two points can be drawn.
    """
    shown = [each for each in points if against == "size" or _closeness(each) is not None]
    best = front(shown, ("latency", against))
    shown.sort(key=lambda each: each in best)  # what is on the front is drawn over what is not
    if len(shown) < 2:
        return Markup()
    along = scale([ms for each in shown for ms in (each.low_ms, each.middle_ms, each.high_ms)], _LEFT, _RIGHT)
    upwards = _size_axis(shown) if against == "size" else _accuracy_axis(shown)
    parts = [*_grid(along, upwards)]
    lines = []
    for model in dict.fromkeys(each.artefact.model for each in best):
        corners = stairs([each for each in best if each.artefact.model == model], against)
        lines.append(list(_staircase([(along(each.middle_ms), upwards.place(each)) for each in corners])))
    parts += [path(each, "front") for each in lines]
    places = [(along(each.middle_ms), upwards.place(each)) for each in shown]
    for each, (x, y) in zip(shown, places, strict=True):
        if each.evidence == "estimated":
            reach = [(along(each.low_ms), y), (along(each.high_ms), y)]
            parts.append(path(reach, "reach"))
            lines.append(reach)
        parts.append(mark(each.evidence, x, y, 5.5 if each in best else 4))
    labels = [str(names.number(each.artefact)) for each in shown]
    parts += _labels(places, labels, [each in best for each in shown], lines)
    title = f"Latency against {against} of {what}"
    said = "; ".join(
        f"{names.label(each.artefact)} {number(each.middle_ms)} ms, {megabytes(each.artefact.size_bytes)} MB, "
        f"centred cosine {cosine(each.artefact.accuracy)}"
        for each in best
    )
    return plot(WIDTH, _BOTTOM + 36, title, f"{title}. On the front: {said}", parts)


def fronts_chart(points: Sequence[Point], against: Respect, component: str, letters: Mapping[str, str]) -> Markup:
    """The fronts of several devices in one plot, each with its device's letter.

    Args:
        points: Of one component on several devices.
        against: `size` or `accuracy`.
        component: For those who cannot see it.
        letters: One for each device.

    Returns:
        Nothing where fewer than two devices have a front.
    """
    fronts = {
        device: front([each for each in points if each.device == device], ("latency", against)) for device in letters
    }
    shown = [each for front in fronts.values() for each in front if against == "size" or _closeness(each) is not None]
    if len({each.device for each in shown}) < 2:
        return Markup()
    along = scale([each.middle_ms for each in shown], _LEFT + 8, _RIGHT - 4)
    upwards = _size_axis(shown) if against == "size" else _accuracy_axis(shown)
    parts = [*_grid(along, upwards)]
    places: list[_Place] = []
    labels: list[str] = []
    lines: list[list[_Place]] = []
    for device, letter in letters.items():
        for model in dict.fromkeys(each.artefact.model for each in fronts[device]):
            own = [each for each in shown if (each.device, each.artefact.model) == (device, model)]
            here = [(along(each.middle_ms), upwards.place(each)) for each in own]
            corners = stairs(own, against)
            lines.append(list(_staircase([(along(each.middle_ms), upwards.place(each)) for each in corners])))
            parts += [path(lines[-1], "front")]
            parts += [mark(each.evidence, x, y, 4.5) for each, (x, y) in zip(own, here, strict=True)]
            places += here
            labels += [letter, *[""] * (len(here) - 1)] if here else []  # one letter a front, at its fast end
    parts += _labels(places, labels, [True] * len(labels), lines)
    title = f"Fronts of latency against {against} of {component} on all devices"
    said = "; ".join(f"{letter}: {device}" for device, letter in letters.items())
    return plot(WIDTH, _BOTTOM + 36, title, f"{title}. {said}", parts)


def sustained_chart(sustained: Sustained, what: str) -> Markup:
    """Median time, temperature and clock over a sustained run, one above the other."""
    windows = sustained.windows
    curves: list[tuple[str, bool, list[_Place]]] = [
        ("median, ms", True, [(each.at_seconds, each.median_ms) for each in windows]),
        ("temperature, °C", False, _known(windows, lambda each: each.temperature_c)),
        ("fastest core's clock, MHz", True, _known(windows, lambda each: each.clock_mhz)),
    ]
    curves = [each for each in curves if each[2]]
    if not curves or len(windows) < 2:
        return Markup()
    along = Scale(0, windows[-1].at_seconds, _LEFT, _RIGHT, False)
    parts: list[Shape] = []
    top = 0.0
    for name, from_zero, values in curves:
        up = scale([value for _, value in values], top + 92, top + 24, from_zero=from_zero)
        parts.append(text(_LEFT - 44, top + 14, name, "name"))
        for tick in up.ticks(3):
            parts += [line(_LEFT, up(tick), _RIGHT, up(tick), "grid")]
            parts += [text(_LEFT - 8, up(tick) + 4, tick_text(tick), "tick", "end")]
        parts.append(path([(along(at), up(value)) for at, value in values], "curve"))
        top += 104
    parts += [text(along(tick), top + 4, tick_text(tick), "tick", "middle") for tick in along.ticks()]
    parts.append(text(_RIGHT, top + 19, "seconds", "tick", "end"))
    first, last = windows[0], windows[-1]
    said = f"from {number(first.median_ms)} to {number(last.median_ms)} ms in {number(last.at_seconds)} seconds"
    heat = [value for _, value in _known(windows, lambda each: each.temperature_c)]
    hottest = f"; at most {number(max(heat))} °C" if heat else ""
    return plot(WIDTH, top + 26, f"Sustained run of {what}", f"Sustained run of {what}: {said}{hottest}", parts)


def _known(windows: Sequence[Window], of: Callable[[Window], float | None]) -> list[_Place]:
    found = [(each.at_seconds, of(each)) for each in windows]
    return [(at, value) for at, value in found if value is not None]


def _closeness(point: Point) -> float | None:
    """How far its cosine is from one; None where it is not known."""
    accuracy = point.artefact.accuracy
    if accuracy is None or not math.isfinite(accuracy):
        return None
    return min(max(1 - accuracy, _CLOSEST), 2.0)


def _size_axis(points: Sequence[Point]) -> _Upwards:
    up = scale([max(each.artefact.size_bytes, 1) / 1e6 for each in points], _BOTTOM, _TOP)
    ticks = [(up(each), tick_text(each)) for each in up.ticks()]
    kind = "MB, logarithmic" if up.logarithmic else "MB"
    return _Upwards(kind, lambda each: up(max(each.artefact.size_bytes, 1) / 1e6), ticks)


def _accuracy_axis(points: Sequence[Point]) -> _Upwards:
    """Cosine on a logarithmic scale of its distance from one, so that 0.99 and 0.999 are told apart."""
    far = [closeness for each in points if (closeness := _closeness(each)) is not None]
    up = Scale(min(far) / 1.6, max(far) * 1.6, _TOP, _BOTTOM, True)
    if max(far) / min(far) < 10:
        up = Scale(min(far) / 4, max(far) * 4, _TOP, _BOTTOM, True)
    marks = [(each, f"{1 - each:.10g}") for each in (0.5, 0.2, 0.1, 0.03, 0.01, 1e-3, 1e-4, 1e-5)]
    ticks = [(up(each), said) for each, said in marks if up.low < each < up.high]
    if min(far) <= _CLOSEST:
        ticks.append((up(_CLOSEST), "1"))
    return _Upwards("centred cosine with the float model", lambda each: up(_closeness(each) or _CLOSEST), ticks)


def _grid(along: Scale, upwards: _Upwards) -> list[Shape]:
    parts = across(along, _TOP, _BOTTOM, f"milliseconds{', logarithmic' if along.logarithmic else ''}")
    for y, said in upwards.ticks:
        parts += [line(_LEFT, y, _RIGHT, y, "grid"), text(_LEFT - 6, y + 4, said or UNKNOWN, "tick", "end")]
    return [*parts, text(2, 12, upwards.unit, "tick")]


def _staircase(places: Sequence[_Place]) -> Iterator[_Place]:
    """Along the front from fast to slow: what is slower than a point and no better in the other respect is beaten."""
    for index, (x, y) in enumerate(places):
        if index:
            yield x, places[index - 1][1]
        yield x, y


def _labels(
    places: Sequence[_Place], labels: Sequence[str], strong: Sequence[bool], lines: Sequence[Sequence[_Place]]
) -> list[Shape]:
    """Each point's label, where it hides no point, line or label; with a thin line where that is not close by."""
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    for corners in lines:
        for (x1, y1), (x2, y2) in pairwise(corners):
            taken.append((min(x1, x2) - 1, min(y1, y2) - 1, max(x1, x2) + 1, max(y1, y2) + 1))
    parts = []
    for (x, y), label, bold in zip(places, labels, strong, strict=True):
        if not label:
            continue
        half = 3.6 * len(label)
        for radius, angle in _TRIED:
            cx, cy = x + (radius + half) * math.cos(angle), y + radius * math.sin(angle)
            spot = (cx - half - 2, cy - 6, cx + half + 2, cy + 6)
            inside = spot[0] > _LEFT - 4 and spot[2] < WIDTH - 1 and spot[1] > _TOP - 14 and spot[3] < _BOTTOM + 1
            if inside and not any(_overlap(spot, other) for other in taken):
                break
        taken.append(spot)
        if radius > 16:
            parts.append(line(x, y, cx, cy, "leader"))
        parts.append(text(cx, cy + 4, label, "label strong" if bold else "label", "middle"))
    return parts


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
