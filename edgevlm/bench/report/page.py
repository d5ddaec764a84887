"""A report as one HTML page that needs neither network nor JavaScript, on a phone, a desk and paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from edgevlm.bench.report import charts, curves
from edgevlm.bench.report.content import Device, Report, report
from edgevlm.bench.report.fronts import Point, Respect, best_known, points
from edgevlm.bench.report.svg import mark
from edgevlm.bench.report.wording import ERROR_MEANING, MEANINGS, PEER_MEANING, WORDS, Names, one_line, threads
from edgevlm.bench.results import Emulated, Measured, Result
from edgevlm.inference.embeddings import CENTRED_COSINE
from edgevlm.process.pages import fill

_AGAINST: tuple[Respect, ...] = ("size", "accuracy")
_Key = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class _Plots:
    """The plots of one component on one device; empty where there is nothing to draw.

    Attributes:
        fronts: Latency against size and against accuracy.
        key: What the numbers in the fronts stand for.
        sustained: Each run's plot, and what it is of.
        throughput: The panels by the artefacts' names.
    """

    component: str
    latency: Markup
    fronts: Markup
    key: _Key
    work: Markup
    memory: Markup
    sustained: Sequence[tuple[str, Markup]]
    throughput: Mapping[str, Markup]


@dataclass(frozen=True)
class _Fronts:
    """The fronts of all devices for one component, by what latency stands against, and what their letters stand for."""

    plots: Mapping[Respect, Markup]
    key: _Key


def write_page(results: Sequence[Result], path: Path, *, title: str, titles: Mapping[str, str] | None = None) -> None:
    """Writes the page; the same results give the same bytes.

    Args:
        results: In the order in which they are to be shown.
        path: The `.html` to write.
        title: Of the page.
        titles: What people call a device, by its name.
    """
    path.write_text(page(report(results, title=title, titles=titles)), encoding="utf-8")


def page(content: Report) -> str:
    """The page's text."""
    return fill(
        Path(__file__).parent,
        "page.html.jinja",
        report=content,
        fronts=_fronts(content),
        plots=[_plots(each, content.names) for each in content.devices],
        marks={kind: mark(kind, 6, 6) for kind in WORDS},
        words=WORDS,
        meanings=MEANINGS,
        peer_meaning=PEER_MEANING,
        error_meaning=ERROR_MEANING,
        centred_cosine=CENTRED_COSINE,
    )


def _fronts(content: Report) -> list[_Fronts]:
    """For each table of choices."""
    known = best_known(points([each for device in content.devices for each in device.results]))
    letters = {device.results[0].device: _letter(index) for index, device in enumerate(content.devices)}
    found = []
    for table in content.choices:
        own = [each for each in known if one_line(each.component) == table.title]
        here = {name: letter for name, letter in letters.items() if any(each.device == name for each in own)}
        key = [(here[each.results[0].device], each.title) for each in content.devices if each.results[0].device in here]
        drawn = {against: curves.fronts_chart(own, against, table.title, here) for against in _AGAINST}
        found.append(_Fronts({against: each for against, each in drawn.items() if each}, key))
    return found


def _letter(index: int) -> str:
    return chr(ord("A") + index % 26) + (str(index // 26) if index >= 26 else "")


def _plots(device: Device, names: Names) -> list[_Plots]:
    """Those of each component of which something can be drawn."""
    known = best_known(points(device.results))
    components = dict.fromkeys(each.component for each in device.results if each.component is not None)
    drawn = [_component(each, device, known, names) for each in components]
    return [each for each in drawn if each.latency or each.work or each.memory or each.sustained]


def _component(component: str, device: Device, known: Sequence[Point], names: Names) -> _Plots:
    what = f"{one_line(component)} on {device.title}"
    own = [each for each in points(device.results) if each.component == component]
    chosen = [each for each in known if each.component == component]
    ran = [each for each in device.results if isinstance(each, Measured | Emulated) and each.component == component]
    measured = [each for each in ran if isinstance(each, Measured)]
    return _Plots(
        one_line(component),
        latency=charts.latency_chart(own, what, names) if own else Markup(),
        fronts=Markup().join(curves.front_chart(chosen, against, what, names) for against in _AGAINST),
        key=[(str(names.number(each.artefact)), charts.named(each.artefact, names)) for each in chosen],
        work=charts.work_chart([each for each in ran if isinstance(each, Emulated)], what, names),
        memory=charts.memory_chart(ran, what, names),
        sustained=[
            (_sustained_caption(each, names), drawn)
            for each in measured
            if each.sustained and (drawn := curves.sustained_chart(each.sustained, what))
        ],
        throughput=charts.throughput_panels(measured, what, names),
    )


def _sustained_caption(result: Measured, names: Names) -> str:
    caption = f"{charts.named(result.artefact, names)}, {threads(result.threads)}, without a pause."
    if result.sustained and result.sustained.throttled:
        caption += f" The system says: {one_line(result.sustained.throttled)}."
    return caption
