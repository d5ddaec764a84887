"""From a model's name to verified bundles: load -> export -> lower -> verify -> write, a target at a time."""

from __future__ import annotations

import gc
import shutil
import time
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgevlm import schema
from edgevlm.bundle.bundle import Bundle, seal
from edgevlm.bundle.integer_weights import WeightProof, prove, prove_again
from edgevlm.bundle.manifest import MANIFEST, SUFFIX, Labels, ParityReport
from edgevlm.bundle.recipe import LEAST_SAMPLES, Recipe, refuse_bad_name
from edgevlm.bundle.staging import refuse_destination, staged
from edgevlm.bundle.trust import trust
from edgevlm.conversion import audit, cache
from edgevlm.conversion.contents import begin_proof, compressed_bytes, make_manifest
from edgevlm.conversion.prepared import Prepared
from edgevlm.conversion.prepared_talker import PreparedTalker
from edgevlm.conversion.proof import proof_threads, runner_of, verify_dialogues, verify_embeddings
from edgevlm.errors import (
    BundleError,
    CheckFailed,
    EdgeVLMError,
    InputError,
    MissingDependency,
    RecipeError,
    UnsupportedError,
    named_failures,
)
from edgevlm.graphs.program import functions
from edgevlm.models import catalogue
from edgevlm.parity import generation
from edgevlm.process.garbage import seldom_collected
from edgevlm.process.progress import Progress, silent
from edgevlm.process.writing import discard
from edgevlm.targets import registry
from edgevlm.targets.converter import Describer, OpRange

if TYPE_CHECKING:
    from edgevlm.compression.calibration import CalibrationData, CalibrationSource
    from edgevlm.compression.compression import Compressed
    from edgevlm.models.model import Model
    from edgevlm.models.talker import Talker


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
        context_length: Of a model that talks, the positions of a dialogue.
        lengths: Of a model that talks, how many rows are decoded at once, ascending from 1.
        picture_size: Of one that takes pictures of any size, the height and width in pixels of all.
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
    context_length: int | None = None
    lengths: tuple[int, ...] | None = None
    picture_size: tuple[int, int] | None = None

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

    def load(self) -> Model | Talker:
        """What is to be converted.

        Raises:
            CheckpointError: the model cannot be read.
            InputError: options of the other kind of models.
            MissingDependency: torch is not installed.
        """
        if find_spec("torch") is None:
            raise MissingDependency("torch", extra="all")
        loaded = catalogue.load_any(
            self.model,
            revision=self.revision,
            context_length=self.context_length,
            lengths=self.lengths,
            picture_size=self.picture_size,
        )
        from edgevlm.models.talker import Talker

        if isinstance(loaded, Talker):
            if self.labels is not None or self.image_only:
                raise InputError(
                    f"{loaded.source.name} talks: labels and image_only are a dual encoder's",
                    hint="leave them out: edgevlm run --ask asks its bundle",
                )
        elif any(each is not None for each in (self.context_length, self.lengths, self.picture_size)):
            raise InputError(
                f"{loaded.source.name} gives embeddings: a context, lengths and a size of pictures are of models that "
                "talk"
            )
        return loaded


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
        refuse_destination(request.destination(target), force=request.force)
    if request.name is not None:
        refuse_bad_name(request.name, "--name")
    calibration = _open_calibration(request)
    outcomes = []
    source: Prepared | PreparedTalker | None = None
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
                with seldom_collected():
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


