"""Tables for pages in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> str:
    """A table whose first columns hold words, and the others figures, set to the right.

    Args:
        words: How many columns hold words.
    """
    rule = ["---" if column < words else "---:" for column in range(len(headings))]
    return "\n".join(f"| {' | '.join(line)} |" for line in [headings, rule, *rows])
