"""A model made ready to be lowered: its components, and what the float reference answers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.manifest import Labels
from edgevlm.bundle.recipe import Recipe
from edgevlm.bundle.spec import F32, Array
from edgevlm.errors import UnsupportedError, named_failures
from edgevlm.graphs.outline import Outline, outline
from edgevlm.graphs.program import Programs
from edgevlm.inputs import labels
from edgevlm.inputs.texts import Tokenizer
from edgevlm.parity import comparison
from edgevlm.parity.samples import make_samples, sample_pictures, sample_texts
from edgevlm.process.progress import Progress

if TYPE_CHECKING:
    import torch

    from edgevlm.compression.calibration import CalibrationData, CalibrationInputs
    from edgevlm.compression.compression import Compressed
    from edgevlm.models.model import Model


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
        self._inputs: CalibrationInputs | None = None
        self._compressed: Compressed | None = None
        self.labels = wanted or model.labels
        self.label_embeddings = model.label_embeddings
        self.tokenizer = open_tokenizer(model)
        if wanted is not None:
            self.label_embeddings = self._embed_labels(wanted)
        self.programs = choose_programs(model, self.label_embeddings, image_only=image_only)

    def audit_rows(self, progress: Progress) -> dict[str, Array]:
        """What ranges in float16 are audited on, by the name of the input: calibration data, else parity's samples."""
        rows: dict[str, Array] = {"pixels": self.samples.pixels, "token_ids": self.samples.token_ids}
        for component, inputs in self._calibration_inputs(progress).items():
            rows[self.programs[component].spec.inputs[0].name] = np.concatenate([each.numpy() for each in inputs])
        return rows

    def compress(self, recipe: Recipe, progress: Progress) -> Compressed:
        """The programs as the recipe wants them, made once for all targets."""
        if self._compressed is None:
            from edgevlm.compression.compression import compress

            samples = self._calibration_inputs(progress) if recipe.needs_calibration else {}
            with named_failures(f"recipe {recipe.name}: compression"):
                self._compressed = compress(self.programs, recipe, samples, progress)
        return self._compressed

    def _calibration_inputs(self, progress: Progress) -> CalibrationInputs:
        if self._inputs is None:
            data = self.calibration
            self._inputs = data.inputs(self.programs, self.model.image, self.tokenizer, progress) if data else {}
        return self._inputs

    def _embed_labels(self, wanted: Labels) -> torch.Tensor:
        import torch

        from edgevlm.models.encoders.classifier import embed_labels

        tokenizer, texts = check_labels(self.model, self.tokenizer, wanted)
        return embed_labels(
            self.model.reference["encode_text"],
            lambda several: torch.from_numpy(tokenizer.encode(several)),
            texts,
        )

    @cached_property
    def samples(self) -> comparison.Samples:
        tokenizer = self.tokenizer if "encode_text" in self.programs else None
        return make_samples(sample_pictures(), sample_texts(), self.model.image, tokenizer)

    @cached_property
    def reference(self) -> comparison.Answers:
        image = self.embed("encode_image", self.samples.pixels)
        return comparison.Answers(
            image=image if "encode_image" in self.programs else None,
            text=self.embed("encode_text", self.samples.token_ids) if "encode_text" in self.programs else None,
            scores=self.classify(image) if "classify" in self.programs else None,
        )

    @property
    def peak_bytes(self) -> int:
        """Estimate for the largest component: its weights in float32 and its activations."""
        return max(seen.activation_bytes + seen.weight_bytes for seen in self.outlines.values())

    @cached_property
    def outlines(self) -> dict[str, Outline]:
        """Every component, seen without running it."""
        return {name: outline(program) for name, program in self.programs.items()}

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


def open_tokenizer(model: Model) -> Tokenizer | None:
    """The model's own; None where it has no text tower."""
    if model.text is None or model.tokenizer_json is None:
        return None
    return Tokenizer.from_bytes(model.text, model.tokenizer_json)


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

        programs["classify"] = classifier_program(programs["encode_image"], label_embeddings, model.logit_scale)
    if image_only:
        programs.pop("encode_text", None)
        if "classify" in programs:
            del programs["encode_image"]
    return programs


def check_labels(
    model: Model, tokenizer: Tokenizer | None, wanted: Labels
) -> tuple[Tokenizer, Sequence[Sequence[str]]]:
    """The tokenizer, and the texts of each label.

    Raises:
        UnsupportedError: there is no text tower to embed them.
        LabelError: one does not fit the model's context.
    """
    if tokenizer is None:
        known = model.labels.names if model.labels else ()
        raise UnsupportedError(
            f"{model.source.name} has no text tower, so no other labels can be baked than its own: "
            f"{', '.join(known[:10])}{', ...' if len(known) > 10 else ''}",
            hint="leave --labels out to bake those, or train a student that keeps a text tower",
        )
    texts = labels.texts_of(wanted)
    labels.check_lengths(wanted.names, texts, tokenizer)
    return tokenizer, texts


def softmax(logits: NDArray[np.floating]) -> F32:
    """Along the last axis, [N, L] -> [N, L]."""
    exponents = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(exponents / exponents.sum(-1, keepdims=True), np.float32)
