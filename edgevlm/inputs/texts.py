"""How a text becomes the token ids that an artefact takes, equal to the checkpoint's own tokenizer.

`from_checkpoint` reads the tokenizer of a folder in Hugging Face format and says its rules in numbers; `Tokenizer`
follows them on the device, with the `tokenizers` library alone. Cutting and padding are done here and not by settings
baked into a `tokenizer.json`, so that the manifest tells all that another language's reader needs to know.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.spec import TextCanonicalisation, TextPreprocessing
from edgevlm.errors import CheckpointError, InputError

Family = Literal["clip", "siglip"]

TOKENIZER_FILE = "tokenizer.json"

_TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class _Kind:
    """What a tokenizer class in `tokenizer_config.json` stands for; special tokens are its defaults."""

    canonicalisation: TextCanonicalisation
    lower_case: bool
    bos: str | None
    eos: str
    unk: str
    pad: str


# CLIP's own tokenizer.json lower-cases. SigLIP 2 was trained on lower-cased text (Tschannen et al., 2025), which
# Gemma's tokenizer does not do by itself.
_CLIP = _Kind("none", False, "<|startoftext|>", "<|endoftext|>", "<|endoftext|>", "<|endoftext|>")
_SIGLIP = _Kind("siglip", True, None, "</s>", "<unk>", "</s>")
_SIGLIP2 = _Kind("none", True, "<bos>", "<eos>", "<unk>", "<pad>")
_KINDS: dict[Family, dict[str, _Kind]] = {
    "clip": {"CLIPTokenizer": _CLIP},
    "siglip": {"SiglipTokenizer": _SIGLIP, "Siglip2Tokenizer": _SIGLIP2, "GemmaTokenizer": _SIGLIP2},
}

# `tokenization_clip.py` of transformers, after OpenAI's `simple_tokenizer.py`.
_CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


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
        self._tokenizer = _parse(_read(path), str(path))

    @classmethod
    def from_bytes(cls, spec: TextPreprocessing, tokenizer_json: bytes) -> Tokenizer:
        """The tokenizer whose file has that content.

        Raises:
            CheckpointError: the content is damaged.
        """
        tokenizer = cls.__new__(cls)
        tokenizer.spec = spec
        tokenizer._tokenizer = _parse(tokenizer_json, spec.tokenizer_file)
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
            InputError: not a sequence of texts, or a text that is not valid Unicode.
        """
        ids = np.full((len(texts), self.spec.context_length), self.spec.pad_id, np.int32)
        for row, tokens in zip(ids, self._tokens(texts), strict=True):
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
        if isinstance(texts, str):
            raise InputError("expected a sequence of texts, got one text", hint="put it in a list: [text]")
        for text in texts:
            if not isinstance(text, str):
                raise InputError(f"expected texts, got {type(text).__name__} among them")
            if any("\ud800" <= letter <= "\udfff" for letter in text):
                raise InputError(f"expected valid Unicode, got a lone surrogate in {text!r}")
        encodings = self._tokenizer.encode_batch([self._canonical(text) for text in texts])
        return [encoding.ids for encoding in encodings]

    def _canonical(self, text: str) -> str:
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


@dataclass(frozen=True)
class CheckpointTokenizer:
    """A checkpoint's tokenizer, ready to be shipped.

    Attributes:
        spec: Its rules; `tokenizer_file` is where `write` puts it.
        tokenizer_json: Content of the `tokenizer.json`: the checkpoint's own bytes where it has that file.
    """

    spec: TextPreprocessing
    tokenizer_json: bytes

    def write(self, folder: Path) -> Path:
        """Puts the `tokenizer.json` into a folder, which `Tokenizer(spec, folder)` then opens; gives its path."""
        path = folder / self.spec.tokenizer_file
        path.write_bytes(self.tokenizer_json)
        return path


