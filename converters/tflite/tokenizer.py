"""A tokenizer.json in which ids can be written as a text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from edgevlm.errors import UnsupportedError

_PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def spelled(tokenizer_json: bytes, ids: Sequence[int], *, where: str) -> tuple[bytes, str]:
    """A text that becomes just these ids, whatever comes behind it, and a tokenizer that makes them of it.

    Added tokens do: no rule of a tokenizer cuts or changes them. Where there is none of an id, as BLIP's own tokenizer
    has none of what a caption begins with, one is added.

    Args:
        tokenizer_json: The tokenizer's file.
        ids: To be written.
        where: The file's name, for errors.

    Raises:
        UnsupportedError: a vocabulary that numbers its texts by their order, so that none can be added.
    """
    content: dict[str, Any] = json.loads(tokenizer_json)
    words, added, text, more = content["model"]["vocab"], content["added_tokens"], "", False
    for token_id in ids:
        known = next((each["content"] for each in added if each["id"] == token_id and not each["single_word"]), None)
        if known is None:
            if not isinstance(words, dict):
                raise UnsupportedError(
                    f"{where}: expected a token that is the id {token_id}, which every text begins with, got none",
                    hint="add it to the checkpoint's tokenizer, as a special token, and save that again",
                )
            known = next((word for word, number in words.items() if number == token_id), f"<|{token_id}|>")
            words[known], more = token_id, True
            added.append({"id": token_id, "content": known, **_PLAIN})
        text += known
    return json.dumps(content, ensure_ascii=False).encode() if more else tokenizer_json, text
