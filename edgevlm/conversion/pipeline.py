"""From a model's name to verified bundles: load -> export -> lower -> verify -> write, a target at a time."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgevlm import schema
from edgevlm.bundle.bundle import Bundle, seal
from edgevlm.bundle.golden import REFERENCE, Golden, arithmetic
from edgevlm.bundle.integer_weights import WeightProof, prove, prove_again
from edgevlm.bundle.manifest import MANIFEST, SUFFIX, Labels, ParityReport
from edgevlm.bundle.recipe import LEAST_SAMPLES, Recipe, refuse_bad_name
from edgevlm.bundle.staging import refuse_existing, staged
from edgevlm.bundle.trust import trust
from edgevlm.conversion import audit, cache
from edgevlm.conversion.contents import compressed_bytes, make_manifest, write_fixtures
from edgevlm.conversion.prepared import Prepared
from edgevlm.errors import (
    BundleError,
    CheckFailed,
    EdgeVLMError,
    MissingDependency,
    RecipeError,
    UnsupportedError,
    named_failures,
)
from edgevlm.graphs.program import Programs
from edgevlm.inference.embeddings import average
from edgevlm.inputs import labels
from edgevlm.inputs.rows import PIXELS, TOKEN_IDS, Rows, make_rows
from edgevlm.inputs.texts import Tokenizer
from edgevlm.models import catalogue
from edgevlm.parity import comparison, golden
from edgevlm.parity.comparison import Answers
from edgevlm.process.progress import Progress, silent
from edgevlm.process.writing import discard
from edgevlm.targets import registry
from edgevlm.targets.converter import BundleFile, Converter, Describer, OpRange
from edgevlm.targets.isolation import tokenizer_of
from edgevlm.targets.runtime import Session

if TYPE_CHECKING:
    from edgevlm.compression.calibration import CalibrationData, CalibrationSource
    from edgevlm.compression.compression import Compressed


@dataclass(frozen=True)
class Request:
    """What to convert, and how.

    Attributes:
        model: A built-in name, a folder or a hub id.
        revision: Of a hub id.
        targets: Names of targets.
        recipe: How to compress.
        labels: A label set to bake into a `classify` component.
        label_set: What it is called in the bundles' names, so that none takes the place of one without it.
        image_only: Whether the text tower is left out; with `labels`, the bundle has `classify` alone.
        out: Folder that the bundles are written into.
        name: What they are called; where it is None, the model's own name and the label set's.
        force: Whether an existing bundle is replaced.
        use_cache: Whether a bundle that was converted before from the same inputs is copied.
        calibration: Data to measure ranges on; in float16, what is audited too.
    """

    model: str | Path
    targets: tuple[str, ...]
    recipe: Recipe
    out: Path
    revision: str | None = None
    labels: Labels | None = None
    label_set: str = "labels"
    image_only: bool = False
    name: str | None = None
    force: bool = False
    use_cache: bool = True
    calibration: CalibrationSource | None = None

    @property
    def called(self) -> str:
        """The name of the bundles."""
        if self.name is not None:
            return self.name
        model = catalogue.short_name(self.model)
        return model if self.labels is None else f"{model}-{self.label_set}"

    def destination(self, target: str) -> Path:
        """Where the bundle of a target goes."""
        return self.out / f"{self.called}-{target}-{self.recipe.name}{SUFFIX}"


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
        notes: What a user should know about how the model was read.
    """

    target: str
    status: Literal["passed", "failed parity", "failed"]
    bundle: Bundle | None
    error: EdgeVLMError | None
    seconds: float
    parity_seconds: float = 0.0
    cached: bool = False
    at_risk: tuple[OpRange, ...] | None = None
    notes: tuple[str, ...] = ()


def convert(request: Request, progress: Progress = silent) -> tuple[Outcome, ...]:
    """Converts a model to every target asked for. One that fails does not stop the others.

    Raises:
        EdgeVLMError: what is wrong with the request or the model itself, before the long work starts.
    """
    if find_spec("torch") is None:
        known = len(request.targets) == 1 and request.targets[0] in registry.CONVERTERS
        raise MissingDependency("torch", extra=request.targets[0] if known else "all")
    for target in request.targets:
        registry.converter(target)
        refuse_existing(request.destination(target), force=request.force)
    if request.name is not None:
        refuse_bad_name(request.name, "--name")
    calibration = _open_calibration(request)
    outcomes = []
    source: Prepared | None = None
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
                outcome = replace(_convert_one(source, request, target, progress), notes=source.model.notes)
                if entry and outcome.status == "passed" and outcome.bundle:
                    cache.keep(entry, outcome.bundle)
        except EdgeVLMError as error:
            if source is None and kept is None:
                raise
            outcome = Outcome(target, "failed", None, error, 0.0)
        if outcome.bundle is not None:
            trust(outcome.bundle)
        outcomes.append(replace(outcome, seconds=time.monotonic() - began))
    return tuple(outcomes)