def from_checkpoint(folder: Path, *, family: Family, context_length: int) -> CheckpointTokenizer:
    """Reads the tokenizer of a checkpoint in Hugging Face format.

    `tokenizer.json` is taken as it is; for CLIP, `vocab.json` and `merges.txt` do as well. Padding comes from
    `tokenizer_config.json` and `special_tokens_map.json` (with transformers' precedence), not from `config.json`, whose
    `pad_token_id` of 1 is wrong for CLIP.

    Args:
        folder: The checkpoint.
        family: What the checkpoint's `config.json` says that it is.
        context_length: Ids in each row, from `text_config.max_position_embeddings`.

    Raises:
        CheckpointError: a file is missing or damaged, the tokenizer is of another kind, pads on the left, does not
            end its texts with the end-of-text id, or lacks a special token.
    """
    folder = Path(folder)
    config = _read_json(folder / "tokenizer_config.json")
    kind = _kind(config, family, folder)
    named = _special_tokens(folder, config, kind)
    if (folder / TOKENIZER_FILE).exists():
        content = _read(folder / TOKENIZER_FILE)
    elif family == "clip":
        content = _build_clip(folder, named).to_str(pretty=True).encode()
    else:
        raise _without_tokenizer_json(folder)
    tokenizer = _parse(content, str(folder / TOKENIZER_FILE))
    pad_id, eot_id = (_id_of(tokenizer, named[name].content, name, folder) for name in ("pad_token", "eos_token"))
    _check_ends(tokenizer, config, named, folder)
    if context_length < 3:
        raise CheckpointError(f"{folder}: expected a context of at least 3 ids, got {context_length}")
    lower_case = config.get("do_lower_case")
    spec = TextPreprocessing(
        context_length=context_length,
        pad_id=pad_id,
        eot_id=eot_id,
        canonicalisation=kind.canonicalisation,
        lower_case=kind.lower_case and lower_case is not False,
        tokenizer_file=TOKENIZER_FILE,
    )
    return CheckpointTokenizer(spec, content)


def _kind(config: Mapping[str, Any], family: Family, folder: Path) -> _Kind:
    kinds = _KINDS[family]
    name = config.get("tokenizer_class") or next(iter(kinds))
    kind = kinds.get(name.removesuffix("Fast")) if isinstance(name, str) else None
    if kind is None:
        raise CheckpointError(
            f"{folder / 'tokenizer_config.json'}: tokenizer_class: expected {' or '.join(kinds)} for a {family} "
            f"checkpoint, got {name!r}",
            hint="if its texts are prepared like one of these, name that one in the file",
        )
    for key in ("padding_side", "truncation_side"):
        if config.get(key, "right") != "right":
            raise CheckpointError(
                f"{folder / 'tokenizer_config.json'}: {key}: expected right, got {config[key]!r}",
                hint="the text towers of this family are trained on texts padded and cut on the right",
            )
    return kind


def _special_tokens(folder: Path, config: Mapping[str, Any], kind: _Kind) -> dict[str, AddedToken]:
    """The named special tokens, with transformers' precedence between the two files that may name them."""
    given = dict(config)
    if "added_tokens_decoder" not in config:
        given |= _read_json(folder / "special_tokens_map.json")
    defaults = {"bos_token": kind.bos, "eos_token": kind.eos, "unk_token": kind.unk, "pad_token": kind.pad}
    decoder = config.get("added_tokens_decoder")
    described = {
        token["content"]: token
        for token in (decoder.values() if isinstance(decoder, Mapping) else ())
        if isinstance(token, Mapping) and isinstance(token.get("content"), str)
    }
    tokens = {}
    for name, default in defaults.items():
        value = given.get(name) or default
        if value is None:
            continue
        content = value.get("content") if isinstance(value, Mapping) else value
        if not isinstance(content, str):
            raise CheckpointError(f"{folder}: {name}: expected a text or an object with `content`, got {value!r}")
        properties = described.get(content, value if isinstance(value, Mapping) else {})
        flags = {key: bool(properties[key]) for key in _TOKEN_FLAGS if key in properties}
        tokens[name] = AddedToken(content, special=True, **flags)
    return tokens


