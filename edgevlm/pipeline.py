"""From a model's name to verified bundles: load -> export -> lower -> verify -> write, a target at a time."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from edgevlm import audit, cache, golden, labels, memory, parity, registry, schema
from edgevlm.bundle import (
    FORMAT_VERSION,
    SUFFIX,
    Bundle,
    BundledComponent,
    Labels,
    Manifest,
    ParityReport,
    refuse_existing,
    seal,
    staged,
    write_manifest,
)
from edgevlm.errors import CheckFailed, EdgeVLMError, MissingDependency, RecipeError, UnsupportedError
from edgevlm.interfaces import F32, Array, BundleFile, Converter, OpRange, Programs, Progress
from edgevlm.models import catalogue
from edgevlm.recipe import Recipe
from edgevlm.stored import WeightProof, prove, prove_again
from edgevlm.tokenizing import Tokenizer

if TYPE_CHECKING:
    import torch

    from edgevlm.compression.calibration import CalibrationData, CalibrationSource
    from edgevlm.compression.compression import Compressed
    from edgevlm.models.model import Model


def silent(stage: str, share: float | None) -> None:
    """The `Progress` that says nothing."""


@dataclass(frozen=True)
class Request:
    """What to convert, and how.

    Attributes:
        model: A built-in name, a folder or a hub id.
        revision: Of a hub id.
        targets: Names of targets.
        recipe: How to compress.
        labels: A label set to bake into a `classify` component.
        image_only: Whether the text tower is left out; with `labels`, the bundle has `classify` alone.
        out: Folder that the bundles are written into.
        name: What they are called; the model's own name where it is None.
        force: Whether an existing bundle is replaced.
        use_cache: Whether a bundle that was converted before from the same inputs is copied.
        calibration: Data to measure ranges on, where the recipe needs any.
    """

    model: str | Path
    targets: tuple[str, ...]
    recipe: Recipe
    out: Path
    revision: str | None = None
    labels: Labels | None = None
    image_only: bool = False
    name: str | None = None
    force: bool = False
    use_cache: bool = True
    calibration: CalibrationSource | None = None

    def destination(self, target: str) -> Path:
        """Where the bundle of a target goes."""
        name = self.name or catalogue.short_name(self.model)
        return self.out / f"{name}-{target}-{self.recipe.name}{SUFFIX}"


@dataclass(frozen=True)
class Outcome:
    """What became of one target.

    Attributes:
        target: Which.
        status: `passed`; `failed parity`, with the bundle kept aside for looking into; or `failed`, with `error`.
        bundle: What was written.
        error: Why nothing was.
        seconds: Wall time, of which `parity_seconds` went into the proof: the float reference's answers, the golden
            fixtures and the comparison.
        cached: Whether it was copied from an earlier conversion.
        at_risk: In fp16, the ops that come close to float16's limits; None where it was copied.
    """

    target: str
    status: Literal["passed", "failed parity", "failed"]
    bundle: Bundle | None
    error: EdgeVLMError | None
    seconds: float
    parity_seconds: float = 0.0
    cached: bool = False
    at_risk: tuple[OpRange, ...] | None = None


def convert(request: Request, progress: Progress = silent) -> tuple[Outcome, ...]:
    """Converts a model to every target asked for. One that fails does not stop the others.

    Raises:
        EdgeVLMError: what is wrong with the request or the model itself, before the long work starts.
    """
    if find_spec("torch") is None:
        raise MissingDependency("torch", extra=request.targets[0] if len(request.targets) == 1 else "all")
    for target in request.targets:
        registry.converter(target)
        refuse_existing(request.destination(target), force=request.force)
    calibration = _open_calibration(request)
    outcomes = []
    source: _Prepared | None = None
    progress("reading the model's files", None)
    fingerprint = catalogue.fingerprint(request.model, revision=request.revision) if request.use_cache else None
    for target in request.targets:
        began = time.monotonic()
        entry = _cache_key(request, target, fingerprint, calibration)
        kept = cache.find(entry) if entry else None
        try:
            if kept is not None:
                outcome = _copy(kept, request, target)
            else:
                source = source or _prepare(request, calibration, progress)
                outcome = _convert_one(source, request, target, progress)
                if entry and outcome.status == "passed" and outcome.bundle:
                    cache.keep(entry, outcome.bundle)
        except EdgeVLMError as error:
            if source is None and kept is None:
                raise
            outcome = Outcome(target, "failed", None, error, 0.0)
        outcomes.append(replace(outcome, seconds=time.monotonic() - began))
    return tuple(outcomes)


def verify_weights(bundle: Bundle) -> tuple[WeightProof, ...]:
    """Reads the integer weights back from the shipped file and compares with those that NNCF decided on.

    Raises:
        BundleError: the file is damaged.
        MissingDependency: what reads it is not installed.
    """
    proofs = bundle.manifest.weights
    if not proofs:
        return ()
    found = registry.runtime(bundle.manifest.target).stored_weights(bundle)
    return tuple(prove_again(proof, found[proof.component]) for proof in proofs)


def _open_calibration(request: Request) -> CalibrationData | None:
    """The calibration data, its pictures still unread; None where the recipe needs none."""
    if not request.recipe.needs_calibration:
        return None
    if request.calibration is None:
        raise RecipeError(
            f"recipe {request.recipe.name} measures ranges, and there is no calibration data",
            hint="--calibration DATA takes pictures like those that the app will see: a folder, a captions file, ...",
        )
    from edgevlm.compression.calibration import CalibrationData

    return CalibrationData(request.calibration, request.recipe.calibration)


def verify(bundle: Bundle, progress: Progress = silent) -> ParityReport:
    """Runs the shipped file on its parity samples again and compares with the reference that it carries.

    Raises:
        BundleError: the golden fixtures are not readable.
        MissingDependency: the target's runtime is not installed.
    """
    manifest = bundle.manifest
    stored, pictures, reference = golden.read(bundle.path)
    tokenizer = Tokenizer(manifest.text, bundle.path) if manifest.text else None
    samples = golden.make_samples(pictures, stored.sample_texts, manifest.image, tokenizer)
    return _measure(bundle, samples, reference, progress)


class _Prepared:
    """A loaded model with its components, its parity samples and the reference's answers, for all targets."""

    def __init__(self, model: Model, request: Request, calibration: CalibrationData | None, folder: Path) -> None:
        self.model = model
        self.calibration = calibration
        self._compressed: Compressed | None = None
        self.labels = request.labels or model.labels
        self.label_embeddings = model.label_embeddings
        self.tokenizer: Tokenizer | None = None
        if model.text is not None and model.tokenizer_json is not None:
            (folder / model.text.tokenizer_file).write_bytes(model.tokenizer_json)
            self.tokenizer = Tokenizer(model.text, folder)
        if request.labels is not None:
            self.label_embeddings = self._embed_labels(request.labels)
        programs = dict(model.programs)
        if self.label_embeddings is not None:
            from edgevlm.models.classifier import classifier_program

            programs["classify"] = classifier_program(
                programs["encode_image"], self.label_embeddings, model.logit_scale
            )
        if request.image_only:
            programs.pop("encode_text", None)
            if "classify" in programs:
                del programs["encode_image"]
        self.programs: Programs = programs
        if calibration is not None:
            calibration.check(programs)

    def compress(self, recipe: Recipe, progress: Progress) -> Compressed:
        """The programs as the recipe wants them, made once for all targets."""
        if self._compressed is None:
            from edgevlm.compression.compression import compress

            data = self.calibration
            samples = data.inputs(self.programs, self.model.image, self.tokenizer, progress) if data else {}
            with _named_failures(f"recipe {recipe.name}: compression"):
                self._compressed = compress(self.programs, recipe, samples, progress)
        return self._compressed

    def _embed_labels(self, wanted: Labels) -> torch.Tensor:
        import torch

        from edgevlm.models.classifier import embed_labels

        tokenizer = self.tokenizer
        if tokenizer is None:
            known = self.model.labels.names if self.model.labels else ()
            raise UnsupportedError(
                f"{self.model.source.name} has no text tower, so no other labels can be baked than its own: "
                f"{', '.join(known[:10])}{', ...' if len(known) > 10 else ''}",
                hint="leave --labels out to bake those, or train a student that keeps a text tower",
            )
        texts = labels.texts_of(wanted)
        labels.check_lengths(wanted.names, texts, tokenizer)
        return embed_labels(
            self.model.reference["encode_text"],
            lambda several: torch.from_numpy(tokenizer.encode(several)),
            texts,
        )

    @cached_property
    def samples(self) -> parity.Samples:
        tokenizer = self.tokenizer if "encode_text" in self.programs else None
        return golden.make_samples(golden.sample_pictures(), golden.sample_texts(), self.model.image, tokenizer)

    @cached_property
    def reference(self) -> parity.Answers:
        image = self.embed("encode_image", self.samples.pixels)
        return parity.Answers(
            image=image if "encode_image" in self.programs else None,
            text=self.embed("encode_text", self.samples.token_ids) if "encode_text" in self.programs else None,
            scores=self.classify(image) if "classify" in self.programs else None,
        )

    @cached_property
    def peak_bytes(self) -> int:
        """Estimate for the largest component: its weights in float32 and its activations."""
        return max(memory.activation_peak_bytes(p) + memory.weight_bytes(p) for p in self.programs.values())

    def embed(self, component: str, rows: F32 | NDArray[np.int32]) -> F32:
        """The reference's embeddings, float32 [N, D]."""
        import torch

        with torch.no_grad():
            parts = [self.model.reference[component](part) for part in torch.split(torch.from_numpy(rows), 8)]
        return np.concatenate([part.numpy() for part in parts])

    def classify(self, image_embeddings: F32) -> F32:
        """The reference's scores of the baked labels, float32 [N, L]."""
        if self.label_embeddings is None:
            raise ValueError("no labels were baked")
        return softmax(self.model.logit_scale * image_embeddings @ self.label_embeddings.numpy().T)


