"""Descriptions that a person or another program wrote: JSON, CSV or TSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgevlm import schema
from edgevlm.enrichment.descriptions import Author, Descriptions, Entry, read_json
from edgevlm.errors import EnrichmentError

SUFFIXES = (".json", ".csv", ".tsv")
_FORMS = 'expected a text, a list of texts, or {"descriptions": [...], "attributes": {...}}'


def read(path: Path) -> Descriptions:
    """The descriptions in a file.

    JSON is `{label: text | [texts] | {"descriptions": [...], "attributes": {...}}}`, or what `edgevlm enrich` wrote,
    whose authors stay named. CSV and TSV have a first line that names the columns `label` and `description`, and a
    line for each description.

    Raises:
        EnrichmentError: no such file, another form, or a label or text that is empty; the message says where.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise EnrichmentError(f"{path}: expected a file that ends with {', '.join(SUFFIXES)}")
    if suffix == ".json":
        data = read_json(path)
        if isinstance(data, dict) and "schema_version" in data:
            return Descriptions.read(path)
        found = _from_json(data, str(path))
    else:
        found = _from_table(path, "\t" if suffix == ".tsv" else ",")
    if not found:
        raise EnrichmentError(f"{path}: expected labels with descriptions, got none")
    return Descriptions({path.name: Author("file", path.name)}, found)


def _from_json(data: Any, where: str) -> dict[str, Entry]:
    if not isinstance(data, dict):
        raise EnrichmentError(f"{where}: expected an object with a key for each label, got {type(data).__name__}")
    found: dict[str, Entry] = {}
    for key, value in data.items():
        label = key.strip()
        if not label or label in found:
            raise EnrichmentError(f"{where}: expected each label once, got {key!r}{' again' if label else ''}")
        found[label] = _entry(value, f"{where}.{label}", Path(where).name)
    return found


def _entry(value: Any, where: str, author: str) -> Entry:
    if not isinstance(value, dict):
        return Entry(_texts(value, where), authors=(author,))
    unknown = sorted(value.keys() - {"descriptions", "attributes"})
    if unknown:
        raise EnrichmentError(f"{where}: unknown key {unknown[0]!r}: {_FORMS}")
    attributes = value.get("attributes", {})
    if not isinstance(attributes, Mapping):
        raise EnrichmentError(f"{where}.attributes: expected an object, got {attributes!r}")
    for name, text in attributes.items():
        if not isinstance(text, str) or not text.strip():
            raise EnrichmentError(f"{where}.attributes.{name}: expected a text, got {text!r}")
    texts = _texts(value.get("descriptions"), f"{where}.descriptions")
    return Entry(texts, {name: " ".join(text.split()) for name, text in attributes.items()}, (author,))


def _texts(value: Any, where: str) -> tuple[str, ...]:
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise EnrichmentError(f"{where}: got {value!r}", hint=_FORMS)
    return tuple(dict.fromkeys(" ".join(text.split()) for text in texts))


def _from_table(path: Path, delimiter: str) -> dict[str, Entry]:
    texts: dict[str, list[str]] = {}
    content = schema.read_text(path, "table", error=EnrichmentError)
    try:
        with io.StringIO(content, newline="") as file:
            lines = csv.reader(file, delimiter=delimiter, strict=True)
            header = [name.strip().lower() for name in next(lines, [])]
            if sorted(header) != ["description", "label"]:
                got = delimiter.join(header) or "an empty file"
                raise EnrichmentError(f"{path}: expected the first line label{delimiter}description, got {got}")
            for row in lines:
                if not any(cell.strip() for cell in row):
                    continue
                cells = dict(zip(header, (" ".join(cell.split()) for cell in row), strict=False))
                if len(row) != len(header) or not all(cells.values()):
                    raise EnrichmentError(
                        f"{path}: line {lines.line_num}: expected a label and a description, got {row}",
                        hint="put quotes around a description that has commas in it",
                    )
                texts.setdefault(cells["label"], []).append(cells["description"])
    except csv.Error as error:
        raise EnrichmentError(f"{path}: not a readable table: {error}") from error
    return {label: Entry(tuple(dict.fromkeys(several)), authors=(path.name,)) for label, several in texts.items()}
