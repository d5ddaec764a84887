"""The text side of a student's `config.json`, `{"kind": "small" | "teacher" | "none", ...}`, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from edgevlm import schema
from edgevlm.bundle.manifest import Labels
from edgevlm.bundle.spec import TextPreprocessing
from edgevlm.errors import CheckpointError
from edgevlm.inputs.texts import TOKENIZER_FILE, parse, read_file
from edgevlm.models.checkpoints import files, weights
from edgevlm.models.encoders import clip, siglip
from edgevlm.models.students.config import TextTowerConfig, check_text_tower
from edgevlm.models.students.layout import TEXT_TOWER
from edgevlm.models.students.parts import BorrowedText, FixedLabels, SmallText, TextSide
from edgevlm.models.students.towers import build_text_tower
from edgevlm.targets.isolation import rehearse

if TYPE_CHECKING:
    from edgevlm.models.network import Network

FAMILIES = {"clip": clip, "siglip": siglip}


@dataclass(frozen=True)
class _Small:
    tower: TextTowerConfig
    preprocessing: TextPreprocessing
    kind: Literal["small"] = "small"


@dataclass(frozen=True)
class _Teacher:
    family: Literal["clip", "siglip"]
    preprocessing: TextPreprocessing
    kind: Literal["teacher"] = "teacher"


@dataclass(frozen=True)
class _None:
    labels: Labels
    kind: Literal["none"] = "none"


_KINDS: dict[str, type[_Small] | type[_Teacher] | type[_None]] = {"small": _Small, "teacher": _Teacher, "none": _None}


def describe(side: TextSide) -> dict[str, Any]:
    """What `config.json` says of it, in plain values."""
    described: _Small | _Teacher | _None
    if isinstance(side, FixedLabels):
        described = _None(side.labels)
    else:
        text = replace(side.text, tokenizer_file=TOKENIZER_FILE)
        described = _Small(side.config, text) if isinstance(side, SmallText) else _Teacher(side.family, text)
    written: dict[str, Any] = schema.write(described)
    return written


def read(data: Mapping[str, Any], folder: Path, embedding_dim: int, *, where: str, trusted: bool) -> TextSide:
    """The side that `describe` described, with its tokenizer, and with the weights of a teacher's text half.

    What lies in the student's own `model.safetensors`, a small tower or label embeddings, is on the meta device still.

    Args:
        data: The config's part.
        folder: The student's.
        embedding_dim: Of its image tower.
        where: The part's place, for errors.
        trusted: Whether the tokenizer may be read in this process without having been tried in another.

    Raises:
        CheckpointError: an unknown kind or key, a file that is missing or damaged, or parts that contradict each other.
    """
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise CheckpointError(f"{where}.kind: expected one of {', '.join(_KINDS)}, got {kind!r}")
    described = schema.read(_KINDS[kind], data, where=where, error=CheckpointError)
    if isinstance(described, _None):
        if not described.labels.names:
            raise CheckpointError(f"{where}.labels.names: expected labels, got none")
        shape = (len(described.labels.names), embedding_dim)
        return FixedLabels(described.labels, torch.empty(shape, device="meta"))
    text = described.preprocessing
    if text.tokenizer_file != TOKENIZER_FILE:
        raise CheckpointError(
            f"{where}.preprocessing.tokenizer_file: expected {TOKENIZER_FILE}, got {text.tokenizer_file!r}"
        )
    if isinstance(described, _Small):
        config = described.tower
        check_text_tower(config, where=f"{where}.tower", error=CheckpointError)
        tokenizer_json = _read_tokenizer(folder, text, config.vocabulary_size, trusted)
        with torch.device("meta"):
            return SmallText(config, build_text_tower(config, text, embedding_dim), text, tokenizer_json)
    network = _read_half(folder / TEXT_TOWER, described.family, text, embedding_dim)
    tokenizer_json = _read_tokenizer(folder, text, network.text_model.config.vocab_size, trusted)
    return BorrowedText(network, text, tokenizer_json)


def _read_half(folder: Path, family: str, text: TextPreprocessing, embedding_dim: int) -> Network:
    from edgevlm.models.network import build_text_half  # imports transformers, which a student of its own has not

    where = folder / "config.json"
    network = build_text_half(files.read_json(where), family, where=str(where))
    longest = network.text_model.config.max_position_embeddings
    if text.context_length > longest:
        raise CheckpointError(f"{where}: expected a context of {text.context_length} ids or more, got {longest}")
    weights.fill_network(network, weights.find_files(folder))
    _, length = FAMILIES[family].build_text_tower(network, text, where=str(where))
    if length != embedding_dim:
        raise CheckpointError(
            f"{where}: expected embeddings as long as the image tower's, {embedding_dim}, got {length}",
            hint="take both towers from the same student",
        )
    return network


def _read_tokenizer(folder: Path, text: TextPreprocessing, vocabulary_size: int, trusted: bool) -> bytes:
    """Content of the `tokenizer.json`, after a look at whether it, the rules and the tower fit each other."""
    content, where = read_file(folder / TOKENIZER_FILE), str(folder / TOKENIZER_FILE)
    if not trusted:
        rehearse(content, where, ("a",))
    ids = parse(content, where).get_vocab().values()
    highest = max(ids, default=0)
    if highest >= vocabulary_size:
        raise CheckpointError(
            f"{folder}: expected a tokenizer with ids below the text tower's {vocabulary_size}, got {highest}",
            hint="take the tokenizer's file and the weights from the same student",
        )
    for name, value in (("pad_id", text.pad_id), ("eot_id", text.eot_id)):
        if value is not None and value not in ids:
            raise CheckpointError(f"{folder}: {name}: expected an id of the tokenizer, got {value}")
    if text.context_length < 3:
        raise CheckpointError(f"{folder}: expected a context of at least 3 ids, got {text.context_length}")
    return content
