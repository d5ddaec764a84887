"""The proof: what is written into a bundle so that its file can be held against the float original, and holding it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from edgevlm.bundle import golden_dialogues
from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.dialogue import LOGITS, Tiling
from edgevlm.bundle.embedding_space import check_embedding_space
from edgevlm.bundle.golden import REFERENCE, Golden, arithmetic
from edgevlm.bundle.golden_dialogues import GoldenDialogues
from edgevlm.bundle.manifest import MANIFEST, ParityReport
from edgevlm.bundle.versions import is_at_least
from edgevlm.errors import BundleError
from edgevlm.inference.embeddings import average
from edgevlm.inference.generator import generator_of
from edgevlm.inputs import labels
from edgevlm.inputs.rows import EMBEDDING, PIXELS, TOKEN_IDS, Rows, encoder, make_rows
from edgevlm.inputs.texts import Tokenizer
from edgevlm.parity import comparison, generation, golden, witness
from edgevlm.parity.comparison import Answers
from edgevlm.process.processors import usable_processors
from edgevlm.process.progress import Progress
from edgevlm.targets import registry
from edgevlm.targets.app_runner import RunnerTarget
from edgevlm.targets.isolation import IsolatedRunner, tokenizer_of
from edgevlm.targets.runtime import Session


class Proof(Protocol):
    """Of one bundle that is being made."""

    def measure(self, session: Session, bundle: Bundle, progress: Progress) -> ParityReport:
        """Asks the file, and writes what golden has of its answers.

        Args:
            session: The file's.
            bundle: As it is so far, its fixtures written.
            progress: Told how far it is.
        """


class EncoderProof:
    """Of a dual encoder: embeddings and scores of many samples, and golden's stages.

    Args:
        stored: What golden has of the original.
        samples: What both sides are asked about.
        reference: What the original answers.
    """

    def __init__(self, stored: Golden, samples: Rows, reference: Answers) -> None:
        self._stored, self._samples, self._reference = stored, samples, reference

    def measure(self, session: Session, bundle: Bundle, progress: Progress) -> ParityReport:
        """See `Proof`."""
        report = _measure(session, bundle, self._samples, self._reference, progress)
        shipped = _ask_golden(session, bundle, self._stored)
        expected = golden.sides(bundle, self._stored)["reference"]
        far_off = golden.far_off(bundle.manifest, expected, shipped)
        of_golden = (replace(check, component=f"{check.component} (golden)") for check in far_off)
        report = replace(report, checks=(*report.checks, *of_golden))
        golden.write(bundle.path, golden.with_shipped(self._stored, bundle, shipped) if report.passed else self._stored)
        return report


class DialogueProof:
    """Of a model that talks: dialogues, step by step; and whether the runner that apps have says the same.

    Args:
        answered: What the float model said.
        tiling: How it cuts pictures.
        folder: The bundle's.
    """

    def __init__(self, answered: GoldenDialogues, tiling: Tiling | None, folder: Path) -> None:
        generation.write_pictures(folder, tiling)
        golden_dialogues.write(folder, answered)

    def measure(self, session: Session, bundle: Bundle, progress: Progress) -> ParityReport:
        """See `Proof`."""
        return verify_dialogues(session, bundle, runner_of(bundle), progress)


def verify_embeddings(session: Session, bundle: Bundle, progress: Progress) -> ParityReport:
    """Holds a dual encoder's file against what the bundle carries; see `edgevlm.conversion.pipeline.verify`."""
    check_embedding_space(bundle)
    tokenizer = tokenizer_of(bundle, session)
    stored, rows, reference = _read_fixtures(bundle, tokenizer)
    expected = golden.check(bundle, stored, tokenizer)
    _check_labels(session, bundle, expected["reference"], tokenizer)
    report = _measure(session, bundle, rows, reference, progress)
    golden.hold(bundle, stored, expected, _ask_golden(session, bundle, stored))
    return report