def softmax(logits: NDArray[np.floating]) -> F32:
    """Along the last axis, [N, L] -> [N, L]."""
    exponents = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(exponents / exponents.sum(-1, keepdims=True), np.float32)


def _prepare(request: Request, calibration: CalibrationData | None, progress: Progress) -> _Prepared:
    progress("loading the model", None)
    model = catalogue.load(request.model, revision=request.revision)
    with tempfile.TemporaryDirectory() as folder:
        return _Prepared(model, request, calibration, Path(folder))


def _convert_one(source: _Prepared, request: Request, target: str, progress: Progress) -> Outcome:
    converter = registry.converter(target)
    refused = converter.unsupported(source.programs, request.recipe)
    if refused:
        what = "; ".join(problem.what for problem in refused)
        raise UnsupportedError(f"{target} cannot hold this: {what}", hint=refused[0].instead)
    rows: dict[str, Array] = {"pixels": source.samples.pixels, "token_ids": source.samples.token_ids}
    recipe, at_risk = audit.settle(converter, source.programs, request.recipe, rows, progress)
    request = replace(request, recipe=recipe)
    compressed = source.compress(request.recipe, progress)
    with staged(request.destination(target), force=request.force) as stage:
        progress(f"{target}: lowering", None)
        files = _lower(converter, compressed.programs, request.recipe, stage.folder)
        began = time.monotonic()
        progress(f"{target}: asking the float reference", None)
        _write_golden(source, stage.folder)
        bundle = seal(stage.folder, _manifest(source, request, target, files, stage.folder))
        progress(f"{target}: reading the weights back", None)
        proofs = _prove_weights(bundle, compressed)
        report = _measure(bundle, source.samples, source.reference, progress)
        parity_seconds = time.monotonic() - began
        bundle = write_manifest(stage.folder, replace(bundle.manifest, parity=report, weights=proofs))
        if not report.passed:
            # Kept for looking into, under a name that no app picks up by mistake.
            stem = stage.destination.name.removesuffix(SUFFIX)
            stage.destination = stage.destination.with_name(f"{stem}.failed-parity{SUFFIX}")
            shutil.rmtree(stage.destination, ignore_errors=True)
    return Outcome(
        target=target,
        status="passed" if report.passed else "failed parity",
        bundle=Bundle(stage.destination, bundle.manifest),
        error=None,
        seconds=0.0,
        parity_seconds=parity_seconds,
        at_risk=at_risk,
    )


