"""What a bundle holds beside the artefact: the tokenizer, the golden fixtures, the manifest."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgevlm.bundle.dialogue import DECODE, ENCODE_IMAGE, FEATURES, Dialogue
from edgevlm.bundle.embedding_space import embedding_space_id
from edgevlm.bundle.golden import FOLDER, SCHEMA_VERSION, Golden, GoldenPicture, GoldenText
from edgevlm.bundle.manifest import (
    FORMAT_VERSION,
    GRIDS_VERSION,
    PREFIX_VERSION,
    TALKERS_VERSION,
    BundledComponent,
    Manifest,
    PictureInput,
)
from edgevlm.bundle.recipe import Recipe
from edgevlm.bundle.spec import Array, ImagePreprocessing, TensorSpec
from edgevlm.conversion import cache, forecast
from edgevlm.conversion.prepared import Prepared
from edgevlm.conversion.prepared_talker import PreparedTalker
from edgevlm.conversion.proof import DialogueProof, EncoderProof, Proof
from edgevlm.graphs.program import Programs
from edgevlm.inference.embeddings import score
from edgevlm.inputs.rows import PIXELS, TOKEN_IDS
from edgevlm.parity import golden, samples
from edgevlm.parity.comparison import zero_shot
from edgevlm.process.progress import Progress
from edgevlm.targets import registry
from edgevlm.targets.converter import BundleFile

if TYPE_CHECKING:
    from edgevlm.compression.calibration import CalibrationData


def write_fixtures(source: Prepared, folder: Path) -> Golden:
    """Writes the tokenizer and the golden fixtures, answered by the float original.

    Returns:
        What `golden.json` will hold, which is written once the artefact has been asked, too.
    """
    specs, texts = source.original.specs, samples.golden_texts() if source.text else ()
    if source.text and source.model.tokenizer_json:
        (folder / source.text.tokenizer_file).write_bytes(source.model.tokenizer_json)
    pixels = golden.write_pictures(folder, source.model.image)
    rows: dict[str, Array] = {PIXELS: np.concatenate(list(pixels.values()))}
    if texts and source.model.tokenizer:
        rows[TOKEN_IDS] = source.model.tokenizer.encode(texts)
    answers = source.original.answer(rows)
    cosines = zero_shot(answers)
    model = source.model
    scores = score(cosines[0], model.logit_scale, model.logit_bias) if cosines else np.zeros((len(pixels), 0))
    golden.write_samples(folder, source.reference)
    return Golden(
        schema_version=SCHEMA_VERSION,
        pictures=tuple(
            GoldenPicture(
                file=f"{FOLDER}/{name}",
                pixels=f"{FOLDER}/{Path(name).with_suffix('.rgb')}",
                what=what,
                answers=golden.answers_to(PIXELS, index, answers, specs),
            )
            for index, (name, (_, what)) in enumerate(samples.golden_pictures().items())
        ),
        texts=tuple(
            GoldenText(text, tuple(ids.tolist()), golden.answers_to(TOKEN_IDS, index, answers, specs))
            for index, (text, ids) in enumerate(zip(texts, rows.get(TOKEN_IDS, ()), strict=True))
        ),
        scores=tuple(map(tuple, scores.tolist())),
        sample_texts=samples.sample_texts(),
    )


def begin_proof(source: Prepared | PreparedTalker, folder: Path, progress: Progress) -> Proof:
    """Writes the tokenizer and the fixtures, answered by the float original, and says what the file is to be asked."""
    if isinstance(source, Prepared):
        return EncoderProof(write_fixtures(source, folder), source.samples, source.reference)
    (folder / source.model.dialogue.tokenizer_file).write_bytes(source.model.tokenizer_json)
    return DialogueProof(source.golden(progress), source.model.dialogue.tiling, folder)


def make_manifest(
    source: Prepared | PreparedTalker,
    recipe: Recipe,
    *,
    name: str,
    target: str,
    files: Sequence[BundleFile],
    called: Mapping[str, Mapping[int, str]],
) -> Manifest:
    """The manifest, its file list, its proofs and the compressed size still empty.

    Args:
        source: What was lowered.
        recipe: How it was compressed, as settled for this target.
        name: What the bundle is called.
        target: For which it was lowered.
        files: What the converter wrote.
        called: What the files call the components that have another name there, by length.
    """
    model, calibration = source.model, _calibration(source, recipe)
    converter = registry.converter(target)
    expected = forecast.footprint(converter, source.outlined(converter), recipe)
    answered_by = {component: file for file in files for component in file.components}
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name=name,
        target=target,
        components={
            component: BundledComponent(
                program.spec,
                answered_by[component].path,
                {
                    taken.name: _picture_input(taken, model.image)
                    for taken in program.spec.inputs
                    if taken.name in answered_by[component].pictures
                },
                {str(length): each for length, each in called.get(component, {}).items()},
            )
            for component, program in source.programs.items()
        },
        image=model.image,
        text=None,
        labels=None,
        embedding_dim=None,
        logit_scale=None,
        embedding_space_id=None,
        recipe=recipe,
        source=model.source,
        requires={platform: least for file in files for platform, least in file.requires.items()},
        estimated_peak_memory_bytes=expected.peak_memory_bytes if expected else source.peak_bytes,
        parity=None,
        tool_versions=cache.tool_versions(),
        calibration=calibration.record if calibration else None,
        multiply_adds={name: seen.multiply_adds for name, seen in source.outlines.items()},
    )
    if isinstance(source, PreparedTalker):
        dialogue = source.model.dialogue
        return replace(manifest, format_version=_version(dialogue, source.programs), dialogue=dialogue)
    return replace(
        manifest,
        text=source.text,
        labels=source.labels,
        source=replace(model.source, fingerprint=source.fingerprint),
        embedding_dim=source.model.embedding_dim,
        logit_scale=source.model.logit_scale,
        logit_bias=source.model.logit_bias,
        embedding_space_id=embedding_space_id(
            model.image,
            recipe,
            fingerprint=source.fingerprint,
            calibration=calibration.fingerprint if calibration else None,
        ),
    )


def _calibration(source: Prepared | PreparedTalker, recipe: Recipe) -> CalibrationData | None:
    """What moved the embeddings; data that only an audit was made on does not."""
    return source.calibration if recipe.needs_calibration else None


def _picture_input(taken: TensorSpec, image: ImagePreprocessing) -> PictureInput:
    *_, height, width = taken.shape
    mean, std = (", ".join(f"{each:g}" for each in numbers) for numbers in (image.mean, image.std))
    scaling = (
        f"0..255 as they are: (value * {image.rescale:g} - mean) / std is computed inside, with the mean {mean} and "
        f"the std {std} of R, G, B"
    )
    return PictureInput("RGB", height, width, scaling)


def compressed_bytes(folder: Path, files: Sequence[BundleFile]) -> int:
    """What the artefact's files come to in a compressed download.

    Args:
        folder: Where they are.
        files: What the converter wrote.
    """
    paths = [folder / file.path for file in files]
    found = (each for path in paths for each in ([path] if path.is_file() else sorted(path.rglob("*"))))
    return sum(_deflated_bytes(each) for each in found if each.is_file())


def _deflated_bytes(path: Path) -> int:
    """What a file comes to in an app's download, in pieces so that a large one is not held twice."""
    deflater, size = zlib.compressobj(), 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            size += len(deflater.compress(piece))
    return size + len(deflater.flush())


def _version(dialogue: Dialogue, programs: Programs) -> str:
    """Of the format that a model that talks is written in: the oldest whose readers can do with it."""
    one_question = dialogue.chat is not None and dialogue.chat.assistant is None
    named_beside = dialogue.spelling is not None and programs[ENCODE_IMAGE].spec.outputs[0].name != FEATURES
    if programs[DECODE].spec.prefix or one_question or named_beside:
        return PREFIX_VERSION
    in_grids = dialogue.tiling is not None and dialogue.tiling.grid is not None
    return GRIDS_VERSION if in_grids else TALKERS_VERSION
