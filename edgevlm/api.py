"""The Python API: convert a model, open a bundle, ask it.

with edgevlm.open("dist/edgevlm-student-coreml-fp16.edgevlm") as model:
    model.encode_image(["cat.jpg"])                    # float32 [1, D], unit norm
    model.encode_text(["a cat", "a dog"])              # float32 [2, D], unit norm
    model.classify(["cat.jpg"], ["a cat", "a dog"])    # float32 [1, 2], rows sum to 1
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgevlm import registry
from edgevlm.bundle import Bundle
from edgevlm.errors import LabelError, ParityFailed, TensorError
from edgevlm.interfaces import Closing, Session
from edgevlm.preprocessing import Picture, preprocess
from edgevlm.tokenizing import Tokenizer

F32 = NDArray[np.float32]


class BundleModel(Closing):
    """An open bundle: pictures and texts in, embeddings and scores out. A context manager.

    Args:
        bundle: What to run.
        threads: CPU threads of the backend; its own default where None.
    """

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        self.bundle = bundle
        manifest = bundle.manifest
        self._tokenizer = Tokenizer(manifest.text, bundle.path) if manifest.text else None
        self.session: Session = registry.runtime(manifest.target).open(bundle, threads=threads)

    @property
    def labels(self) -> tuple[str, ...]:
        """The baked labels, in the order of their scores; empty where none are baked."""
        return self.bundle.manifest.labels.names if self.bundle.manifest.labels else ()

    def encode_image(self, images: Sequence[Picture]) -> F32:
        """Embeddings of pictures.

        Args:
            images: Paths, PIL images, encoded bytes or uint8 [H, W, 3] arrays; N of them.

        Returns:
            float32 [N, D], unit norm.

        Raises:
            ImageError: a picture cannot be decoded.
            TensorError: the bundle has no `encode_image`.
        """
        rows = [self._run("encode_image", "pixels", preprocess(image, self.bundle.manifest.image)) for image in images]
        return np.stack(rows) if rows else np.zeros((0, self.bundle.manifest.embedding_dim), np.float32)

    def encode_text(self, texts: Sequence[str]) -> F32:
        """Embeddings of texts, float32 [N, D], unit norm.

        Raises:
            TensorError: the bundle has no text tower.
        """
        if self._tokenizer is None:
            raise TensorError(
                "this bundle has no text tower, so it cannot encode texts",
                hint="classify with its baked labels, or convert without --image-only",
            )
        ids = self._tokenizer.encode(texts)
        rows = [self._run("encode_text", "token_ids", row[None]) for row in ids]
        return np.stack(rows) if rows else np.zeros((0, self.bundle.manifest.embedding_dim), np.float32)

    def classify(self, images: Sequence[Picture], labels: Sequence[str] | None = None) -> F32:
        """How well each label describes each picture.

        Args:
            images: N pictures, see `encode_image`.
            labels: L texts; None for the baked labels.

        Returns:
            float32 [N, L]; each row sums to 1: softmax of the scaled cosines.

        Raises:
            LabelError: no labels given and none baked in.
        """
        if labels is None:
            if not self.labels:
                raise LabelError("expected labels: this bundle has none baked in")
            rows = [self._run("classify", "pixels", preprocess(image, self.bundle.manifest.image)) for image in images]
            return np.stack(rows) if rows else np.zeros((0, len(self.labels)), np.float32)
        if not labels:
            raise LabelError("expected at least one label, got none")
        logits = self.bundle.manifest.logit_scale * self.encode_image(images) @ self.encode_text(labels).T
        exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return np.asarray(exponents / exponents.sum(-1, keepdims=True), np.float32)

    def close(self) -> None:
        """Frees the backend's memory."""
        self.session.close()

    def _run(self, component: str, name: str, value: NDArray[np.float32] | NDArray[np.int32]) -> F32:
        (answer,) = self.session.run(component, {name: value}).values()
        row: F32 = answer[0]
        return row


def open(path: str | Path, *, threads: int | None = None) -> BundleModel:
    """Opens a bundle after checking every file in it against its manifest.

    Raises:
        BundleError: it is damaged or not a bundle.
        MissingDependency: the runtime of its target is not installed.
    """
    return BundleModel(Bundle.open(path), threads=threads)


def convert(
    model: str | Path = "edgevlm-student",
    *,
    target: str,
    recipe: str | Path = "fp16",
    out: str | Path = "dist",
    labels: Sequence[str] | None = None,
    templates: Sequence[str] = ("{}",),
    image_only: bool = False,
    force: bool = False,
) -> Bundle:
    """Converts a model to a verified bundle of one target.

    Args:
        model: `edgevlm-student`, a folder in Hugging Face format, or a hub id.
        target: `coreml`, `executorch` or `tflite`.
        recipe: A built-in recipe's name or a YAML file.
        out: Folder that the bundle is written into.
        labels: Labels to bake into a `classify` component.
        templates: Texts in which `{}` stands for the label; their embeddings are averaged.
        image_only: Leave the text tower out.
        force: Replace an existing bundle.

    Raises:
        ParityFailed: the bundle was written aside, and its answers are too far from the reference's.
        EdgeVLMError: nothing was written; see `edgevlm.errors`.
    """
    from edgevlm import pipeline
    from edgevlm.bundle import Labels
    from edgevlm.recipe import resolve

    request = pipeline.Request(
        model=model,
        targets=(target,),
        recipe=resolve(recipe),
        out=Path(out),
        labels=Labels(tuple(labels), tuple(templates)) if labels is not None else None,
        image_only=image_only,
        force=force,
    )
    (outcome,) = pipeline.convert(request)
    if outcome.error is not None:
        raise outcome.error
    if outcome.bundle is None or outcome.bundle.manifest.parity is None or not outcome.bundle.manifest.parity.passed:
        failed = [check for check in outcome.bundle.manifest.parity.checks if not check.passed]  # type: ignore[union-attr]
        raise ParityFailed(
            "; ".join(f"{c.component}: {c.measure} {c.value:.3g}, allowed {c.limit}" for c in failed),
            hint=f"the bundle is kept at {outcome.bundle.path}",  # type: ignore[union-attr]
        )
    return outcome.bundle
