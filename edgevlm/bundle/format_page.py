"""Writes the parts of the format's page that come from the dataclasses, and the JSON Schemas beside it.

`python -m edgevlm.bundle.format_page` writes README.md and the `*.schema.json` of this folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from edgevlm import schema
from edgevlm.bundle import golden, golden_dialogues
from edgevlm.bundle.golden import ARITHMETIC, Golden
from edgevlm.bundle.golden_dialogues import GoldenDialogues
from edgevlm.bundle.json_schema import FIRST_VERSION, fields, json_schema, objects
from edgevlm.bundle.manifest import VERSIONS, Manifest
from edgevlm.bundle.recipe import BUILTIN

FOLDER = Path(__file__).parent
PAGE = FOLDER / "README.md"
SCHEMAS = {
    FOLDER / "manifest.schema.json": Manifest,
    FOLDER / "golden.schema.json": Golden,
    FOLDER / "golden_dialogues.schema.json": GoldenDialogues,
}
_OF_GOLDEN = {Golden: golden.SCHEMA_VERSION, GoldenDialogues: golden_dialogues.SCHEMA_VERSION}
"""`schema_version` of the files."""
_PLAIN = {str: "text", int: "whole number", float: "number", bool: "true or false"}
_PART = re.compile(r"(<!-- tables: (\w+) -->\n).*?(<!-- end of tables -->)", re.DOTALL)


def page(text: str) -> str:
    """The page with its generated parts as the dataclasses have them now.

    Args:
        text: The page, whose parts stand between marks.
    """
    parts = {
        "Manifest": _tables(Manifest),
        "Golden": _tables(Golden),
        "GoldenDialogues": _tables(GoldenDialogues, since="2.0"),
        "limits": _limits(),
        "arithmetic": _arithmetic(),
        "limits_of_talkers": _limits_of_talkers(),
    }
    return _PART.sub(lambda mark: f"{mark[1]}\n{parts[mark[2]]}\n\n{mark[3]}", text)


def schema_text(kind: Any) -> str:
    """The file with the JSON Schema of a dataclass: of manifests, this minor version and those before it are valid."""
    found = json_schema(kind)
    if kind in _OF_GOLDEN:
        found["properties"]["schema_version"]["const"] = _OF_GOLDEN[kind]
    if kind is Manifest:
        newest = (version.split(".") for version in VERSIONS)
        known = [f"{major}.{each}" for major, minor in newest for each in range(int(minor) + 1)]
        found["properties"]["format_version"]["enum"] = known
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def _tables(kind: Any, since: str = FIRST_VERSION) -> str:
    return "\n\n".join(_object_table(each, version) for each, version in objects(kind, since).items())


def _object_table(kind: Any, since: str) -> str:
    later = f" Since {since}." if since != FIRST_VERSION else ""
    rows = (
        (
            f"`{field.name}`",
            _type(field.kind),
            field.since or since,
            "refused" if field.required else _default(field.default),
            field.meaning,
        )
        for field in fields(kind)
    )
    return f"#### {kind.__name__}\n\n{schema.introduction(kind)}{later}\n\n" + _table(
        ("key", "type", "since", "if missing", "what it is"), rows
    )


def _type(kind: Any) -> str:
    """A type in words, with its unit and range."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        quantity: schema.Quantity = arguments[1]
        unit = f" of {quantity.unit}" if quantity.unit else ""
        return f"{_type(arguments[0])}{unit}" + (f", {quantity.range}" if quantity.range else "")
    if origin in (Union, UnionType):
        (some,) = (argument for argument in arguments if argument is not NoneType)
        return f"{_type(some)}; or null"
    if origin is Literal:
        return "one of " + ", ".join(f'`"{value}"`' for value in arguments)
    if origin is tuple:
        length = "" if arguments[-1] is Ellipsis else f"{len(arguments)} "
        return f"list of {length}({_type(arguments[0])})"
    if origin is not None and issubclass(origin, Mapping):
        return f"object, text to ({_type(arguments[1])})"
    return _PLAIN[kind] if kind in _PLAIN else f"[{kind.__name__}](#{kind.__name__.lower()})"


def _default(value: Any) -> str:
    return "the defaults of its keys" if isinstance(value, dict) and value else f"`{json.dumps(value)}`"


def _limits() -> str:
    rows = (
        (f"`{name}`", *("none" if limit is None else f"{limit:g}" for limit in schema.write(recipe.parity).values()))
        for name, recipe in BUILTIN.items()
    )
    return _table(("recipe", "`max_abs_error`", "`min_cosine`", "`min_top1_agreement`"), rows)


def _arithmetic() -> str:
    rows = ((each, f"{apart.max_abs_error:g}", f"{apart.min_cosine:g}") for each, apart in ARITHMETIC.items())
    return _table(("activations in", "`max_abs_error`", "`min_cosine`"), rows)


def _limits_of_talkers() -> str:
    measures = ("max_abs_error", "mean_kl", "top1_agreement", "same_answers", "same_tokens", "margin")
    rows = []
    for name, recipe in BUILTIN.items():
        allowed = golden_dialogues.limits(recipe)
        values = [getattr(allowed, measure) for measure in measures]
        rows.append((f"`{name}`", *("none" if value is None else f"{value:.3g}" for value in values)))
    return _table(("recipe", *(f"`{measure}`" for measure in measures)), rows)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def main() -> None:
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    for path, kind in SCHEMAS.items():
        path.write_text(schema_text(kind), encoding="utf-8")


if __name__ == "__main__":
    main()
