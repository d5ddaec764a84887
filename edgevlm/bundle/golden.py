"""What `golden/golden.json` holds: every stage's right result, from picture file to score.

    golden/golden.json            what follows, by stage
    golden/<picture>.png|.jpg     pictures that hurt: wide, turned by EXIF, grey, with transparency
    golden/<picture>.rgb          what preprocessing must make of it: uint8 [H, W, 3], row by row
    golden/samples.png            the pictures of the parity samples, 64 x 64 each, in rows of twenty
    golden/reference.safetensors  the float reference's answers to all samples

A test on the device decodes a picture and compares with the `.rgb`, tokenizes a text and compares the ids, runs the
artefact on both and compares the embeddings: the first stage that differs is where to look.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgevlm import schema
from edgevlm.bundle.spec import TokenId
from edgevlm.errors import BundleError

FOLDER = "golden"
GOLDEN = f"{FOLDER}/golden.json"
SAMPLE_SHEET = f"{FOLDER}/samples.png"
REFERENCE = f"{FOLDER}/reference.safetensors"
SIDE = 64
"""Pixels of a sample picture's side."""
COLUMNS = 20
"""Sample pictures in a row of the sheet."""
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class GoldenPicture:
    """A picture file, the pixels that it becomes and the reference's answers to them.

    Attributes:
        file: Path of the picture.
        pixels: Path of what it becomes: `height` x `width` x 3 bytes, R G B, row by row from the top.
        what: What is awkward about it, in words.
        embedding: `embedding_dim` numbers, from `encode_image`; None where there is no such component.
        scores: A number for each of `labels.names`, from `classify`; None where there is no such component.
    """

    file: str
    pixels: str
    what: str
    embedding: tuple[float, ...] | None
    scores: tuple[float, ...] | None


@dataclass(frozen=True)
class GoldenText:
    """A text, its token ids and the reference's answer to them.

    Attributes:
        text: The text.
        token_ids: `context_length` ids, padding included.
        embedding: `embedding_dim` numbers, from `encode_text`.
    """

    text: str
    token_ids: tuple[TokenId, ...]
    embedding: tuple[float, ...]


@dataclass(frozen=True)
class Golden:
    """What `golden.json` holds.

    Attributes:
        schema_version: Of this file: 1.
        pictures: What each picture becomes, stage by stage.
        texts: What each text becomes, stage by stage; empty where there is no text tower.
        scores: softmax over the texts of `logit_scale * picture . text`: a row for each of `pictures`, a number for
            each of `texts`.
        sample_texts: The texts of the parity samples; their pictures are in `samples.png`.
    """

    schema_version: int
    pictures: tuple[GoldenPicture, ...]
    texts: tuple[GoldenText, ...]
    scores: tuple[tuple[float, ...], ...]
    sample_texts: tuple[str, ...]


def read_golden(data: Any, *, where: str, newer: bool) -> Golden:
    """What `golden.json` says.

    Args:
        data: What `json.load` gave.
        where: The file's path, for errors.
        newer: Whether the bundle is of a newer minor version of the format, whose keys are left out.

    Raises:
        BundleError: another version of this file, or not what a golden.json holds.
    """
    version = data.get("schema_version") if isinstance(data, dict) else None
    if isinstance(version, bool) or not isinstance(version, int) or version != SCHEMA_VERSION:
        is_later = isinstance(version, int) and version > SCHEMA_VERSION
        raise BundleError(
            f"{where}: expected schema_version {SCHEMA_VERSION}, got {version!r}",
            hint="update edgevlm, or convert the model again with this one" if is_later else "convert the model again",
        )
    return schema.read(Golden, data, where=where, error=BundleError, ignored=[] if newer else None)