def verify(bundle: Bundle, progress: Progress = silent, *, runner: bool = False) -> ParityReport:
    """Runs the shipped file again, and compares with the reference that the bundle carries.

    It is asked about all samples; and golden's stages are made again of what is shipped: pixels of pictures, ids of
    texts, scores of embeddings, dialogues; and the file's answers must be as near to the reference's, and to those that
    it gave when it was converted, as golden says.

    >>> report = edgevlm.verify(edgevlm.Bundle.open("dist/edgevlm-student-coreml-fp16.edgevlm"))
    >>> report.passed, report.evidence
    (True, 'program-semantics')

    Args:
        bundle: Which.
        progress: Told how far it is.
        runner: Whether the runner that apps have is asked as well, of a model that talks.

    Raises:
        InputError: `runner`, and none that runs here holds the bundle.
        BundleError: the golden fixtures are not readable, or contradict the manifest or the artefact.
        MissingDependency: the target's runtime is not installed.
    """
    called = runner_of(bundle) if runner else None
    if runner and called is None:
        raise InputError(
            f"{bundle.path}: no runner of {bundle.manifest.target}'s own holds this bundle and runs here",
            hint="LiteRT-LM holds models that talk, and needs litert-lm-api, for Linux on x86-64; MultimodalRunner "
            "holds those whose pictures are positions, such as LLaVA; without --runner our own loop asks the file",
        )
    with registry.runtime_of(bundle).open(bundle, threads=proof_threads(bundle)) as session:
        if bundle.manifest.dialogue is None:
            return verify_embeddings(session, bundle, progress)
        return verify_dialogues(session, bundle, called, progress)


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


def _prepare(request: Request, calibration: CalibrationData | None, progress: Progress) -> Prepared | PreparedTalker:
    progress("loading the model", None)
    model = request.load()
    from edgevlm.models.talker import Talker

    source: Prepared | PreparedTalker
    if isinstance(model, Talker):
        generation.check_limits(request.recipe)
        source = PreparedTalker(model)
    else:
        if request.recipe.parity.max_kl is not None:
            raise RecipeError(
                f"recipe {request.recipe.name}: parity.max_kl: expected limits of embeddings, which "
                f"{model.source.name} gives, got {request.recipe.parity.max_kl:g}",
                hint="min_cosine, max_abs_error and min_top1_agreement are what it is held to",
            )
        source = Prepared(model, calibration, wanted=request.labels, image_only=request.image_only)
        if calibration is not None and request.recipe.needs_calibration:
            calibration.check(source.programs)
    source.check_original()
    return source


def _convert_one(source: Prepared | PreparedTalker, request: Request, target: str, progress: Progress) -> Outcome:
    converter = registry.converter(target)
    refused = converter.unsupported(source.programs, request.recipe)
    if refused:
        what = "; ".join(problem.what for problem in refused)
        raise UnsupportedError(f"{target} cannot hold this: {what}", hint=refused[0].instead)
    recipe, at_risk = audit.settle(converter, source, request.recipe, progress)
    compressed = source.compress(recipe, converter, progress)
    with staged(request.destination(target), force=request.force, ignored=True) as stage:
        progress(f"{target}: lowering", None)
        with named_failures(f"{target}: the backend's converter"):
            files = converter.lower(compressed.programs, recipe, stage.folder, progress)
        gc.collect()  # graphs, which are cycles and hold weights
        began = time.monotonic()
        progress(f"{target}: asking the float reference", None)
        proof = begin_proof(source, stage.folder, progress)
        called = functions(compressed.programs)
        manifest = make_manifest(source, recipe, name=request.called, target=target, files=files, called=called)
        if isinstance(converter, Describer):
            converter.describe(manifest, stage.folder)
        manifest = replace(manifest, compressed_size_bytes=compressed_bytes(stage.folder, files))
        bundle = seal(stage.folder, manifest)
        progress(f"{target}: reading the weights back", None)
        proofs = _prove_weights(bundle, compressed)
        with registry.runtime(target).open(bundle, threads=proof_threads(bundle)) as session:
            report = proof.measure(session, bundle, progress)
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
        "context_length": request.context_length,
        "lengths": request.lengths,
        "picture_size": request.picture_size,
    }
    return cache.key(inputs)


def _copy(kept: Bundle, request: Request, target: str) -> Outcome:
    with staged(request.destination(target), force=request.force, ignored=True) as stage:
        shutil.copytree(kept.path, stage.folder, dirs_exist_ok=True)
    return Outcome(target, "passed", Bundle(stage.destination, kept.manifest), None, 0.0, cached=True)
