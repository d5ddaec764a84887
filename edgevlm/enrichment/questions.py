"""What a language model is asked about a label, and what its answer comes to."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from edgevlm.errors import EnrichmentError

DESCRIBE = "Use a single sentence to describe the appearance and shape of {}"
"""As Li et al., ICCV 2023, ask (https://arxiv.org/abs/2307.03135)."""

LIST_ATTRIBUTES = (
    "List the visual attributes of {}, such as its colour, shape, size, texture and parts, as one flat JSON object "
    "with a few words for each attribute. Answer with the JSON object only."
)

# A text tower reads 64 or 77 ids, about 50 English words; the first sentence is kept however long it is.
_MOST_WORDS = 50
_THINKING = re.compile(r"<think(?:ing)?>.*?(</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)]*\s+(?=[^a-z\s])|(?<=[。！？])")
_ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|etc|approx|ca|cf|vs|Dr|Mr|Mrs|Ms|St|sp|spp|var|No)|\b[A-Z])\.$")
_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL | re.IGNORECASE)
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "`": "`", "**": "**", "*": "*"}
_MARKUP = re.compile(r"^(?:[-*•]\s+|\d+[.)]\s+|#+\s+)")


def check_prompt(prompt: str) -> None:
    """Raises EnrichmentError unless `{}` stands in the prompt exactly once."""
    if prompt.count("{}") != 1:
        raise EnrichmentError(
            f"prompt {prompt!r}: expected exactly one {{}} where the label goes", hint=f'e.g. "{DESCRIBE}"'
        )


def ask(prompt: str, label: str) -> str:
    """The question about a label."""
    return prompt.replace("{}", label)


def read_sentence(answer: str) -> str:
    """An answer's sentences, as many as fit a text tower, without quotes, markup, thoughts and line breaks.

    Raises:
        ValueError: nothing is left.
    """
    text = " ".join(_THINKING.sub(" ", answer).split())
    text = _unquote(_MARKUP.sub("", text))
    kept: list[str] = []
    for sentence in _sentences(text):
        if kept and sum(len(each.split()) for each in (*kept, sentence)) > _MOST_WORDS:
            break
        kept.append(sentence)
    text = " ".join(kept)
    if not any(letter.isalnum() for letter in text):
        raise ValueError(f"expected a sentence, got {_short(answer)}")
    return text


def read_attributes(answer: str) -> dict[str, str]:
    """The attributes in an answer that holds a JSON object, with or without words or a code fence around it.

    Values that are lists become one text with commas; an object in the object, null or an empty value is left out.

    Raises:
        ValueError: there is no JSON object, or nothing usable in it.
    """
    text = _THINKING.sub(" ", answer)
    for candidate in (*_FENCE.findall(text), text):
        found = _first_object(candidate)
        if found is not None:
            break
    else:
        raise ValueError(f"expected a JSON object, got {_short(answer)}")
    attributes = {" ".join(name.split()): _plain(value) for name, value in found.items()}
    usable = {name: value for name, value in attributes.items() if name and value}
    if not usable:
        raise ValueError(f"expected attributes with values, got {_short(answer)}")
    return usable


def _sentences(text: str) -> list[str]:
    parts: list[str] = []
    for part in _SENTENCE_END.split(text):
        if parts and _ABBREVIATION.search(parts[-1]):
            parts[-1] += f" {part}"
        elif part.strip():
            parts.append(part.strip())
    return parts


def _unquote(text: str) -> str:
    for opening, closing in _QUOTES.items():
        inner = text[len(opening) : -len(closing)]
        if len(text) > 2 and text.startswith(opening) and text.endswith(closing) and opening not in inner:
            return _unquote(inner.strip())
    return text


def _first_object(text: str) -> Mapping[str, Any] | None:
    decoder = json.JSONDecoder()
    for match in re.finditer(r"\{", text):
        try:
            value, _ = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        return value if isinstance(value, dict) else None
    return None


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(filter(None, map(_plain, value)))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(str(value).split()) if isinstance(value, str | int | float) else ""


def _short(answer: str) -> str:
    text = " ".join(answer.split())
    return repr(text if len(text) <= 120 else text[:120] + "…") if text else "an empty answer"
