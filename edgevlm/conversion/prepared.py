"""A model made ready to be lowered: its components, and what the float reference answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from edgevlm import schema
from edgevlm.bundle.manifest import Labels
from edgevlm.bundle.recipe import Recipe
from edgevlm.bundle.spec import TextPreprocessing
from edgevlm.errors import CheckpointError, UnsupportedError, named_failures
from edgevlm.graphs.outline import Outline, outline
from edgevlm.graphs.program import Programs
from edgevlm.inference.embeddings import average
from edgevlm.inputs import labels
from edgevlm.inputs.rows import TOKEN_IDS, Rows, make_rows, takes
from edgevlm.inputs.texts import Tokenizer
from edgevlm.models.reference import Forward, Head, Original, classifier_reference
from edgevlm.parity.comparison import Answers
from edgevlm.parity.samples import sample_pictures, sample_texts
from edgevlm.process.progress import Progress

if TYPE_CHECKING:
    import torch

    from edgevlm.compression.calibration import CalibrationData
    from edgevlm.compression.compression import Compressed
    from edgevlm.models.model import Model
    from edgevlm.targets.converter import Converter


class Prepared:
    """A loaded model with its components, its parity samples and the reference's answers, for all targets.

    Args:
        model: What was loaded.
        calibration: Data that was given with it.
        wanted: A label set to bake into a `classify` component.
        image_only: Whether the text tower is left out; with labels, `classify` is all there is.

    Raises:
        UnsupportedError: labels are to be baked, and there is no text tower to embed them.
        LabelError: one does not fit the model's context.
    """

    def __init__(
        self, model: Model, calibration: CalibrationData | None, *, wanted: Labels | None, image_only: bool
    ) -> None:
        self.model = model
        self.calibration = calibration
        self._calibration_rows: Rows | None = None
        self._compressed: Compressed | None = None
        self.labels = wanted or model.labels
        self.label_embeddings = model.label_embeddings
        if wanted is not None:
            self.label_embeddings = self._embed_labels(wanted)
        self.programs = choose_programs(model, self.label_embeddings, image_only=image_only)

    @property
    def text(self) -> TextPreprocessing | None:
        """How texts become token ids; None where no component takes any."""
        return self.model.text if any(takes(each.spec, TOKEN_IDS) for each in self.programs.values()) else None

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the float model, in hexadecimal: its tensors, its tokenizer and how it reads texts.

        Of both towers, also where only one is converted: embeddings of the two are compared.
        """
        digest = hashlib.sha256(self.model.tokenizer_json or b"")
        digest.update(json.dumps(schema.write(self.model.text)).encode())
        for program in self.model.programs.values():
            for name, tensor in sorted(program.module.state_dict().items()):
                digest.update(name.encode())
                digest.update(tensor.contiguous().numpy())
        return digest.hexdigest()

    @property
    def audited(self) -> Programs:
        """What ranges in float16 are measured of."""
        return self.programs

    def audit_rows(self, progress: Progress) -> Rows:
        """What ranges in float16 are audited on, by the name of the input: calibration data, else parity's samples."""
        return {**self.samples, **self._read_calibration(progress)}

    def compress(self, recipe: Recipe, converter: Converter, progress: Progress) -> Compressed:
        """The programs as the recipe wants them, made once for all targets: in each file they stand as they are."""
        if self._compressed is None:
            from edgevlm.compression.calibration import calibration_inputs
            from edgevlm.compression.compression import compress

            rows = self._read_calibration(progress) if recipe.needs_calibration else {}
            with named_failures(f"recipe {recipe.name}: compression"):
                self._compressed = compress(self.programs, recipe, calibration_inputs(self.programs, rows), progress)
        return self._compressed

    def _read_calibration(self, progress: Progress) -> Rows:
        if self._calibration_rows is None:
            data = self.calibration
            self._calibration_rows = data.rows(self.programs, self.model, progress) if data else {}
        return self._calibration_rows

    def _embed_labels(self, wanted: Labels) -> torch.Tensor:
        import torch

        tokenizer, texts = check_labels(self.model, wanted)
        ids = tokenizer.encode([text for several in texts for text in several])
        embeddings = self.model.original.run("encode_text", {TOKEN_IDS: ids})["embedding"]
        return torch.from_numpy(average(embeddings, [len(several) for several in texts]))

    @cached_property
    def original(self) -> Original:
        """The float original of every component that is lowered."""
        functions: dict[str, Forward | Head] = {
            name: partial(self.model.original.forward, name) for name in self.model.original.specs
        }
        if self.label_embeddings is not None:
            functions["classify"] = classifier_reference(
                self.label_embeddings, self.model.logit_scale, self.model.logit_bias
            )
        specs = {name: program.spec for name, program in self.programs.items()}
        return Original(self.model.network, functions, specs)

    @cached_property
    def samples(self) -> Rows:
        """What both sides of the proof are asked about."""
        return make_rows(sample_pictures(), sample_texts() if self.text else (), self.model.image, self.model.tokenizer)

    @cached_property
    def reference(self) -> Answers:
        """What the original answers to the samples."""
        return self.original.answer(self.samples)

    def check_original(self) -> None:
        """Asks the original about one sample, which takes seconds at most: before the long work.

        Raises:
            CheckpointError: it answers NaN or infinity.
        """
        rows = {name: each[:1] for name, each in self.samples.items()}
        for component, outputs in self.original.answer(rows).items():
            if all(np.isfinite(answer).all() for answer in outputs.values()):
                continue
            weights = self.model.network.named_parameters()
            zero = ", ".join(name for name, weight in weights if weight.ndim > 1 and not weight.any())
            raise CheckpointError(
                f"{self.model.source.name}: {component}: expected numbers, and the original's own answer is none"
                + (f"; all zero: {zero}" if zero else ""),
                hint="the training has diverged, or these weights were never trained: take another state",
            )

    @property
    def peak_bytes(self) -> int:
        """Estimate for the largest component: its weights in float32 and its activations."""
        return max(seen.activation_bytes + seen.weight_bytes for seen in self.outlines.values())

    @cached_property
    def outlines(self) -> dict[str, Outline]:
        """Every component, seen without running it."""
        return {name: outline(program) for name, program in self.programs.items()}

    def outlined(self, converter: Converter) -> dict[str, Outline]:
        """The same: in each target's file they stand as they are."""
        return self.outlines