def verify_weights(bundle: Bundle) -> tuple[WeightProof, ...]:
    """Reads the integer weights back from the shipped file and compares with those that NNCF decided on.

    Raises:
        BundleError: the file is damaged, or holds other integer weights than the manifest proves.
        MissingDependency: what reads it is not installed.
    """
    proofs = bundle.manifest.weights
    found = registry.runtime_of(bundle).stored_weights(bundle)
    held = {component for component, weights in found.items() if weights}
    for component in held | {proof.component for proof in proofs}:
        proof = next((each for each in proofs if each.component == component), None)
        if proof is None or not proof.decided == proof.identical == sum(proof.bits.values()) > 0:
            raise BundleError(
                f"{bundle.path / MANIFEST}: weights: expected a proof of each integer weight of {component}, got "
                f"{'none' if proof is None else f'one of {proof.decided}, {proof.identical} of them identical'}",
                hint="the manifest has been changed since it was made: convert the model again",
            )
    return tuple(prove_again(proof, found[proof.component]) for proof in proofs)


def _open_calibration(request: Request) -> CalibrationData | None:
    """The calibration data, its pictures still unread."""
    if request.calibration is None:
        if not request.recipe.needs_calibration:
            return None
        raise RecipeError(
            f"recipe {request.recipe.name} measures ranges, and there is no calibration data",
            hint="--calibration DATA takes pictures like those that the app will see: a folder, a captions file, ...",
        )
    from edgevlm.compression.calibration import CalibrationData

    wanted = request.recipe.calibration
    if not request.recipe.needs_calibration:
        wanted = replace(wanted, samples=LEAST_SAMPLES)  # for the audit
    return CalibrationData(request.calibration, wanted)


def verify(bundle: Bundle, progress: Progress = silent) -> ParityReport:
    """Runs the shipped file again, and compares with the reference that the bundle carries.

    It is asked about all parity samples; and golden's stages are made again of what is shipped: pixels of pictures, ids
    of texts, scores of embeddings; and the file's answers to both must be as near to the reference's, and to those that
    it gave when it was converted, as golden's tolerances say.

    >>> report = edgevlm.verify(edgevlm.Bundle.open("dist/edgevlm-student-coreml-fp16.edgevlm"))
    >>> report.passed, report.evidence
    (True, 'program-semantics')

    Raises:
        BundleError: the golden fixtures are not readable, or contradict the manifest or the artefact.
        MissingDependency: the target's runtime is not installed.
    """
    with registry.runtime_of(bundle).open(bundle, threads=1) as session:
        tokenizer = tokenizer_of(bundle, session)
        stored, rows, reference = _read_fixtures(bundle, tokenizer)
        expected = golden.check(bundle, stored, tokenizer)
        report = _measure(session, bundle, rows, reference, progress)
        golden.hold(bundle, stored, expected, _ask_golden(session, bundle, stored))
        _check_labels(session, bundle, expected["reference"], tokenizer)
    return report


def _check_labels(session: Session, bundle: Bundle, expected: Answers, tokenizer: Tokenizer | None) -> None:
    """Refuses labels that are not what `classify` answers, where both towers and its logits are there to tell.

    A label's embedding is off by at most what the cosine to the reference's allows, and so are its cosines.
    """
    manifest, logits = bundle.manifest, expected.get("classify", {}).get("logits")
    both = {"encode_image", "encode_text"} <= expected.keys()
    if manifest.labels is None or tokenizer is None or logits is None or not both:
        return
    texts = labels.texts_of(manifest.labels)
    rows = tokenizer.encode([text for several in texts for text in several])
    answered = comparison.ask(session, [bundle.components["encode_text"].spec], {TOKEN_IDS: rows})
    embedded = average(answered["encode_text"]["embedding"], [len(several) for several in texts])
    claimed = (logits - (manifest.embedding.logit_bias or 0)) / manifest.embedding.logit_scale
    off = np.abs(expected["encode_image"]["embedding"] @ embedded.T - claimed)
    worst = int(off.max(0).argmax())
    allowed = 1e-3 + (2 * (1 - arithmetic(manifest.recipe).min_cosine)) ** 0.5
    if not off.max() <= allowed:
        raise BundleError(
            f"{bundle.path / MANIFEST}: labels: {manifest.labels.names[worst]!r} is not what classify answers in its "
            f"place: cosines differ by {off.max():.3g}, at most {allowed:.2g} is expected",
            hint="the manifest has been changed since it was made: convert the model again",
        )


def _ask_golden(session: Session, bundle: Bundle, stored: Golden) -> Answers:
    rows = golden.sample_rows(bundle.path, stored, bundle.manifest.image)
    return comparison.ask(session, [component.spec for component in bundle.components.values()], rows)


def fixtures(bundle: Bundle, tokenizer: Tokenizer | None) -> tuple[Rows, Answers]:
    """The parity samples of a bundle, and the float original's answers to them.

    Args:
        bundle: Whose.
        tokenizer: Its own.

    Raises:
        BundleError: the golden fixtures are not readable, or lack an answer that a component's spec names.
    """
    _, rows, reference = _read_fixtures(bundle, tokenizer)
    return rows, reference


