"""Golden fixtures, written and read: every stage's right result, and the reference that parity needs.

`edgevlm.bundle.golden` says which files there are and what they hold. `edgevlm verify` asks the artefact about all
samples again, on whatever machine it runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgevlm import schema
from edgevlm.bundle.golden import (
    COLUMNS,
    FOLDER,
    GOLDEN,
    REFERENCE,
    SAMPLE_SHEET,
    SCHEMA_VERSION,
    SIDE,
    TENSORS_OF_1,
    Golden,
    GoldenPicture,
    GoldenText,
    read_golden,
)
from edgevlm.bundle.spec import F32, ImagePreprocessing
from edgevlm.errors import BundleError
from edgevlm.inputs.pictures import preprocess
from edgevlm.parity.comparison import Answers
from edgevlm.parity.samples import golden_pictures, sample_pictures, sample_texts


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
    (folder / GOLDEN).write_text(
        json.dumps(schema.write(golden), ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )
    sheet = sample_pictures().reshape(-1, COLUMNS, SIDE, SIDE, 3).swapaxes(1, 2)
    Image.fromarray(sheet.reshape(-1, COLUMNS * SIDE, 3)).save(folder / SAMPLE_SHEET)
    tensors = {
        f"{component}.{output}": np.ascontiguousarray(rows)
        for component, outputs in reference.items()
        for output, rows in outputs.items()
    }
    save_file(tensors, folder / REFERENCE)


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


def read(folder: Path, *, newer: bool = False) -> tuple[Golden, NDArray[np.uint8], Answers]:
    """The fixtures of a bundle: `golden.json`, the sample pictures (uint8 [N, 64, 64, 3]), the reference's answers.

    Args:
        folder: The bundle.
        newer: Whether it is of a newer minor version of the format, whose keys are left out.

    Raises:
        BundleError: they are missing, not readable, or of a version that this EdgeVLM does not know.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = folder / GOLDEN
    data = schema.read_json(path, error=BundleError)
    try:
        arrays = load_file(folder / REFERENCE)
        with Image.open(folder / SAMPLE_SHEET) as sheet:
            pixels = np.asarray(sheet.convert("RGB"))
        pictures = pixels.reshape(-1, SIDE, COLUMNS, SIDE, 3).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3)
    except (OSError, ValueError, SafetensorError) as error:
        raise BundleError(f"{folder}: the golden fixtures cannot be read: {error}") from error
    golden = read_golden(data, where=str(path), newer=newer)
    answers: dict[str, dict[str, F32]] = {}
    for name, rows in arrays.items():
        component, _, output = TENSORS_OF_1.get(name, name).rpartition(".")
        answers.setdefault(component, {})[output] = rows
    return golden, pictures, answers
