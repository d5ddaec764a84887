"""Golden fixtures: every stage's right result, from picture file to score, and the reference that parity needs.

    golden/golden.json            what follows, by stage
    golden/<picture>.png|.jpg     pictures that hurt: wide, turned by EXIF, grey, with transparency
    golden/<picture>.rgb          what preprocessing must make of it: uint8 [H, W, 3], row by row
    golden/samples.png            the pictures of the parity samples, 64 x 64 each, in rows of twenty
    golden/reference.safetensors  the float reference's answers to all samples, a tensor `<component>.<output>` each

A test on the device decodes a picture and compares with the `.rgb`, tokenizes a text and compares the ids, runs the
artefact on both and compares the embeddings: the first stage that differs is where to look. `edgevlm verify` asks
the artefact about all samples again, on whatever machine it runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgevlm import schema
from edgevlm.bundle.spec import F32, ImagePreprocessing
from edgevlm.errors import BundleError
from edgevlm.inputs.pictures import preprocess
from edgevlm.parity.comparison import Answers
from edgevlm.parity.samples import SIDE, golden_pictures, sample_pictures, sample_texts

FOLDER = "golden"
SCHEMA_VERSION = 2
_COLUMNS = 20


GoldenAnswers: TypeAlias = Mapping[str, Mapping[str, tuple[float, ...]]]
"""What every component that takes the sample answers: component -> output -> its numbers, row by row."""


@dataclass(frozen=True)
class GoldenPicture:
    """A picture file, the pixels that it becomes and the reference's answers to them."""

    file: str
    pixels: str
    what: str
    answers: GoldenAnswers


@dataclass(frozen=True)
class GoldenText:
    """A text, its token ids and the reference's answers to them."""

    text: str
    token_ids: tuple[int, ...]
    answers: GoldenAnswers


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
        schema_version=SCHEMA_VERSION,
        pictures=tuple(pictures),
        texts=tuple(texts),
        scores=tuple(tuple(row) for row in scores.tolist()),
        sample_texts=sample_texts(),
    )
    (folder / FOLDER / "golden.json").write_text(
        json.dumps(schema.write(golden), ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )
    sheet = sample_pictures().reshape(-1, _COLUMNS, SIDE, SIDE, 3).swapaxes(1, 2)
    Image.fromarray(sheet.reshape(-1, _COLUMNS * SIDE, 3)).save(folder / FOLDER / "samples.png")
    tensors = {
        f"{component}.{output}": np.ascontiguousarray(rows)
        for component, outputs in reference.items()
        for output, rows in outputs.items()
    }
    save_file(tensors, folder / FOLDER / "reference.safetensors")


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
        pictures = pixels.reshape(-1, SIDE, _COLUMNS, SIDE, 3).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3)
    except (OSError, ValueError, SafetensorError) as error:
        raise BundleError(f"{folder}: the golden fixtures cannot be read: {error}") from error
    golden = schema.read(Golden, _upgraded(data), where=str(path), error=BundleError)
    answers: dict[str, dict[str, F32]] = {}
    for name, rows in arrays.items():
        component, _, output = _TENSORS_OF_1.get(name, name).rpartition(".")
        answers.setdefault(component, {})[output] = rows
    return golden, pictures, answers


_TENSORS_OF_1 = {"image": "encode_image.embedding", "text": "encode_text.embedding", "scores": "classify.scores"}
"""What bundles up to format 1.2 called the reference's answers."""


def _upgraded(data: Any) -> Any:
    """A `golden.json` of bundles up to format 1.2, whose pictures and texts had a field an output."""
    if not isinstance(data, Mapping) or data.get("schema_version") != 1:
        return data

    def answers(sample: dict[str, Any], component: str) -> dict[str, Any]:
        old = {
            "embedding": (component, sample.pop("embedding", None)),
            "scores": ("classify", sample.pop("scores", None)),
        }
        found = {name: {output: numbers} for output, (name, numbers) in old.items() if numbers is not None}
        return sample | {"answers": found}

    return dict(data) | {
        "schema_version": SCHEMA_VERSION,
        "pictures": [answers(dict(each), "encode_image") for each in data["pictures"]],
        "texts": [answers(dict(each), "encode_text") for each in data["texts"]],
    }
