"""How a text becomes the token ids that an artefact takes, equal to the checkpoint's own tokenizer.

`Tokenizer` follows a manifest's rules with the `tokenizers` library alone. Cutting and padding are done here and not by
settings baked into a `tokenizer.json`, so that the manifest tells all that another language's reader needs to know.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import normalizers

from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.spec import TextPreprocessing
from edgevlm.errors import CheckpointError, InputError
from edgevlm.inputs.sequences import listed_texts

TOKENIZER_FILE = "tokenizer.json"

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Tokenizer:
    """Turns texts into token ids.

    Args:
        spec: The rules.
        folder: The bundle, or whatever folder `spec.tokenizer_file` is relative to.

    Raises:
        CheckpointError: the tokenizer's file is missing or damaged.
    """

    def __init__(self, spec: TextPreprocessing, folder: Path) -> None:
        path = Path(folder) / spec.tokenizer_file
        self.spec = spec
        self._tokenizer = parse(read_file(path), str(path))

    @classmethod
    def from_bytes(cls, spec: TextPreprocessing, tokenizer_json: bytes) -> Tokenizer:
        """The tokenizer whose file has that content.

        Raises:
            CheckpointError: the content is damaged.
        """
        tokenizer = cls.__new__(cls)
        tokenizer.spec = spec
        tokenizer._tokenizer = parse(tokenizer_json, spec.tokenizer_file)
        return tokenizer

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> Tokenizer | None:
        """The tokenizer that a bundle ships; None where no component takes texts.

        Raises:
            CheckpointError: its file is damaged.
        """
        text = bundle.manifest.text
        return cls(text, bundle.path) if text is not None else None

    @property
    def highest_id(self) -> int:
        """The highest token id: an embedding table needs a row more."""
        return max(self._tokenizer.get_vocab().values())

    def encode(self, texts: Sequence[str]) -> NDArray[np.int32]:
        """Tokenizes, cuts to the context and pads on the right. A cut text still ends with `eot_id`.

        Returns:
            int32 [N, context_length].

        Raises:
            InputError: not a sequence of texts, a text that is not valid Unicode or that the tokenizer fails on, or an
                id beyond 32 bits.
        """
        found = self._tokens(texts)
        highest = max((max(tokens, default=0) for tokens in found), default=0)
        if max(highest, self.spec.pad_id, self.spec.eot_id or 0) > np.iinfo(np.int32).max:
            raise InputError("expected token ids of 32 bits, got a higher one", hint="the tokenizer.json is damaged")
        ids = np.full((len(found), self.spec.context_length), self.spec.pad_id, np.int32)
        for row, tokens in zip(ids, found, strict=True):
            if len(tokens) > len(row):
                ending = [] if self.spec.eot_id is None else [self.spec.eot_id]
                tokens = tokens[: len(row) - len(ending)] + ending
            row[: len(tokens)] = tokens
        return ids

    def token_count(self, text: str) -> int:
        """Number of ids of a text with its special ones, before cutting: more than the context means that it is cut.

        Raises:
            InputError: see `encode`.
        """
        return len(self._tokens([text])[0])

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        texts = listed_texts(texts)
        for text in texts:
            if not isinstance(text, str):
                raise InputError(f"expected texts, got {type(text).__name__} among them")
            if any("\ud800" <= letter <= "\udfff" for letter in text):
                raise InputError(f"expected valid Unicode, got a lone surrogate in {text!r}")
        return self.ids([self.canonical(text) for text in texts])

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokenizer's own ids of canonical texts, special ones included, neither cut nor padded.

        Raises:
            InputError: the tokenizer fails on them, such as where one of its patterns takes too many steps.
        """
        try:
            return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # the library's panics are no Exception
            raise InputError(
                f"the tokenizer fails on {texts[0]!r}{' or another text' if len(texts) > 1 else ''}: {error}",
                hint="shorten the text; where that is of no help, the tokenizer.json is damaged",
            ) from error

    def pieces(self, text: str) -> list[int]:
        """The tokenizer's own ids of a text as it is, without special ones but those that are written in it.

        Raises:
            InputError: see `ids`.
        """
        try:
            return list(self._tokenizer.encode(text, add_special_tokens=False).ids)
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # the library's panics are no Exception
            raise InputError(f"the tokenizer fails on {text[:60]!r}: {error}", hint="shorten the text") from error

    def text(self, ids: Sequence[int]) -> str:
        """What ids say, without special ones. A character that is cut is the replacement character, U+FFFD.

        Raises:
            InputError: an id that the tokenizer does not have.
        """
        try:
            return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:
            raise InputError(f"the tokenizer fails on the ids {list(ids)[:8]}: {error}") from error

    def canonical(self, text: str) -> str:
        """What is done before the tokenizer.

        For SigLIP as `SiglipTokenizer` of transformers: big_vision's `canonicalize_text`, and no piece marks from
        outside. For SigLIP 2 as `Siglip2Tokenizer`, which lower-cases letter by letter: a final Greek sigma is not
        another letter then, as it is in Python's own `lower`.
        """
        if self.spec.canonicalisation == "siglip":
            text = text.lower() if self.spec.lower_case else text
            text = text.replace("▁", " ").translate(_NO_PUNCTUATION)
            return re.sub(r"\s+", " ", text).strip()
        return normalizers.Lowercase().normalize_str(text) if self.spec.lower_case else text


def without_rules(tokenizer_file: str) -> TextPreprocessing:
    """The rules of a tokenizer that is asked for ids as they are, neither cut nor padded."""
    return TextPreprocessing(1, 0, None, "none", False, tokenizer_file)


def parse(content: bytes, where: str) -> tokenizers.Tokenizer:
    """The library's tokenizer of a `tokenizer.json`, without the cutting and padding that may be baked into it.

    Args:
        content: Of the file.
        where: The file's name, for errors.

    Raises:
        CheckpointError: the content is damaged.
    """
    try:
        tokenizer = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode("a")  # a template naming a token that it does not define shows only here
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises nothing narrower, and its panics are no Exception
        raise CheckpointError(
            f"{where}: expected the `tokenizers` library's JSON, got a damaged or unknown file: {error}",
            hint="copy it again from where the checkpoint came from",
        ) from error
    return tokenizer


def read_file(path: Path) -> bytes:
    """The content of a tokenizer's file.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
