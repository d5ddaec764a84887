"""No value that a template places is ever read as markup, whatever the template and wherever it places it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2 import Environment, UndefinedError, meta
from markupsafe import Markup, escape

from edgevlm.process.pages import fill

ROOT = Path(__file__).parent.parent
ROOMS = ("edgevlm", "benchmarks", "examples")
MACROS = ("shapes.svg.jinja", "tables.md.jinja")
"""Hold macros alone, which the pages that import them try."""
PAGES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.jinja") if path.name not in MACROS)
HOSTILE = (
    "\" ' onclick=alert(1) > &amp; <script>alert(1)</script> <img src=x> [bold]rich[/bold] **bold** `tick` "
    "_it_ [link](http://example.invalid) | a\n# head"
)


class Hostile:
    """A value that is a hostile text, and so is whatever a template finds in it; but two are in it at every place."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        # A drawing's own elements and their attributes are never a value from outside; what they are set to may be.
        return {"tag": "text", "attributes": {"class": self}}.get(name, self)

    def __getitem__(self, key: object) -> Hostile:
        return self

    def __iter__(self) -> Iterator[Hostile]:
        return iter((self, self))

    def __len__(self) -> int:
        return 2

    def items(self) -> list[tuple[Hostile, Hostile]]:
        return [(self, self)]

    def values(self) -> list[Hostile]:
        return [self]

    def __str__(self) -> str:
        return HOSTILE


class Elements(HTMLParser):
    """An HTML page's tags and attributes' names."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def folder_of(template: Path) -> Path:
    """Where the template's importing module looks up: a study's page shares the benchmarks' tables."""
    return ROOT / "benchmarks" if (ROOT / "benchmarks") in template.parents else template.parent


@pytest.mark.parametrize("template", PAGES, ids=lambda each: str(each.relative_to(ROOT)))
def test_hostile_values_are_shown_as_they_are(template: Path) -> None:
    parser = Environment()
    parser.filters["code"] = str  # it must know the name
    names = meta.find_undeclared_variables(parser.parse(template.read_text(encoding="utf-8")))
    folder = folder_of(template)
    page = fill(folder, template.relative_to(folder).as_posix(), **{name: Hostile() for name in names})
    if template.name.endswith(".md.jinja"):
        outside = re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", page, flags=re.S)  # code is shown as it stands
        assert r"\[bold\]rich\[/bold\] \*\*bold\*\* \`tick\` \_it\_ \[link\](http:&#8203;//" in page
        assert not re.search(r"<(script|img)|(?<!\\)\[(bold|link)|\*\*bold|\n# head", outside)
    else:
        found = Elements(page)
        assert escape(HOSTILE) in page
        assert not {"script", "img"} & found.tags
        assert not {"onclick", "src"} & found.attributes


def test_what_is_markup_already_is_placed_as_it_is_and_what_is_not_given_is_missed(tmp_path: Path) -> None:
    for name in ("page.html.jinja", "page.md.jinja"):
        (tmp_path / name).write_text("{{ shown }}", encoding="utf-8")
        assert fill(tmp_path, name, shown=Markup("<b>*</b>")) == "<b>*</b>"
        with pytest.raises(UndefinedError, match="shown"):
            fill(tmp_path, name)