def _prove_weights(bundle: Bundle, compressed: Compressed) -> tuple[WeightProof, ...]:
    """What was decided against what the shipped file holds.

    Raises:
        CheckFailed: a weight is not in the file as it was decided.
    """
    if not compressed.decided:
        return ()
    target = bundle.manifest.target
    found = registry.runtime(target).stored_weights(bundle)
    proofs = tuple(prove(name, decided, found[name]) for name, decided in compressed.decided.items())
    for proof in proofs:
        if proof.lost:
            raise CheckFailed(
                f"{target}: {len(proof.lost)} of the {proof.decided} integer weights of {proof.component} are not in "
                f"the file as they were decided: {', '.join(proof.lost[:5])}",
                hint="name these layers in the recipe's weights.float_layers, and report this: it is a fault of ours",
            )
    return proofs


def _lower(converter: Converter, programs: Programs, recipe: Recipe, folder: Path) -> tuple[BundleFile, ...]:
    with _named_failures(f"{converter.target}: the backend's converter"):
        return converter.lower(programs, recipe, folder)


@contextmanager
def _named_failures(who: str) -> Iterator[None]:
    """Says who failed where a third party, which may raise anything, does."""
    try:
        yield
    except (EdgeVLMError, OSError):
        raise
    except Exception as error:
        if os.environ.get("EDGEVLM_DEBUG"):
            raise
        raise UnsupportedError(
            f"{who} failed with {type(error).__name__}: {str(error)[:500]}", hint="EDGEVLM_DEBUG=1 shows where"
        ) from error


