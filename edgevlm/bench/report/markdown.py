"""A report as Markdown, as GitHub shows it: the words and tables of the HTML page, without its plots."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgevlm.bench.report.content import Report, report
from edgevlm.bench.report.tables import Cell, Column, Row, Table
from edgevlm.bench.report.wording import GLYPHS, MEANINGS, PEER_MEANING, WORDS
from edgevlm.bench.results import Evidence, Result


def write_markdown(
    results: Sequence[Result], path: Path, *, title: str, titles: Mapping[str, str] | None = None
) -> None:
    """Writes the page; the same results give the same bytes.

    Args:
        results: In the order in which they are to be shown.
        path: The `.md` to write.
        title: Of the page.
        titles: What people call a device, by its name.
    """
    path.write_text(markdown(report(results, title=title, titles=titles)), encoding="utf-8")


def markdown(content: Report) -> str:
    """The page's text."""
    blocks = [f"# {_plain(content.title)}", _paragraph(content.lead)]
    blocks.append("\n".join(f"- **{_plain(each.title)}.** {_plain(each.summary.words)}" for each in content.devices))
    if content.devices:
        kinds = [f"- {_badge(kind)}: {_plain(meaning)}" for kind, meaning in MEANINGS.items()]
        if any(each.peer for each in content.names.artefacts):
            kinds.append(f"- (peer): {_plain(PEER_MEANING)}")
        blocks += ["## How sure a figure is", "\n".join(kinds)]
        blocks += ["## Key figures", _key_figures(content)]
    if content.choices:
        blocks += ["## Which recipe on which device", *(block for each in content.choices for block in _table(each))]
    for device in content.devices:
        name = "" if device.title == device.name else _code(device.name)
        blocks += [f"## {_plain(device.title)}", ": ".join(filter(None, (name, _plain(device.where))))]
        tables = (*device.tables, device.machine) if device.machine else device.tables
        blocks += [block for each in tables for block in _table(each)]
    if content.artefacts:
        blocks += ["## What ran", *_table(content.artefacts)]
    return "\n\n".join(filter(None, blocks)) + "\n"


def _key_figures(content: Report) -> str:
    lines = ["| device | what | figure | artefact | evidence | besides |", "| --- | --- | ---: | --- | --- | --- |"]
    for device in content.devices:
        for each in device.summary.figures:
            cells = [device.title, each.title, f"{each.value} {each.unit}".strip(), each.who]
            besides = _plain("; ".join(each.details))
            badge = _badge(each.evidence) if each.evidence else ""
            lines.append(f"| {' | '.join([*map(_plain, cells), badge, besides])} |")
    return "\n".join(lines)


def _badge(kind: Evidence) -> str:
    return f"{GLYPHS[kind]} {WORDS[kind]}"


def _table(table: Table) -> list[str]:
    kinds = any(each.evidence for each in table.rows)
    heads = [_plain(table.subject), *(["evidence"] if kinds else []), *map(_heading, table.columns)]
    rules = [
        "---",
        *(["---"] if kinds else []),
        *("---:" if each.kind == "number" else "---" for each in table.columns),
    ]
    lines = [heads, rules, *(_row(each, table.columns, kinds) for each in table.rows)]
    drawn = "\n".join(f"| {' | '.join(each)} |" for each in lines)
    if table.folded:
        return [f"<details><summary>{_plain(table.title)}</summary>", _plain(table.note), drawn, "</details>"]
    return [f"### {_plain(table.title)}", _plain(table.note), drawn]


def _heading(column: Column) -> str:
    return _plain(column.heading) + (f", {column.unit}" if column.unit else "")


def _row(row: Row, columns: Sequence[Column], kinds: bool) -> list[str]:
    name = _plain(row.name.text) + (" (peer)" if row.peer else "")
    badge = [_badge(row.evidence) if row.evidence else ""] if kinds else []
    return [name, *badge, *(_cell(cell, column) for cell, column in zip(row.cells, columns, strict=True))]


def _cell(cell: Cell, column: Column) -> str:
    said = _code(cell.text) if column.kind == "code" else _plain(cell.text)
    if cell.evidence:
        said = f"{GLYPHS[cell.evidence]} {said}"
    return f"**{said}**" if cell.best else said


def _plain(text: str) -> str:
    """A text that Markdown leaves as it is, on one line."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]|~])", r"\\\1", text)
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # one inside a word is no emphasis
    text = text.replace("://", ":&#8203;//").replace("www.", "www&#8203;.").replace("@", "&#64;")  # no link by itself
    return text.replace("\n", "<br>").replace("\t", " ")


def _paragraph(text: str) -> str:
    """The same, where a line begins: no list, no heading, no rule."""
    return re.sub(r"^([-+#=>]|\d+[.)](?=\s|$))", r"&#8203;\1", _plain(text))


def _code(text: str) -> str:
    """A text to be copied as it is, in a cell of a table."""
    if not text:
        return ""
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * (longest + 1)
    room = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{room}{text.replace('|', chr(92) + '|').replace(chr(10), ' ')}{room}{fence}"