def choose_programs(model: Model, label_embeddings: torch.Tensor | None, *, image_only: bool) -> Programs:
    """The components that a bundle gets.

    Args:
        model: Whose image and text towers they are.
        label_embeddings: float32 [L, D] that make a `classify` component; None makes none.
        image_only: Whether the text tower is left out; with labels, `classify` is all there is.
    """
    programs = dict(model.programs)
    if label_embeddings is not None:
        from edgevlm.models.encoders.classifier import classifier_program

        programs["classify"] = classifier_program(
            programs["encode_image"], label_embeddings, model.logit_scale, model.logit_bias
        )
    if image_only:
        programs.pop("encode_text", None)
        if "classify" in programs:
            del programs["encode_image"]
    return programs


def check_labels(model: Model, wanted: Labels) -> tuple[Tokenizer, Sequence[Sequence[str]]]:
    """The tokenizer, and the texts of each label.

    Raises:
        UnsupportedError: there is no text tower to embed them.
        LabelError: one does not fit the model's context, or is the same to the model as another.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        known = model.labels.names if model.labels else ()
        raise UnsupportedError(
            f"{model.source.name} has no text tower, so no other labels can be baked than its own: "
            f"{', '.join(known[:10])}{', ...' if len(known) > 10 else ''}",
            hint="leave --labels out to bake those, or train a student that keeps a text tower",
        )
    texts = labels.texts_of(wanted)
    labels.check(wanted.names, texts, tokenizer)
    return tokenizer, texts
