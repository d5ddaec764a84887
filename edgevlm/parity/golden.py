"""Golden fixtures, written and read: every stage's right result, and the reference that parity needs.

`edgevlm.bundle.golden` says which files there are and what they hold. `edgevlm verify` asks the artefact about all
samples again, on whatever machine it runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgevlm import schema
from edgevlm.bundle import versions
from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.golden import (
    COLUMNS,
    FOLDER,
    GOLDEN,
    REFERENCE,
    SAMPLE_SHEET,
    SCORE_ERROR,
    SIDE,
    TENSORS_OF_1,
    Golden,
    GoldenAnswers,
    GoldenPicture,
    GoldenText,
    Side,
    Tolerance,
    read_golden,
)
from edgevlm.bundle.manifest import Manifest, ParityCheck
from edgevlm.bundle.spec import F32, ComponentSpec, ImagePreprocessing
from edgevlm.bundle.tensors import refuse_large_header
from edgevlm.errors import BundleError, ImageError
from edgevlm.inference.embeddings import score
from edgevlm.inputs.pictures import DECODING_ERRORS, decode, preprocess
from edgevlm.inputs.rows import EMBEDDING, PIXELS, TOKEN_IDS, Rows, takes
from edgevlm.inputs.texts import Tokenizer
from edgevlm.parity.comparison import Answers, compare, zero_shot
from edgevlm.parity.samples import golden_pictures, sample_pictures
from edgevlm.parity.tolerances import exceeded, tolerances

_MOST_ROWS = 100
"""Of sample pictures, which are all decoded at once."""
_JPEG_LEVELS = 8
"""Grey levels by which two decoders of a JPEG may differ."""
_LENGTH: Mapping[Side, float] = {"reference": 1e-3, "shipped": 1e-2}
"""By how much an embedding may be longer or shorter than one; a file may have it in float16."""
_SLACK = 10
"""How many times farther than the parity samples' limits golden's answers may be: its samples are those that hurt."""
_ROUNDING = 1e-9
"""By how much, in proportion, a tolerance may differ from what it is computed to be again."""


def write(folder: Path, golden: Golden) -> None:
    """Writes `golden.json`."""
    text = json.dumps(schema.write(golden), ensure_ascii=False, indent=1)
    (folder / GOLDEN).write_text(text + "\n", encoding="utf-8")


def write_samples(folder: Path, reference: Answers) -> None:
    """Writes the parity samples' pictures, and the reference's answers to them."""
    from safetensors.numpy import save_file

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


def sample_rows(folder: Path, golden: Golden, image: ImagePreprocessing) -> Rows:
    """What the components are asked about: each picture's pixels and each text's ids, as they are stored."""
    shape = (image.height, image.width, 3)
    stored = [np.frombuffer((folder / picture.pixels).read_bytes(), np.uint8) for picture in golden.pictures]
    pixels = np.stack([each.reshape(shape).transpose(2, 0, 1) for each in stored])
    ids = [text.token_ids for text in golden.texts]
    return {PIXELS: pixels.astype(np.float32)} | ({TOKEN_IDS: np.array(ids, np.int32)} if ids else {})


def answers_to(name: str, index: int, answers: Answers, specs: Mapping[str, ComponentSpec]) -> GoldenAnswers:
    """What the components that take an input of that name answered to one of its rows, as `golden.json` has it."""
    return {
        component: {output: tuple(rows[index].ravel().tolist()) for output, rows in outputs.items()}
        for component, outputs in answers.items()
        if takes(specs[component], name)
    }


def with_shipped(golden: Golden, bundle: Bundle, shipped: Answers) -> Golden:
    """The same with the shipped file's own answers beside the reference's, and the tolerances that follow from both.

    Args:
        golden: What is known before there is a file to ask.
        bundle: With that file.
        shipped: Its answers to `sample_rows`.
    """
    specs = {name: component.spec for name, component in bundle.components.items()}

    pictures = [
        replace(picture, shipped=answers_to(PIXELS, index, shipped, specs))
        for index, picture in enumerate(golden.pictures)
    ]
    texts = [
        replace(text, shipped=answers_to(TOKEN_IDS, index, shipped, specs)) for index, text in enumerate(golden.texts)
    ]
    found = replace(golden, pictures=tuple(pictures), texts=tuple(texts))
    return replace(found, tolerances=tolerances(found, bundle.manifest, sides(bundle, found)))


def sides(bundle: Bundle, golden: Golden) -> dict[Side, Answers]:
    """The answers in `golden.json`, a row for each sample: the reference's and, unless it is older, the file's own.

    Raises:
        BundleError: one is missing, or of another length than the component's spec says.
    """
    found: dict[Side, Answers] = {"reference": _rows(bundle, golden, lambda sample: sample.answers)}
    answered = [*(picture.shipped for picture in golden.pictures), *(text.shipped for text in golden.texts)]
    if golden.tolerances or any(answered):
        found["shipped"] = _rows(bundle, golden, lambda sample: sample.shipped)
    return found


def _rows(
    bundle: Bundle, golden: Golden, of: Callable[[GoldenPicture | GoldenText], GoldenAnswers]
) -> dict[str, dict[str, F32]]:
    found: dict[str, dict[str, F32]] = {}
    for name, component in bundle.components.items():
        samples = golden.pictures if takes(component.spec, PIXELS) else golden.texts
        for output in component.spec.outputs:
            rows = [of(sample).get(name, {}).get(output.name, ()) for sample in samples]
            if not rows or any(len(row) != math.prod(output.shape) for row in rows):
                raise BundleError(
                    f"{bundle.path / GOLDEN}: {name}.{output.name}: expected {math.prod(output.shape)} numbers of each "
                    "sample"
                )
            found.setdefault(name, {})[output.name] = np.array(rows, np.float32).reshape(-1, *output.shape[1:])
    return found


def check(bundle: Bundle, golden: Golden, tokenizer: Tokenizer | None) -> dict[Side, Answers]:
    """Makes again, of what a bundle ships, all of `golden.json` that takes no network.

    Args:
        bundle: Whose fixtures they are.
        golden: What its `golden.json` says.
        tokenizer: The bundle's own.

    Returns:
        The answers that `golden.json` has, for a session's to be held against.

    Raises:
        BundleError: a picture's pixels, a text's ids, a score or a tolerance are not what the manifest's rules make of
            the picture, of the text or of the answers; or a file that is named is not the bundle's.
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
    passed = manifest.parity is not None and manifest.parity.passed
    if passed and not golden.tolerances and versions.is_at_least(manifest.format_version, "1.4"):
        raise BundleError(f"{where}: tolerances: expected those of each stage, as since format 1.4, got none")
    answers = sides(bundle, golden)
    for side, components in answers.items():
        for name, outputs in components.items():
            lengths = np.linalg.norm(outputs[EMBEDDING], axis=1) if EMBEDDING in outputs else np.ones(1)
            if not np.abs(lengths - 1).max() <= _LENGTH[side]:
                raise BundleError(f"{where}: {name}: expected embeddings of length one, got others")
    cosines = zero_shot(answers["reference"])
    scores = [score(each, manifest.embedding.logit_scale, manifest.embedding.logit_bias) for each in cosines]
    expected = scores[0] if scores else np.zeros((len(golden.pictures), 0), np.float32)
    allowed = SCORE_ERROR * max(1, manifest.embedding.logit_scale)
    fits = [len(row) for row in golden.scores] == [expected.shape[1]] * len(expected)
    if not fits or not np.abs(np.array(golden.scores) - expected).max(initial=0) <= allowed:
        raise BundleError(f"{where}: scores: the embeddings and logit_scale make other scores than these")
    if "shipped" in answers and not _same(golden.tolerances, tolerances(golden, manifest, answers)):
        raise BundleError(f"{where}: tolerances: the answers and the recipe's limits make other ones than these")
    return answers


