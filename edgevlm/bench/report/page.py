"""A report as one HTML page that needs neither network nor JavaScript, on a phone, a desk and paper."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path

from edgevlm.bench.report import charts, curves
from edgevlm.bench.report.content import Device, Report, report
from edgevlm.bench.report.fronts import Point, Respect, best_known, points
from edgevlm.bench.report.summary import Figure
from edgevlm.bench.report.svg import mark
from edgevlm.bench.report.tables import Cell, Column, Row, Table
from edgevlm.bench.report.wording import MEANINGS, PEER_MEANING, WORDS, Names, one_line, threads
from edgevlm.bench.results import Emulated, Evidence, Measured, Result

_LATENCY = (
    "Disc: the median, its line from the shortest time to the 90th percentile. Hollow diamond: the middle of an "
    "estimate's band. The fastest thread count of each."
)
_MEMORY = (
    'Peaks: <span class="swatch a"></span>anonymous, <span class="swatch m"></span>file-mapped; '
    '<span class="swatch b"></span> what was there before the artefact was opened.'
)
_WORK = "What one thread executes for one inference, counted. It is not a time."
_FRONT = "The line joins what nothing beats in both; better is further left, and down in size or up in accuracy."
_AGAINST: tuple[Respect, ...] = ("size", "accuracy")
_FOLDED_FROM = 16  # rows
_THROUGHPUT = "Inferences a second against threads; dashed: in step with the threads. Each panel has its own scale."


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
    title = escape(content.title)
    cards = "".join(_card(index, device) for index, device in enumerate(content.devices, 1))
    links = "".join(
        f'<a href="#device-{index}">{escape(device.title)}</a>' for index, device in enumerate(content.devices, 1)
    )
    body = [
        f'<header><h1>{title}</h1><p class="lead">{escape(content.lead)}</p></header>',
        f'<div class="cards">{cards}</div>' if cards else "",
        _legend(any(each.peer for each in content.names.artefacts)) if cards else "",
        f'<nav aria-label="Devices">{links}</nav>' if links else "",
        _choices(content),
        *(_device(index, device, content.names) for index, device in enumerate(content.devices, 1)),
        f"<section><h2>What ran</h2>{_body(content.artefacts)}</section>" if content.artefacts else "",
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{_style()}</style>\n</head>\n<body>\n"
        + "\n".join(filter(None, body))
        + "\n</body>\n</html>\n"
    )


@cache
def _style() -> str:
    return (files("edgevlm.bench.report") / "page.css").read_text(encoding="utf-8")


def _icon(kind: Evidence) -> str:
    return f'<svg class="icon" viewBox="0 0 12 12" aria-hidden="true">{mark(kind, 6, 6)}</svg>'


def _badge(kind: Evidence) -> str:
    return f'<span class="badge {WORDS[kind]}">{_icon(kind)}{WORDS[kind]}</span>'


def _legend(peers: bool) -> str:
    kinds = "".join(f"<dt>{_badge(kind)}</dt><dd>{escape(meaning)}</dd>" for kind, meaning in MEANINGS.items())
    peer = f'<dt><span class="peer">peer</span></dt><dd>{escape(PEER_MEANING)}</dd>' if peers else ""
    return f'<h2>How sure a figure is</h2><dl class="legend">{kinds}{peer}</dl>'


def _card(index: int, device: Device) -> str:
    figures = "".join(_figure(each) for each in device.summary.figures)
    return (
        f'<article class="card"><h3><a href="#device-{index}">{escape(device.title)}</a></h3>'
        f'<p class="words">{escape(device.summary.words)}</p>{f"<dl>{figures}</dl>" if figures else ""}</article>'
    )


def _figure(figure: Figure) -> str:
    unit = f" <small>{escape(figure.unit)}</small>" if figure.unit else ""
    badge = _badge(figure.evidence) if figure.evidence else ""
    who = f'<div class="who">{escape(figure.who)}</div>' if figure.who else ""
    details = f'<div class="details">{escape("; ".join(figure.details))}</div>' if figure.details else ""
    return (
        f'<dt>{escape(figure.title)}</dt><dd><div class="value"><b>{escape(figure.value)}{unit}</b>{badge}</div>'
        f"{who}{details}</dd>"
    )


def _choices(content: Report) -> str:
    """Artefacts against devices, and the fronts of all devices."""
    if not content.choices:
        return ""
    known = best_known(points([each for device in content.devices for each in device.results]))
    letters = {device.results[0].device: _letter(index) for index, device in enumerate(content.devices)}
    parts = []
    for table in content.choices:
        own = [each for each in known if one_line(each.component) == table.title]
        here = {name: letter for name, letter in letters.items() if any(each.device == name for each in own)}
        key = [(here[each.results[0].device], each.title) for each in content.devices if each.results[0].device in here]
        fronts = [curves.fronts_chart(own, against, table.title, here) for against in _AGAINST]
        plots = [
            _plot(f"Latency against {against}: the devices' fronts", drawn, _FRONT + " Letters are devices.", key)
            for against, drawn in zip(_AGAINST, fronts, strict=True)
        ]
        parts.append(f"<h3>{escape(table.title)}</h3>{_body(table)}{_grid(plots)}")
    return f"<section><h2>Which recipe on which device</h2>{''.join(parts)}</section>"


def _letter(index: int) -> str:
    return chr(ord("A") + index % 26) + (str(index // 26) if index >= 26 else "")


def _device(index: int, device: Device, names: Names) -> str:
    name = "" if device.title == device.name else f"<code>{escape(device.name)}</code>"
    about = " · ".join(filter(None, (name, escape(device.where))))
    about = f'<p class="soft about">{about}</p>' if about else ""
    known = best_known(points(device.results))
    components = dict.fromkeys(each.component for each in device.results if each.component is not None)
    plots = "".join(_component(each, device, known, names) for each in components)
    tables = "".join(_table(each) for each in device.tables)
    machine = _table(device.machine) if device.machine else ""
    return (
        f'<section id="device-{index}"><h2>{escape(device.title)}</h2>{about}'
        f"<p>{escape(device.summary.words)}</p>{plots}{tables}{machine}</section>"
    )


def _component(component: str, device: Device, known: Sequence[Point], names: Names) -> str:
    """The plots of one component on one device."""
    what = f"{one_line(component)} on {device.title}"
    own = [each for each in points(device.results) if each.component == component]
    chosen = [each for each in known if each.component == component]
    ran = [each for each in device.results if isinstance(each, Measured | Emulated) and each.component == component]
    emulated = [each for each in ran if isinstance(each, Emulated)]
    measured = [each for each in ran if isinstance(each, Measured)]
    key = [(str(names.number(each.artefact)), charts.named(each.artefact, names)) for each in chosen]
    fronts = "".join(curves.front_chart(chosen, against, what, names) for against in _AGAINST)
    plots = [
        _plot("Latency", charts.latency_chart(own, what, names), _LATENCY) if own else "",
        _plot("Latency against size and accuracy", fronts, _FRONT + " Numbers are the artefacts'.", key),
        _plot("Instructions", charts.work_chart(emulated, what, names), _WORK),
        _plot("Peak memory", charts.memory_chart(ran, what, names), _MEMORY),
        *(_sustained(each, what, names) for each in measured),
    ]
    panels = "".join(
        f"<figure><figcaption>{escape(name)}</figcaption>{drawn}</figure>"
        for name, drawn in charts.throughput_panels(measured, what, names).items()
    )
    if panels:
        panels = f'<h4>Throughput</h4><p class="note">{_THROUGHPUT}</p><div class="panels">{panels}</div>'
    shown = _grid(plots) + panels
    return f"<h3>{escape(one_line(component))}</h3>{shown}" if shown else ""


def _sustained(result: Measured, what: str, names: Names) -> str:
    if result.sustained is None:
        return ""
    caption = f"{charts.named(result.artefact, names)}, {threads(result.threads)}, without a pause."
    if result.sustained.throttled:
        caption += f" The system says: {one_line(result.sustained.throttled)}."
    return _plot("Sustained run", curves.sustained_chart(result.sustained, what), escape(caption))


def _grid(plots: Iterable[str]) -> str:
    shown = "".join(plots)
    return f'<div class="plots">{shown}</div>' if shown else ""


def _plot(heading: str, drawn: str, caption: str, key: Sequence[tuple[str, str]] = ()) -> str:
    if not drawn:
        return ""
    items = "".join(f"<li><b>{escape(sign)}</b> {escape(said)}</li>" for sign, said in key)
    listed = f'<ul class="key">{items}</ul>' if items else ""
    return f"<figure><h5>{escape(heading)}</h5>{drawn}<figcaption>{caption}{listed}</figcaption></figure>"


def _table(table: Table) -> str:
    """A table to be folded, and folded already where it is long."""
    several = f"{len(table.rows)} row{'' if len(table.rows) == 1 else 's'}"
    summary = f'<summary>{escape(table.title)} <span class="soft">{several}</span></summary>'
    opened = "" if table.folded or len(table.rows) > _FOLDED_FROM else " open"
    return f"<details{opened}>{summary}{_body(table)}</details>"


def _body(table: Table) -> str:
    heads = "".join(_heading(each) for each in table.columns)
    rows = "".join(_row(each, table.columns) for each in table.rows)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'{note}<div class="wide" tabindex="0" role="region" aria-label="{escape(table.title)}"><table><thead><tr>'
        f'<th scope="col">{escape(table.subject)}</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _heading(column: Column) -> str:
    kind = ' class="number"' if column.kind == "number" else ""
    unit = f" <small>{escape(column.unit)}</small>" if column.unit else ""
    return f'<th scope="col"{kind}>{escape(column.heading)}{unit}</th>'


def _row(row: Row, columns: Sequence[Column]) -> str:
    peer = ' <span class="peer">peer</span>' if row.peer else ""
    badge = _badge(row.evidence) if row.evidence else ""
    kind = f' data-evidence="{WORDS[row.evidence]}"' if row.evidence else ""
    cells = "".join(_cell(cell, column) for cell, column in zip(row.cells, columns, strict=True))
    return f'<tr{kind}><th scope="row"{_full(row.name)}>{escape(row.name.text)}{peer}{badge}</th>{cells}</tr>'


def _cell(cell: Cell, column: Column) -> str:
    kinds: list[str] = [column.kind]
    if column.kind != "number":
        kinds.append("long" if len(cell.text) > 48 else "short" if len(cell.text) < 16 else "")
    if cell.best:
        kinds.append("best")
    icon = f"{_icon(cell.evidence)}" if cell.evidence else ""
    return f'<td class="{" ".join(filter(None, kinds))}"{_full(cell)}>{icon}{escape(cell.text)}</td>'


def _full(cell: Cell) -> str:
    return f' title="{escape(cell.full)}"' if cell.full else ""
