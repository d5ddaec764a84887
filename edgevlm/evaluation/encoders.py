"""What can be evaluated: a float model in torch, or a bundle of any target, behind one small seam."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
from PIL import Image

from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.dialogue import LOGITS
from edgevlm.bundle.golden import REFERENCE
from edgevlm.bundle.manifest import is_bundle
from edgevlm.bundle.spec import F32
from edgevlm.errors import TensorError
from edgevlm.inference.embedder import BundleModel
from edgevlm.inputs.rows import EMBEDDING, PIXELS, TOKEN_IDS, Rows, encoder, make_rows
from edgevlm.inputs.texts import Tokenizer
from edgevlm.process.paths import user_path
from edgevlm.targets.runtime import Closing

if TYPE_CHECKING:
    from types import TracebackType


class Encoder(Protocol):
    """Pictures and texts in, unit vectors of one space out. A context manager.

    Attributes:
        name: What a user called it.
        evidence: What its answers prove: `reference` for a float model, else see `edgevlm.targets.runtime.Session`.
        precision: Of the weights; of a bundle, its recipe, such as `int8`.
        tokenizer: Of the text tower; None where there is none.
        labels: What it tells apart without a text tower; empty where no labels are baked in.
        embedding_dim: D; None where it cannot `encode_pictures`: a bundle may have `classify` alone.
        mean_embedding: A bundle's own, float32 [D]; None where none is kept.
    """

    name: str
    evidence: str
    precision: str
    tokenizer: Tokenizer | None
    labels: tuple[str, ...]
    embedding_dim: int | None
    mean_embedding: F32 | None

    def encode_pictures(self, pictures: Sequence[Image.Image]) -> F32:
        """Upright RGB pictures of any sizes -> unit vectors, float32 [N, D]."""

    def encode_texts(self, texts: Sequence[str]) -> F32:
        """Texts -> unit vectors, float32 [N, D]; what is longer than the context is cut."""

    def score_labels(self, pictures: Sequence[Image.Image]) -> F32:
        """How well each baked label fits each picture, float32 [N, labels]: the larger, the better."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ModelEncoder(Closing):
    """A model's own float32 forward in torch, in batches, on a GPU where there is one.

    Args:
        name: What `edgevlm.models.catalogue.load` takes.
    """

    evidence = "reference"
    precision = "fp32"
    mean_embedding: F32 | None = None

    def __init__(self, name: str | Path) -> None:
        from edgevlm.models import catalogue

        self.name = str(name)
        self._model = catalogue.load(name)

        import torch  # once there is a model to run: torch alone takes seconds

        self._model.original.to("cuda" if torch.cuda.is_available() else "cpu")
        self.labels = self._model.labels.names if self._model.labels else ()
        self.embedding_dim: int | None = self._model.embedding_dim
        self.tokenizer = self._model.tokenizer

    def encode_pictures(self, pictures: Sequence[Image.Image]) -> F32:
        """See `Encoder`."""
        return self._embed(PIXELS, make_rows(pictures, (), self._model.image, None))

    def encode_texts(self, texts: Sequence[str]) -> F32:
        """See `Encoder`.

        Raises:
            TensorError: the model has no text tower.
        """
        if self.tokenizer is None:
            raise TensorError(f"{self.name} has no text tower, so it cannot encode texts")
        return self._embed(TOKEN_IDS, {TOKEN_IDS: self.tokenizer.encode(texts)})

    def _embed(self, taken: str, rows: Rows) -> F32:
        spec = encoder(self._model.original.specs.values(), taken)
        if spec is None:
            raise TensorError(f"{self.name} makes no embeddings of {taken}")
        return self._model.original.run(spec.name, rows)[EMBEDDING]

    def score_labels(self, pictures: Sequence[Image.Image]) -> F32:
        """See `Encoder`; cosines with the embeddings of the labels.

        Raises:
            TensorError: the model has no labels of its own.
        """
        if self._model.label_embeddings is None:
            raise TensorError(f"{self.name} has no labels of its own")
        return np.asarray(self.encode_pictures(pictures) @ self._model.label_embeddings.cpu().numpy().T, np.float32)

    def close(self) -> None:
        """Lets go of the model."""
        self._model.original.close()


class BundleEncoder(Closing):
    """A bundle's shipped file in its target's runtime, a picture at a time as on a device.

    Args:
        bundle: What to run.
    """

    def __init__(self, bundle: Bundle) -> None:
        dim = bundle.manifest.embedding.dim  # which refuses a model that talks
        self._model = BundleModel(bundle)
        self.name = str(bundle.path)
        self.evidence = self._model.session.evidence
        self.precision: str = bundle.manifest.recipe.name
        self.tokenizer = self._model.tokenizer
        self.labels = self._model.labels
        specs = [component.spec for component in bundle.components.values()]
        self._has_logits = any(output.name == LOGITS for spec in specs for output in spec.outputs)
        encodes = encoder(specs, PIXELS) is not None
        self.embedding_dim = dim if encodes else None
        # One that was exported for an app keeps none.
        keeps = encodes and (bundle.path / REFERENCE).exists()
        self.mean_embedding = self._model.mean_embedding if keeps else None

    def encode_pictures(self, pictures: Sequence[Image.Image]) -> F32:
        """See `Encoder`.

        Raises:
            TensorError: the bundle has `classify` alone.
        """
        return self._model.encode_image(pictures)

    def encode_texts(self, texts: Sequence[str]) -> F32:
        """See `Encoder`.

        Raises:
            TensorError: the bundle has no text tower.
        """
        return self._model.encode_text(texts)

    def score_labels(self, pictures: Sequence[Image.Image]) -> F32:
        """See `Encoder`; cosines, or, from `classify` of a bundle until format 1.4, probabilities.

        Raises:
            LabelError: the bundle has no labels baked in.
        """
        return self._model.classify(pictures, scores="cosine" if self._has_logits else None)

    def close(self) -> None:
        """Frees the backend's memory."""
        self._model.close()


def choose_speaker(student: Encoder, teacher: Encoder | None) -> Encoder | None:
    """Who encodes the texts that a student's pictures are compared with; None if nobody can.

    A student without a text tower was trained to put pictures where its teacher puts texts: then it is the teacher,
    which Li et al. (ICCV 2023, arXiv 2307.03135) do with all of their students.
    """
    if student.embedding_dim is None:
        return None
    if student.tokenizer is not None:
        return student
    if teacher is not None and teacher.tokenizer is not None and teacher.embedding_dim == student.embedding_dim:
        return teacher
    return None


def open_encoder(model: str | Path) -> Encoder:
    """A folder with a manifest is a bundle; everything else is what `edgevlm.models.catalogue.load` takes.

    Raises:
        BundleError: the bundle is damaged.
        CheckpointError: there is no such model.
        MissingDependency: the packages that it needs are not installed.
    """
    path = user_path(model)
    if is_bundle(path):
        return BundleEncoder(Bundle.open(path))
    return ModelEncoder(model)
