"""A report as Markdown, as GitHub shows it: the words and tables of the HTML page, without its plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgevlm.bench.report.content import Report, report
from edgevlm.bench.report.wording import ERROR_MEANING, GLYPHS, MEANINGS, PEER_MEANING, WORDS
from edgevlm.bench.results import Result
from edgevlm.inference.embeddings import CENTRED_COSINE
from edgevlm.process.pages import fill


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
    return fill(
        Path(__file__).parent,
        "page.md.jinja",
        report=content,
        glyphs=GLYPHS,
        words=WORDS,
        meanings=MEANINGS,
        peer_meaning=PEER_MEANING,
        error_meaning=ERROR_MEANING,
        centred_cosine=CENTRED_COSINE,
    )
