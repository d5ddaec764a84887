"""Golden fixtures, written and read: every stage's right result, and the reference that parity needs.

`edgevlm.bundle.golden` says which files there are and what they hold. `edgevlm verify` asks the artefact about all
samples again, on whatever machine it runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgevlm import schema
from edgevlm.bundle.bundle import Bundle
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
from edgevlm.bundle.tensors import refuse_large_header
from edgevlm.errors import BundleError, ImageError
from edgevlm.inference.embeddings import score
from edgevlm.inputs.pictures import DECODING_ERRORS, decode, preprocess
from edgevlm.inputs.rows import PIXELS, takes
from edgevlm.inputs.texts import Tokenizer
from edgevlm.parity.comparison import Answers, zero_shot
from edgevlm.parity.samples import golden_pictures, sample_pictures, sample_texts

_MOST_ROWS = 100
"""Of sample pictures, which are all decoded at once."""
_JPEG_LEVELS = 8
"""Grey levels by which two decoders of a JPEG may differ."""
_LENGTH = 1e-3
_SCORES = 1e-5
"""By how much a score may differ for each unit of the factor before it: golden's numbers are float32's."""


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


def check(bundle: Bundle, golden: Golden, tokenizer: Tokenizer | None) -> dict[str, dict[str, F32]]:
    """Makes again, of what a bundle ships, all of `golden.json` that takes no network.

    Args:
        bundle: Whose fixtures they are.
        golden: What its `golden.json` says.
        tokenizer: The bundle's own.

    Returns:
        The answers that `golden.json` gives, as rows of each component's outputs, for a session's to be held against.

    Raises:
        BundleError: a picture's pixels, a text's ids or a score are not what the manifest's rules make of the picture,
            of the text or of the embeddings; or a file that is named is not the bundle's.
    """
    where, manifest = bundle.path / GOLDEN, bundle.manifest
    for picture in golden.pictures:
        for name in (picture.file, picture.pixels):
            if name not in manifest.files:
                raise BundleError(f"{where}: names {name!r}, which is not in the bundle")
        pixels = preprocess(bundle.path / picture.file, manifest.image)[0].transpose(1, 2, 0).astype(np.uint8)
        # What a JPEG's decoder makes of it differs from one version to the next by a few levels.
        near = _JPEG_LEVELS if picture.file.endswith(".jpg") else 0
        kept = np.frombuffer((bundle.path / picture.pixels).read_bytes(), np.uint8)
        if kept.size != pixels.size or np.abs(kept.astype(int) - pixels.ravel()).max() > near:
            raise BundleError(
                f"{where}: {picture.file}: the manifest's rules for pictures make other pixels than {picture.pixels}"
            )
    texts = [text.text for text in golden.texts]
    if texts and tokenizer is None:
        raise BundleError(f"{where}: has texts, and the manifest has no rules for any")
    if tokenizer and tokenizer.spec.eot_id is not None and tokenizer.spec.eot_id not in tokenizer.encode(["a"]):
        raise BundleError(f"{bundle.path}: text.eot_id: expected the id that ends a text, got {tokenizer.spec.eot_id}")
    for text, ids in zip(golden.texts, tokenizer.encode(texts).tolist() if tokenizer else [], strict=True):
        if list(text.token_ids) != ids:
            raise BundleError(
                f"{where}: {text.text!r}: the manifest's rules for texts make other ids than its token_ids"
            )
    answers = _rows(bundle, golden)
    for name, outputs in answers.items():
        if "embedding" in outputs and np.abs(np.linalg.norm(outputs["embedding"], axis=1) - 1).max() > _LENGTH:
            raise BundleError(f"{where}: {name}: expected embeddings of length one, got others")
    scores = [score(cosines, manifest.logit_scale, manifest.logit_bias) for cosines in zero_shot(answers)]
    expected = scores[0] if scores else np.zeros((len(golden.pictures), 0), np.float32)
    allowed = _SCORES * max(1, manifest.logit_scale)
    fits = [len(row) for row in golden.scores] == [expected.shape[1]] * len(expected)
    if not fits or not np.abs(np.array(golden.scores) - expected).max(initial=0) <= allowed:
        raise BundleError(f"{where}: scores: the embeddings and logit_scale make other scores than these")
    return answers


def _rows(bundle: Bundle, golden: Golden) -> dict[str, dict[str, F32]]:
    """The answers by component and output, one row a sample.

    Raises:
        BundleError: one is missing, or of another length than the component's spec says.
    """
    found: dict[str, dict[str, F32]] = {}
    for name, component in bundle.components.items():
        samples = golden.pictures if takes(component.spec, PIXELS) else golden.texts
        for output in component.spec.outputs:
            rows = [sample.answers.get(name, {}).get(output.name, ()) for sample in samples]
            if not rows or any(len(row) != math.prod(output.shape) for row in rows):
                raise BundleError(
                    f"{bundle.path / GOLDEN}: {name}.{output.name}: expected {math.prod(output.shape)} numbers of each "
                    "sample"
                )
            found.setdefault(name, {})[output.name] = np.array(rows, np.float32).reshape(-1, *output.shape[1:])
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
    if not path.exists():
        raise BundleError(
            f"{folder}: has no golden fixtures to be held against, as one that was exported for an app",
            hint="verify the bundle that it was made of",
        )
    data = schema.read_json(path, error=BundleError, encoding="utf-8")
    try:
        refuse_large_header(folder / REFERENCE, error=BundleError)
        arrays = load_file(folder / REFERENCE)
        with Image.open(folder / SAMPLE_SHEET) as sheet:
            width, height = sheet.size
            if width != COLUMNS * SIDE or height % SIDE or height > _MOST_ROWS * SIDE:
                raise ValueError(f"{SAMPLE_SHEET}: expected rows of {COLUMNS} pictures, got {width} x {height} pixels")
            pixels = np.asarray(decode(sheet))
        pictures = pixels.reshape(-1, SIDE, COLUMNS, SIDE, 3).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3)
    except (*DECODING_ERRORS, ImageError, SafetensorError, Image.DecompressionBombError) as error:
        raise BundleError(f"{folder}: the golden fixtures cannot be read: {error}") from error
    golden = read_golden(data, where=str(path), newer=newer)
    answers: dict[str, dict[str, F32]] = {}
    for name, rows in arrays.items():
        component, _, output = TENSORS_OF_1.get(name, name).rpartition(".")
        answers.setdefault(component, {})[output] = rows
    return golden, pictures, answers
