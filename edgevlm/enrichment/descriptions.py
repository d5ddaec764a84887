"""Sentences about labels, which a text tower understands where it does not know the name: a file to be reviewed.

    {
      "schema_version": 1,
      "authors": {"llama": {"source": "endpoint", "name": "llama", "url": "http://localhost:8080/v1", ...}},
      "labels": {
        "hoopoe": {
          "descriptions": ["A bird with a crown of feathers ..."],
          "attributes": {"crest": "orange, tipped with black"},
          "authors": ["llama"]
        }
      }
    }

The texts "a photo of NAME . DESCRIPTION" are those of Li et al., ICCV 2023 (https://arxiv.org/abs/2307.03135).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgevlm import schema
from edgevlm.errors import EnrichmentError, LabelError
from edgevlm.inputs import labels
from edgevlm.process import interrupts
from edgevlm.process.writing import output_errors, write_atomically

SCHEMA_VERSION = 1
_LISTED = 10


@dataclass(frozen=True)
class Author:
    """Who wrote descriptions, and what was asked.

    Attributes:
        source: What `name` is: a file, a language model run here, or one behind an endpoint.
        name: The file, the model's folder or hub id, or the model's name at the endpoint.
        url: The endpoint's.
        revision: Commit of a hub id.
        prompt: The question, in which `{}` stands for the label.
        temperature: Of sampling; 0 is greedy.
        seed: Of the first answer; each further one has the next.
    """

    source: Literal["file", "model", "endpoint"]
    name: str
    url: str | None = None
    revision: str | None = None
    prompt: str | None = None
    temperature: float | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Entry:
    """What is known of one label.

    Attributes:
        descriptions: Sentences; each makes a text of its own, and the texts' embeddings are averaged.
        attributes: What the thing looks like, by name.
        authors: Keys into `Descriptions.authors` of whoever wrote any of it; none if it was written by hand.
        failures: Answers that could not be used, and why.
    """

    descriptions: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    authors: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Descriptions:
    """Descriptions and attributes by label, and who wrote them.

    >>> written = edgevlm.Descriptions.read("descriptions.json")  # what `edgevlm.enrich` wrote
    >>> missing = {"a cat", "a dog"} - set(written.labels)
    """

    authors: Mapping[str, Author]
    labels: Mapping[str, Entry]

    @classmethod
    def read(cls, path: str | Path) -> Descriptions:
        """What `write` wrote, or a person in its form.

        Raises:
            EnrichmentError: no such file, not JSON, another version, or a key or value that does not belong there.
        """
        data = read_json(Path(path))
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version != SCHEMA_VERSION:
            raise EnrichmentError(
                f"{path}: expected descriptions with schema_version {SCHEMA_VERSION}, got {version!r}",
                hint=f"edgevlm enrich LABELS --with {path} --out FILE makes them of other JSON",
            )
        rest = {key: value for key, value in data.items() if key != "schema_version"}
        found = schema.read(cls, {"authors": {}} | rest, where=str(path), error=EnrichmentError)
        for label, entry in found.labels.items():
            where = f"{path}.labels.{label}"
            if not label.strip():
                raise EnrichmentError(f"{path}.labels: expected labels, got {label!r}")
            for index, text in enumerate(entry.descriptions):
                if not text.strip():
                    raise EnrichmentError(f"{where}.descriptions[{index}]: expected a sentence, got {text!r}")
            for index, author in enumerate(entry.authors):
                if author not in found.authors:
                    known = ", ".join(map(repr, found.authors)) or "none"
                    raise EnrichmentError(f"{where}.authors[{index}]: expected one of {known}, got {author!r}")
        return found

    def write(self, path: Path) -> None:
        """Writes the file whole, or leaves what was there.

        Raises:
            OutputError: it cannot be written.
        """
        plain: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "authors": {}, "labels": {}}
        for kind in ("authors", "labels"):
            for name, fields in schema.write(getattr(self, kind)).items():
                plain[kind][name] = {key: value for key, value in fields.items() if value not in (None, [], {})}
        text = json.dumps(plain, indent=2, ensure_ascii=False)
        with interrupts.put_off(), output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text + "\n")


def label_texts(
    names: Sequence[str], templates: Sequence[str], descriptions: Descriptions | None
) -> tuple[tuple[str, ...], ...]:
    """For each label its texts, whose embeddings are averaged.

    Args:
        names: The labels.
        templates: Texts in which `{}` stands for the label.
        descriptions: If given, each text is a template, " . " and one of the label's descriptions.

    Raises:
        LabelError: a label has no description, or a template no `{}`.
    """
    plain = labels.fill(names, templates)
    if descriptions is None:
        return plain
    known = descriptions.labels
    missing = [name for name in names if name not in known or not known[name].descriptions]
    if missing:
        more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
        raise LabelError(
            f"no description of {', '.join(map(repr, missing[:_LISTED]))}{more}, {len(missing)} of {len(names)} labels",
            hint="add them with edgevlm enrich and the same --out, or write them into the file",
        )
    return tuple(
        tuple(f"{text} . {sentence}" for text in texts for sentence in known[name].descriptions)
        for name, texts in zip(names, plain, strict=True)
    )


def read_json(path: Path) -> Any:
    """The value in a JSON file, refusing an object that has a key twice: one of the two would be lost.

    Raises:
        EnrichmentError: no such file, not UTF-8, not JSON, or a repeated key.
    """

    return schema.read_json(path, error=EnrichmentError)