def _write_golden(source: _Prepared, folder: Path) -> None:
    """The tokenizer and the golden fixtures, answered by the float reference."""
    tokenizer = source.tokenizer if "encode_text" in source.programs else None
    if tokenizer and source.model.tokenizer_json:
        (folder / tokenizer.spec.tokenizer_file).write_bytes(source.model.tokenizer_json)
    pixels = golden.write_pictures(folder, source.model.image)
    images = source.embed("encode_image", np.concatenate(list(pixels.values())))
    has_image, has_labels = "encode_image" in source.programs, "classify" in source.programs
    label_scores = source.classify(images) if has_labels else None
    texts: list[golden.GoldenText] = []
    scores = np.zeros((len(images), 0), np.float32)
    if tokenizer:
        words = golden.sample_texts()[:4]
        ids = tokenizer.encode(words)
        embeddings = source.embed("encode_text", ids)
        texts = [
            golden.GoldenText(text, tuple(row.tolist()), tuple(embedding.tolist()))
            for text, row, embedding in zip(words, ids, embeddings, strict=True)
        ]
        scores = softmax(source.model.logit_scale * images @ embeddings.T)
    pictures = [
        golden.GoldenPicture(
            file=f"{golden.FOLDER}/{name}",
            pixels=f"{golden.FOLDER}/{Path(name).with_suffix('.rgb')}",
            what=what,
            embedding=tuple(images[index].tolist()) if has_image else None,
            scores=tuple(label_scores[index].tolist()) if label_scores is not None else None,
        )
        for index, (name, (_, what)) in enumerate(golden.golden_pictures().items())
    ]
    golden.write(folder, pictures=pictures, texts=texts, scores=scores, reference=source.reference)