def verify_dialogues(session: Session, bundle: Bundle, runner: str | None, progress: Progress) -> ParityReport:
    """Holds the file of a model that talks against what the bundle carries, and a runner of apps against the file.

    Args:
        session: The file's.
        bundle: Which.
        runner: What the runner is called; None asks none.
        progress: Told how far it is.
    """
    stored, recipe = golden_dialogues.read(bundle.path, newer=bundle.is_newer), bundle.manifest.recipe
    pictures = {*(each.picture for each in stored.dialogues), *(each.picture for each in stored.conversations)}
    if unknown := pictures - {None, *bundle.manifest.files}:
        found = min(map(str, unknown))
        raise BundleError(f"{bundle.path}: golden: expected pictures among the bundle's files, got {found[:80]!r}")
    check_kinds(bundle, stored)
    model = generation.Asked(generator_of(bundle, session), lambda name: bundle.path / name)
    report = generation.measure(model, stored, bundle.path, recipe, session.evidence, progress)
    if runner is None or not report.passed:
        return report
    checks = witness.measure(model, IsolatedRunner(bundle), runner, stored, recipe, progress)
    return replace(report, checks=(*report.checks, *checks))


def check_kinds(bundle: Bundle, stored: GoldenDialogues) -> None:
    """Refuses golden dialogues without a conversation of each kind that the chat template has, as since format 2.1."""
    chat = bundle.manifest.dialogue.chat if bundle.manifest.dialogue else None
    if chat is None or not is_at_least(bundle.manifest.format_version, "2.1"):
        return
    kinds = {(each.system is not None, each.picture is not None) for each in stored.conversations}
    if not kinds.issuperset(generation.kinds_of_conversation(chat)):
        raise BundleError(
            f"{bundle.path}: golden: conversations: expected some with a picture and without, and with a system text, "
            f"as the chat template has places for, got {len(stored.conversations)}, and not all of these"
        )


def proof_threads(bundle: Bundle) -> int:
    """How many threads a bundle is asked with: of a model that talks, whose proof takes minutes, one a processor.

    They change no bit of its answers, which tests hold; but those of Core ML's evaluator, which is asked with one.
    """
    if bundle.manifest.dialogue is None or bundle.manifest.target == "coreml":
        return 1
    return usable_processors()


def runner_of(bundle: Bundle) -> str | None:
    """What the runner is called that apps have for such a bundle, where it runs here too."""
    target = registry.runtime(bundle.manifest.target)
    return target.runner_name(bundle) if isinstance(target, RunnerTarget) else None


def _check_labels(session: Session, bundle: Bundle, expected: Answers, tokenizer: Tokenizer | None) -> None:
    """Refuses labels that are not what `classify` answers, where both towers and its logits are there to tell.

    A label's embedding is off by at most what the cosine to the reference's allows, and so are its cosines.
    """
    manifest, specs = bundle.manifest, [component.spec for component in bundle.components.values()]
    images, words = (encoder(specs, taken) for taken in (PIXELS, TOKEN_IDS))
    logits = next((outputs[LOGITS] for outputs in expected.values() if LOGITS in outputs), None)
    if manifest.labels is None or tokenizer is None or logits is None or images is None or words is None:
        return
    texts = labels.texts_of(manifest.labels)
    rows = tokenizer.encode([text for several in texts for text in several])
    answered = comparison.ask(session, [words], {TOKEN_IDS: rows})
    embedded = average(answered[words.name][EMBEDDING], [len(several) for several in texts])
    claimed = (logits - (manifest.embedding.logit_bias or 0)) / manifest.embedding.logit_scale
    off = np.abs(expected[images.name][EMBEDDING] @ embedded.T - claimed)
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


def _measure(session: Session, bundle: Bundle, samples: Rows, reference: Answers, progress: Progress) -> ParityReport:
    stage, manifest = f"{bundle.manifest.target}: comparing with the float reference", bundle.manifest
    specs = [component.spec for component in bundle.components.values()]
    answers = comparison.ask(session, specs, samples, lambda share: progress(stage, share))
    checks = comparison.compare(reference, answers, manifest.recipe.parity, logit_scale=manifest.embedding.logit_scale)
    return ParityReport(session.evidence, len(samples[PIXELS]), checks)
