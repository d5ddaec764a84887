"""Labels: files with a name or prompt per line, and the texts that a text tower is asked about."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgevlm import schema
from edgevlm.bundle.manifest import Labels
from edgevlm.errors import LabelError
from edgevlm.inputs.texts import Tokenizer

PLAIN = "{}"
_SHOWN = 5
_LONGEST_SHOWN = 60
_LONGEST_NAME = 32
_PATH = re.compile(
    r"^[.~]{0,2}[/\\]|^\S+[/\\]\S+$|\.(txt|csv|tsv|jsonl?|ya?ml|md|labels|names|list)$|^\S+\.[a-z]\w{0,6}$",
    re.IGNORECASE,
)
"""A label that rather is a path: whatever it ends with, where it is one word."""


def read(path: Path, templates: Sequence[str] = ()) -> Labels:
    """The labels of a file, to be put into each template where `{}` stands.

    Raises:
        LabelError: the file is missing, not text, empty or names a label twice; or a template lacks its `{}`.
    """
    text = schema.read_text(path, "text", error=LabelError, hint="a file of labels has a label per line, in UTF-8")
    names = parse(text, where=str(path))
    _check_templates(templates)
    return Labels(names, tuple(templates) or (PLAIN,))


def read_or_split(given: str) -> tuple[str, ...]:
    """The labels of a file, or those that are written out with commas between them.

    >>> read_or_split("a cat, a dog")
    ('a cat', 'a dog')

    Raises:
        LabelError: what looks like a path is no file, the file is not one of labels, or nothing is there.
    """
    if os.path.isfile(given):  # which, unlike Path's, says no to a list that is too long for a name
        return read(Path(given)).names
    found = "a folder" if os.path.isdir(given) else "what is no file" if os.path.exists(given) else "no such file"
    if os.path.exists(given) or ("," not in given and _PATH.search(given)):
        raise LabelError(
            f"{given}: expected a file with a label per line, got {found}",
            hint=f'for a label of that name put a comma behind it: "{given},"',
        )
    names = tuple(dict.fromkeys(part.strip() for part in given.split(",") if part.strip()))
    if not names:
        raise LabelError(f"expected labels with commas between them, or a file, got {given!r}")
    return names


def parse(text: str, *, where: str) -> tuple[str, ...]:
    """The labels in a text, one a line; blank lines do not count, nor do comments, which begin with `#`.

    Raises:
        LabelError: there is none, or one occurs twice.
    """
    names: dict[str, int] = {}
    for number, name in numbered_lines(text):
        if name in names:
            raise LabelError(f"{where}: line {number} repeats the label {name!r} of line {names[name]}")
        names[name] = number
    if not names:
        raise LabelError(f"{where}: expected a label per line, got none")
    return tuple(names)


def set_name(path: Path) -> str:
    """What the labels of a file are called in the name of a bundle: the file's name, in what every file system takes.

    >>> set_name(Path("Oiseaux d'été.txt")), set_name(Path("shop/birds.txt"))
    ('Oiseaux-d-ete', 'birds')

    A name that is too long, or has nothing of that kind, ends in a few digits of its sha256.
    """
    plain = unicodedata.normalize("NFKD", path.stem).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9_.+]+", "-", plain).strip("-.+")
    if name and len(name) <= _LONGEST_NAME:
        return name
    digits = hashlib.sha256(os.fsencode(path.stem)).hexdigest()[:8]
    return f"{name[: _LONGEST_NAME - 9].rstrip('-.+') or 'labels'}-{digits}"


def quoted(names: Sequence[str], most: int = _SHOWN) -> str:
    """The first names of some, as an error shows them.

    >>> quoted(["a cat", "a dog", "a hen"], most=2)
    "'a cat', 'a dog' and 1 more"
    """
    cut = (name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}…" for name in names[:most])
    shown = ", ".join(map(repr, cut))
    return shown + (f" and {len(names) - most:,} more" if len(names) > most else "")


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a text that hold something, stripped, each with its number; comments begin with `#`.

    They end as in a text editor: Unicode's other separators, such as U+2028, stand within a line.
    """
    for number, line in enumerate(re.split(r"\r\n?|\n", text), 1):
        if (line := line.strip()) and not line.startswith("#"):
            yield number, line


def fill(names: Sequence[str], templates: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """For each label the templates with its name in place of `{}`.

    Raises:
        LabelError: a template lacks its `{}`.
    """
    _check_templates(templates)
    return tuple(tuple(template.replace(PLAIN, name) for template in templates) for name in names)


def texts_of(labels: Labels) -> tuple[tuple[str, ...], ...]:
    """For each label the texts whose embeddings are averaged."""
    return fill(labels.names, labels.templates) if labels.texts is None else labels.texts


def check_lengths(
    names: Sequence[str],
    texts: Sequence[Sequence[str]],
    tokenizer: Tokenizer,
    *,
    context: str = "the model's context",
) -> None:
    """Refuses labels that the model would cut; errors call its context `context`.

    Raises:
        LabelError: one of a label's texts has more tokens than the context.
    """
    context_length = tokenizer.spec.context_length
    for name, several in zip(names, texts, strict=True):
        for text in several:
            count = tokenizer.token_count(text)
            if count > context_length:
                raise LabelError(
                    f"the label {name!r} has {count} tokens, {context} {context_length}"
                    + (f": {text!r}" if text != name else ""),
                    hint="shorten the label, its template or its description",
                )


def same_to_model(
    names: Sequence[str], texts: Sequence[Sequence[str]], *tokenizers: Tokenizer
) -> tuple[tuple[str, ...], ...]:
    """Groups of labels whose texts become the same token ids, such as `Cat` and `cat` where capitals do not count.

    Args:
        names: L labels.
        texts: What is encoded for each of them.
        tokenizers: The model's; of an ensemble, those of all its members.
    """
    groups: dict[bytes, list[str]] = {}
    for name, several in zip(names, texts, strict=True):
        groups.setdefault(b"".join(each.encode(several).tobytes() for each in tokenizers), []).append(name)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def check(names: Sequence[str], texts: Sequence[Sequence[str]], *tokenizers: Tokenizer) -> None:
    """Refuses labels that the model would cut, and several that it cannot tell apart.

    Args:
        names: L labels.
        texts: What is encoded for each of them.
        tokenizers: The model's; of an ensemble, those of all its members.

    Raises:
        LabelError: one of a label's texts has more tokens than the context, or two labels become the same token ids.
    """
    for tokenizer in tokenizers:
        check_lengths(names, texts, tokenizer)
    for group in same_to_model(names, texts, *tokenizers):
        raise LabelError(
            f"the labels {', '.join(map(repr, group))} are one and the same to the model: they become the same token "
            "ids, and would share their score",
            hint="leave all but one of them out, or tell them apart in words",
        )


def _check_templates(templates: Sequence[str]) -> None:
    for template in templates:
        if template.count(PLAIN) != 1 or template.count("{") != 1 or template.count("}") != 1:
            raise LabelError(
                f"template {template!r}: expected exactly one {{}} where the label goes", hint='e.g. "a photo of a {}"'
            )