def _same(stored: tuple[Tolerance, ...], computed: tuple[Tolerance, ...]) -> bool:
    return [replace(each, limit=0) for each in stored] == [replace(each, limit=0) for each in computed] and all(
        math.isclose(each.limit, other.limit, rel_tol=_ROUNDING) for each, other in zip(stored, computed, strict=True)
    )


def far_off(manifest: Manifest, reference: Answers, answers: Answers) -> tuple[ParityCheck, ...]:
    """Which checks a file's answers to golden's samples fail by more than what is awkward about these explains.

    Args:
        manifest: With the recipe's limits, of which `_SLACK` times as much is allowed.
        reference: The float model's answers.
        answers: The file's.
    """
    found = []
    for each in compare(reference, answers, manifest.recipe.parity, logit_scale=manifest.embedding.logit_scale):
        if each.limit is None or each.measure not in ("max_abs_error", "min_cosine", "finite"):
            continue
        best = 0.0 if each.measure == "max_abs_error" else 1.0
        limit = best + _SLACK * (each.limit - best)
        held = ParityCheck.of(each.component, each.measure, each.value, limit)
        if not held.passed:
            found.append(held)
    return tuple(found)


def hold(bundle: Bundle, golden: Golden, expected: Mapping[Side, Answers], answers: Answers) -> None:
    """Holds the file's answers of now against those that `golden.json` has.

    Args:
        bundle: With that file.
        golden: What its `golden.json` says.
        expected: What `check` gave.
        answers: The file's own to `sample_rows`.

    Raises:
        BundleError: they are farther off than golden's tolerances allow, or of a bundle without any than the recipe
            explains.
    """
    problems = [
        f"{each.component}: {each.measure} is {each.value:.4g}"
        for each in far_off(bundle.manifest, expected["reference"], answers)
    ]
    if golden.tolerances:
        for side, rows in expected.items():
            problems += exceeded(golden.tolerances, side, rows, answers)
    if problems:
        raise BundleError(
            f"{bundle.path / GOLDEN}: expected the artefact's answers, got others: {'; '.join(problems)}",
            hint="the file has been changed since it was made, or this machine's runtime computes otherwise",
        )


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
