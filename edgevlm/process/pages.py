"""Pages and drawings from templates, each beside the module that fills it.

A template's name ends in what it makes, `.html.jinja`, `.svg.jinja` or `.md.jinja`, and every value that it places is
escaped for that, wherever the value is from.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup


def fill(folder: Path, name: str, **values: object) -> Markup:
    """A template with its values in their places, to be written as it is or placed in another template.

    `fill(folder, "page.html.jinja", title="<b>")` gives `<h1>&lt;b&gt;</h1>` for `<h1>{{ title }}</h1>`. In Markdown
    the filter `code` shows a value as code.

    Args:
        folder: Where the template is, and whatever it imports or includes.
        name: The template's path in the folder.
        values: By their names in the template, and put into words already.

    Raises:
        jinja2.UndefinedError: the template wants a value that it is not given.
    """
    return Markup(_environment(folder, name.endswith(".md.jinja")).get_template(name).render(values))


@cache
def _environment(folder: Path, markdown: bool) -> Environment:
    made = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_plain if markdown else None,
    )
    if markdown:
        made.filters["code"] = _code
    return made


def _plain(value: object) -> Markup:
    """A value that Markdown leaves as it is, on one line; what a template or `Markup` says is Markdown already."""
    if isinstance(value, Markup):
        return value
    text = str(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]|~])", r"\\\1", text)
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # one inside a word is no emphasis
    text = text.replace("://", ":&#8203;//").replace("www.", "www&#8203;.").replace("@", "&#64;")  # no link by itself
    return Markup(text.replace("\n", "<br>").replace("\t", " "))


def _code(value: object) -> Markup:
    """A value to be copied as it is from Markdown, even from a table's cell."""
    text = str(value)
    if not text:
        return Markup()
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * (longest + 1)
    room = " " if text.startswith("`") or text.endswith("`") else ""
    return Markup(f"{fence}{room}{text.replace('|', chr(92) + '|').replace(chr(10), ' ')}{room}{fence}")