def _build_clip(folder: Path, named: Mapping[str, AddedToken]) -> tokenizers.Tokenizer:
    """What transformers' `CLIPTokenizer` builds from `vocab.json` and `merges.txt`."""
    tokenizer = tokenizers.Tokenizer(_clip_model(folder, unk=named["unk_token"].content))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    bos, eos = (
        (named[name].content, _id_of(tokenizer, named[name].content, name, folder))
        for name in ("bos_token", "eos_token")
    )
    tokenizer.post_processor = processors.RobertaProcessing(eos, bos, trim_offsets=False, add_prefix_space=False)
    # The order counts: of two that share their text, as <|endoftext|> does, the later one's flags stay.
    tokenizer.add_special_tokens(list(named.values()))
    return tokenizer


def _clip_model(folder: Path, *, unk: str) -> models.BPE:
    vocab_file, merges_file = folder / "vocab.json", folder / "merges.txt"
    for path in (vocab_file, merges_file):
        if not path.is_file():
            raise CheckpointError(
                f"{folder}: expected tokenizer.json, or vocab.json with merges.txt, got no {path.name}",
                hint="copy the tokenizer's files from where the checkpoint came from",
            )
    try:
        vocab, merges = models.BPE.read_file(str(vocab_file), str(merges_file))
        return models.BPE(
            vocab,
            merges,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            fuse_unk=False,
            unk_token=unk,
        )
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(f"{folder}: vocab.json and merges.txt do not make a tokenizer: {error}") from error


def _without_tokenizer_json(folder: Path) -> CheckpointError:
    if (folder / "spiece.model").is_file():
        return CheckpointError(
            f"{folder}: expected tokenizer.json, got only spiece.model, which the device's tokenizer cannot read",
            hint="copy tokenizer.json from the checkpoint that this one was tuned from, such as "
            "google/siglip-base-patch16-224: tuning leaves the vocabulary as it is",
        )
    return CheckpointError(
        f"{folder}: expected tokenizer.json, got no tokenizer",
        hint="copy the tokenizer's files from where the checkpoint came from",
    )


def _check_ends(
    tokenizer: tokenizers.Tokenizer, config: Mapping[str, Any], named: Mapping[str, AddedToken], folder: Path
) -> None:
    """Refuses a tokenizer.json whose beginnings and endings are not what the other files say."""
    ids = tokenizer.encode("a").ids
    eos = named["eos_token"].content
    if not ids or ids[-1] != tokenizer.token_to_id(eos) or config.get("add_eos_token") is False:
        raise CheckpointError(
            f"{folder}: expected a tokenizer that ends every text with {eos!r}, got ids {ids} for 'a'",
            hint="the text tower reads its answer there: save the tokenizer again with the end token on",
        )
    bos = named.get("bos_token")
    adds_bos = config.get("add_bos_token")
    if bos is not None and adds_bos is not None and adds_bos != (ids[0] == tokenizer.token_to_id(bos.content)):
        raise CheckpointError(
            f"{folder}: tokenizer_config.json says add_bos_token {adds_bos}, and tokenizer.json does the opposite",
            hint="save the tokenizer again, so that its files agree",
        )


def _id_of(tokenizer: tokenizers.Tokenizer, token: str, name: str, folder: Path) -> int:
    found: int | None = tokenizer.token_to_id(token)
    if found is None:
        raise CheckpointError(f"{folder}: expected the {name} {token!r} in the vocabulary, got none")
    return found


def _parse(content: bytes, where: str) -> tokenizers.Tokenizer:
    try:
        tokenizer = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
        tokenizer.encode("a")  # a template naming a token that it does not define shows only here
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises nothing narrower, and its panics are no Exception
        raise CheckpointError(
            f"{where}: expected the `tokenizers` library's JSON, got a damaged or unknown file: {error}",
            hint="copy it again from where the checkpoint came from",
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    """The object in the file, empty where there is no file."""
    if not path.exists():
        return {}
    try:
        data = json.loads(_read(path))
    except ValueError as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected an object, got {type(data).__name__}")
    return data
