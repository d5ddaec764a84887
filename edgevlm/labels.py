"""Label files: a name or prompt per line, UTF-8; blank lines do not count."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgevlm.bundle import Labels
from edgevlm.errors import LabelError
from edgevlm.tokenizing import Tokenizer

PLAIN = "{}"


def read(path: Path, templates: Sequence[str] = ()) -> Labels:
    """The labels of a file, to be put into each template where `{}` stands.

    Raises:
        LabelError: the file is missing, not text, empty or names a label twice; or a template lacks its `{}`.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f"{path}: expected a text file in UTF-8 with a label per line: {error}") from error
    names: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        name = line.strip()
        if name in names:
            raise LabelError(f"{path}: line {number} repeats the label {name!r} of line {names[name]}")
        if name:
            names[name] = number
    if not names:
        raise LabelError(f"{path}: expected a label per line, got none")
    for template in templates:
        if template.count(PLAIN) != 1 or template.count("{") != 1 or template.count("}") != 1:
            raise LabelError(
                f"template {template!r}: expected exactly one {{}} where the label goes", hint='e.g. "a photo of a {}"'
            )
    return Labels(tuple(names), tuple(templates) or (PLAIN,))


def check_lengths(labels: Labels, tokenizer: Tokenizer, context_length: int) -> None:
    """Refuses labels that the model would cut.

    Raises:
        LabelError: a label in one of the templates has more tokens than the context.
    """
    for name in labels.names:
        for template in labels.templates:
            count = tokenizer.token_count(template.format(name))
            if count > context_length:
                raise LabelError(
                    f"the label {name!r} has {count} tokens, the model's context {context_length}",
                    hint="shorten the label or the template",
                )