def _read_fixtures(bundle: Bundle, tokenizer: Tokenizer | None) -> tuple[Golden, Rows, Answers]:
    """The same, and what golden.json says."""
    stored, pictures, reference = golden.read(bundle.path, newer=bundle.is_newer)
    rows = make_rows(pictures, stored.sample_texts, bundle.manifest.image, tokenizer)
    for name, component in bundle.components.items():
        inputs = [rows[tensor.name] for tensor in component.spec.inputs if tensor.name in rows]
        for output in component.spec.outputs:
            expected = (len(inputs[0]) if inputs else 0, *output.shape[1:])
            found = reference.get(name, {}).get(output.name)
            if found is None or found.shape != expected or not len(found):
                raise BundleError(
                    f"{bundle.path / REFERENCE}: {name}.{output.name}: expected the float model's answers to "
                    f"{len(inputs[0]) if inputs else 'the'} samples, float32 {list(expected)}, got "
                    f"{'nothing' if found is None else list(found.shape)}",
                    hint="without them the artefact is held against nothing: convert the model again",
                )
    return stored, rows, reference


def _prepare(request: Request, calibration: CalibrationData | None, progress: Progress) -> Prepared:
    progress("loading the model", None)
    model = catalogue.load(request.model, revision=request.revision)
    source = Prepared(model, calibration, wanted=request.labels, image_only=request.image_only)
    if calibration is not None and request.recipe.needs_calibration:
        calibration.check(source.programs)
    source.check_original()
    return source


def _convert_one(source: Prepared, request: Request, target: str, progress: Progress) -> Outcome:
    converter = registry.converter(target)
    refused = converter.unsupported(source.programs, request.recipe)
    if refused:
        what = "; ".join(problem.what for problem in refused)
        raise UnsupportedError(f"{target} cannot hold this: {what}", hint=refused[0].instead)
    rows = source.audit_rows(progress)
    recipe, at_risk = audit.settle(converter, source.programs, request.recipe, rows, progress)
    compressed = source.compress(recipe, progress)
    with staged(request.destination(target), force=request.force, ignored=True) as stage:
        progress(f"{target}: lowering", None)
        files = _lower(converter, compressed.programs, recipe, stage.folder)
        began = time.monotonic()
        progress(f"{target}: asking the float reference", None)
        stored = write_fixtures(source, stage.folder)
        manifest = make_manifest(source, recipe, name=request.called, target=target, files=files)
        if isinstance(converter, Describer):
            converter.describe(manifest, stage.folder)
        manifest = replace(manifest, compressed_size_bytes=compressed_bytes(stage.folder, files))
        bundle = seal(stage.folder, manifest)
        progress(f"{target}: reading the weights back", None)
        proofs = _prove_weights(bundle, compressed)
        with registry.runtime(target).open(bundle, threads=1) as session:
            report = _measure(session, bundle, source.samples, source.reference, progress)
            shipped = _ask_golden(session, bundle, stored)
        far_off = golden.far_off(manifest, golden.sides(bundle, stored)["reference"], shipped)
        of_golden = (replace(check, component=f"{check.component} (golden)") for check in far_off)
        report = replace(report, checks=(*report.checks, *of_golden))
        golden.write(stage.folder, golden.with_shipped(stored, bundle, shipped) if report.passed else stored)
        parity_seconds = time.monotonic() - began
        bundle = seal(stage.folder, replace(manifest, parity=report, weights=proofs))
        # What fails is kept for looking into, under a name that no app picks up by mistake, until the next try.
        stem = stage.destination.name.removesuffix(SUFFIX)
        failed = stage.destination.with_name(f"{stem}.failed-parity{SUFFIX}")
        if not report.passed:
            stage.destination, stage.replace = failed, True
    if report.passed:
        discard(failed)
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
    with named_failures(f"{converter.target}: the backend's converter"):
        return converter.lower(programs, recipe, folder)


def _measure(session: Session, bundle: Bundle, samples: Rows, reference: Answers, progress: Progress) -> ParityReport:
    stage, manifest = f"{bundle.manifest.target}: comparing with the float reference", bundle.manifest
    specs = [component.spec for component in bundle.components.values()]
    answers = comparison.ask(session, specs, samples, lambda share: progress(stage, share))
    checks = comparison.compare(reference, answers, manifest.recipe.parity, logit_scale=manifest.embedding.logit_scale)
    return ParityReport(session.evidence, len(samples[PIXELS]), checks)


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
        "name": request.called,
        "calibration": schema.write(calibration.record) if calibration else None,
    }
    return cache.key(inputs)


def _copy(kept: Bundle, request: Request, target: str) -> Outcome:
    with staged(request.destination(target), force=request.force, ignored=True) as stage:
        shutil.copytree(kept.path, stage.folder, dirs_exist_ok=True)
    return Outcome(target, "passed", Bundle(stage.destination, kept.manifest), None, 0.0, cached=True)
