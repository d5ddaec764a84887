"""Golden fixtures: every stage's right result, from picture file to score, and the reference that parity needs.

    golden/golden.json            what follows, by stage
    golden/<picture>.png|.jpg     pictures that hurt: wide, turned by EXIF, grey, with transparency
    golden/<picture>.rgb          what preprocessing must make of it: uint8 [H, W, 3], row by row
    golden/samples.png            the pictures of the parity samples, 64 x 64 each, in rows of twenty
    golden/reference.safetensors  the float reference's answers to all samples

A test on the device decodes a picture and compares with the `.rgb`, tokenizes a text and compares the ids, runs the
artefact on both and compares the embeddings: the first stage that differs is where to look. `edgevlm verify` asks
the artefact about all samples again, on whatever machine it runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgevlm import schema
from edgevlm.bundle.spec import ImagePreprocessing
from edgevlm.errors import BundleError
from edgevlm.inputs.pictures import preprocess
from edgevlm.parity.comparison import Answers
from edgevlm.parity.samples import _SIDE, golden_pictures, sample_pictures, sample_texts

FOLDER = "golden"
_COLUMNS = 20


@dataclass(frozen=True)
class GoldenPicture:
    """A picture file, the pixels that it becomes and the reference's answer to them."""

    file: str
    pixels: str
    what: str
    embedding: tuple[float, ...] | None
    scores: tuple[float, ...] | None


@dataclass(frozen=True)
class GoldenText:
    """A text, its token ids and the reference's answer to them."""

    text: str
    token_ids: tuple[int, ...]
    embedding: tuple[float, ...]


@dataclass(frozen=True)
class Golden:
    """What `golden.json` holds.

    Attributes:
        schema_version: Of this file.
        pictures, texts: Stage by stage.
        scores: softmax over the texts of `logit_scale * picture . text`, a row a picture.
        sample_texts: The texts of the parity samples; their pictures are in `samples.png`.
    """

    schema_version: int
    pictures: tuple[GoldenPicture, ...]
    texts: tuple[GoldenText, ...]
    scores: tuple[tuple[float, ...], ...]
    sample_texts: tuple[str, ...]


def write(
    folder: Path,
    *,
    pictures: Sequence[GoldenPicture],
    texts: Sequence[GoldenText],
    scores: NDArray[np.float32],
    reference: Answers,
) -> None:
    """Writes all but the pictures, which are there already (`write_pictures`)."""
    from safetensors.numpy import save_file

    golden = Golden(
        schema_version=1,
        pictures=tuple(pictures),
        texts=tuple(texts),
        scores=tuple(tuple(row) for row in scores.tolist()),
        sample_texts=sample_texts(),
    )
    (folder / FOLDER / "golden.json").write_text(
        json.dumps(schema.write(golden), ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )
    sheet = sample_pictures().reshape(-1, _COLUMNS, _SIDE, _SIDE, 3).swapaxes(1, 2)
    Image.fromarray(sheet.reshape(-1, _COLUMNS * _SIDE, 3)).save(folder / FOLDER / "samples.png")
    answers = {"image": reference.image, "text": reference.text, "scores": reference.scores}
    save_file(
        {name: np.ascontiguousarray(value) for name, value in answers.items() if value is not None},
        folder / FOLDER / "reference.safetensors",
    )


def write_pictures(folder: Path, spec: ImagePreprocessing) -> dict[str, NDArray[np.float32]]:
    """Writes the pictures and their `.rgb`; gives the pixels of each, float32 [1, 3, H, W]."""
    (folder / FOLDER).mkdir()
    found = {}
    for name, (picture, _) in golden_pictures().items():
        path = folder / FOLDER / name
        if name.endswith(".jpg"):
            picture.save(path, quality=95, exif=picture.getexif())
        else:
            picture.save(path)
        pixels = preprocess(path, spec)
        path.with_suffix(".rgb").write_bytes(pixels[0].transpose(1, 2, 0).astype(np.uint8).tobytes())
        found[name] = pixels
    return found


def read(folder: Path) -> tuple[Golden, NDArray[np.uint8], Answers]:
    """The fixtures of a bundle: `golden.json`, the sample pictures (uint8 [N, 64, 64, 3]), the reference's answers.

    Raises:
        BundleError: they are missing or not readable.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = folder / FOLDER / "golden.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        arrays = load_file(folder / FOLDER / "reference.safetensors")
        with Image.open(folder / FOLDER / "samples.png") as sheet:
            pixels = np.asarray(sheet.convert("RGB"))
        pictures = pixels.reshape(-1, _SIDE, _COLUMNS, _SIDE, 3).swapaxes(1, 2).reshape(-1, _SIDE, _SIDE, 3)
    except (OSError, ValueError, SafetensorError) as error:
        raise BundleError(f"{folder}: the golden fixtures cannot be read: {error}") from error
    golden = schema.read(Golden, data, where=str(path), error=BundleError)
    return golden, pictures, Answers(arrays.get("image"), arrays.get("text"), arrays.get("scores"))