def _manifest(source: _Prepared, request: Request, target: str, files: Sequence[BundleFile], folder: Path) -> Manifest:
    model = source.model
    answered_by = {component: file.path for file in files for component in file.components}
    return Manifest(
        format_version=FORMAT_VERSION,
        name=request.name or catalogue.short_name(request.model),
        target=target,
        components={
            name: BundledComponent(program.spec, answered_by[name]) for name, program in source.programs.items()
        },
        image=model.image,
        text=model.text if "encode_text" in source.programs else None,
        labels=source.labels,
        embedding_dim=model.embedding_dim,
        logit_scale=model.logit_scale,
        embedding_space_id=_embedding_space_id(source, request.recipe),
        recipe=request.recipe,
        source=model.source,
        requires={platform: least for file in files for platform, least in file.requires.items()},
        estimated_peak_memory_bytes=source.peak_bytes,
        parity=None,
        tool_versions=cache.tool_versions(),
        compressed_size_bytes=sum(_deflated_bytes(path) for path in _artefact_files(folder, files)),
        calibration=source.calibration.record if source.calibration else None,
    )


def _artefact_files(folder: Path, files: Sequence[BundleFile]) -> list[Path]:
    paths = [folder / file.path for file in files]
    return [
        each for path in paths for each in ([path] if path.is_file() else sorted(path.rglob("*"))) if each.is_file()
    ]


def _deflated_bytes(path: Path) -> int:
    """What a file comes to in an app's download, in pieces so that a large one is not held twice."""
    deflater, size = zlib.compressobj(), 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            size += len(deflater.compress(piece))
    return size + len(deflater.flush())


def _embedding_space_id(source: _Prepared, recipe: Recipe) -> str:
    """A hash of all that moves embeddings: an app indexes its pictures again when it changes."""
    model, calibration = source.model, source.calibration
    digest = hashlib.sha256(model.tokenizer_json or b"")
    moves = [model.image, model.text, recipe.precision, recipe.weights, recipe.activations]
    digest.update(json.dumps([*schema.write(moves), calibration.fingerprint if calibration else None]).encode())
    for program in model.programs.values():
        for name, tensor in sorted(program.module.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.contiguous().numpy())
    return f"sha256:{digest.hexdigest()}"


def _measure(bundle: Bundle, samples: parity.Samples, reference: parity.Answers, progress: Progress) -> ParityReport:
    stage = f"{bundle.manifest.target}: comparing with the float reference"
    with registry.runtime(bundle.manifest.target).open(bundle, threads=1) as session:
        answers = parity.ask(session, tuple(bundle.components), samples, lambda share: progress(stage, share))
        checks = parity.compare(
            reference, answers, bundle.manifest.recipe.parity, logit_scale=bundle.manifest.logit_scale
        )
        return ParityReport(session.evidence, len(samples.pixels), checks)


def _cache_key(
    request: Request, target: str, fingerprint: str | None, calibration: CalibrationData | None
) -> str | None:
    if fingerprint is None or target not in registry.CONVERTERS:
        return None
    inputs = {
        "model": fingerprint,
        "called": str(request.model),
        "target": target,
        "recipe": schema.write(request.recipe),
        "labels": schema.write(request.labels),
        "image_only": request.image_only,
        "name": request.name,
        "calibration": schema.write(calibration.record) if calibration else None,
    }
    return cache.key(inputs)


def _copy(kept: Bundle, request: Request, target: str) -> Outcome:
    with staged(request.destination(target), force=request.force) as stage:
        shutil.copytree(kept.path, stage.folder, dirs_exist_ok=True)
    return Outcome(target, "passed", Bundle(stage.destination, kept.manifest), None, 0.0, cached=True)
