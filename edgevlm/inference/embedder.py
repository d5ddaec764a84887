"""An open bundle that takes pictures and texts as they come, and gives arrays."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.spec import F32
from edgevlm.bundle.tensors import refuse_large_header
from edgevlm.errors import BundleError, LabelError, TensorError
from edgevlm.inference.embeddings import average, label_scores
from edgevlm.inputs.labels import check
from edgevlm.inputs.pictures import Picture, preprocess
from edgevlm.inputs.sequences import listed_pictures, listed_texts
from edgevlm.inputs.texts import Tokenizer
from edgevlm.targets import registry
from edgevlm.targets.isolation import tokenizer_of
from edgevlm.targets.runtime import Closing, Session


class BundleModel(Closing):
    """An open bundle: pictures and texts in, embeddings and scores out. A context manager.

    >>> with edgevlm.open("dist/edgevlm-student-coreml-fp16.edgevlm") as model:
    ...     scores = model.classify(["examples/pictures/yellow-star.png"], ["a yellow star", "a red circle"])
    >>> scores.shape
    (1, 2)

    Args:
        bundle: What to run.
        threads: CPU threads of the backend; its own default where None.
        session: What runs its components; where None, its target's runtime opens one, in a process of its own unless
            the bundle was made on this machine or is `trusted` (`edgevlm.open` says more).
        tokenizer: What makes token ids of texts; the bundle's own where None.
        trusted: Whether the bundle may run in this process wherever it was made.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        session: Session | None = None,
        tokenizer: Tokenizer | None = None,
        trusted: bool = False,
    ) -> None:
        self.bundle = bundle
        if session is None:
            session = registry.runtime_of(bundle, trusted=trusted).open(bundle, threads=threads)
        if tokenizer is None:
            try:
                tokenizer = tokenizer_of(bundle, session)
            except BaseException:
                session.close()
                raise
        self.tokenizer, self.session = tokenizer, session

    @property
    def labels(self) -> tuple[str, ...]:
        """The baked labels, in the order of their scores; empty where none are baked."""
        return self.bundle.manifest.labels.names if self.bundle.manifest.labels else ()

    @cached_property
    def mean_embedding(self) -> F32:
        """The mean embedding of the bundle's 200 sample pictures, float32 [D]: what binary codes may be made with.

        >>> with edgevlm.open("dist/edgevlm-student-coreml-fp16.edgevlm") as model:
        ...     pictures = model.encode_image(["examples/pictures/yellow-star.png"])
        >>> from edgevlm.inference import codes
        >>> binary = codes.to_binary(pictures, model.mean_embedding)

        The rows of the tensor `encode_image.embedding` in golden/reference.safetensors, averaged in float64. They are
        rendered scenes: where the pictures of an index are others, such as photographs, the mean of some of these is
        the better one.

        Raises:
            TensorError: the bundle has no `encode_image`.
        """
        from safetensors.numpy import load_file

        if "encode_image" not in self.bundle.components:
            raise TensorError(
                "this bundle has no encode_image, so it has no embeddings", hint="convert without --image-only"
            )
        path = self.bundle.path / "golden" / "reference.safetensors"
        refuse_large_header(path, error=BundleError)
        tensors = load_file(path)
        rows = tensors.get("encode_image.embedding", tensors.get("image"))  # its name up to format 1.2
        if rows is None:
            raise BundleError(f"{self.bundle.path}: golden/reference.safetensors has no encode_image.embedding")
        return np.asarray(rows.mean(0, dtype=np.float64), np.float32)

    def encode_image(self, images: Sequence[Picture]) -> F32:
        """Embeddings of pictures.

        >>> with edgevlm.open("dist/edgevlm-student-coreml-fp16.edgevlm") as model:
        ...     embeddings = model.encode_image(["examples/pictures/yellow-star.png", PIL.Image.new("RGB", (640, 480))])
        >>> embeddings.shape == (2, model.bundle.manifest.embedding_dim)
        True

        Args:
            images: Paths, PIL images, encoded bytes or uint8 [H, W, 3] arrays; N of them, in a sequence.

        Returns:
            float32 [N, D], unit norm.

        Raises:
            InputError: one picture in place of a sequence.
            ImageError: a picture cannot be decoded.
            TensorError: the bundle has no `encode_image`.
        """
        rules, pictures = self.bundle.manifest.image, listed_pictures(images)
        rows = [self._run("encode_image", "pixels", preprocess(picture, rules)) for picture in pictures]
        return np.stack(rows) if rows else np.zeros((0, self.bundle.manifest.embedding_dim), np.float32)

    def encode_text(self, texts: Sequence[str]) -> F32:
        """Embeddings of texts, float32 [N, D], unit norm.

        >>> with edgevlm.open("dist/edgevlm-student-coreml-fp16.edgevlm") as model:
        ...     pictures = model.encode_image(["examples/pictures/yellow-star.png"])
        ...     cosines = pictures @ model.encode_text(["a yellow star", "a red circle"]).T
        >>> cosines.shape
        (1, 2)

        Raises:
            TensorError: the bundle has no text tower.
        """
        if self.tokenizer is None:
            raise TensorError(
                "this bundle has no text tower, so it cannot encode texts",
                hint=f"ask about its {len(self.labels)} baked labels: leave yours out"
                if self.labels
                else "convert a model that has one, without --image-only",
            )
        ids = self.tokenizer.encode(texts)
        rows = [self._run("encode_text", "token_ids", row[None]) for row in ids]
        return np.stack(rows) if rows else np.zeros((0, self.bundle.manifest.embedding_dim), np.float32)

    def classify(self, images: Sequence[Picture], labels: Sequence[str | Sequence[str]] | None = None) -> F32:
        """How well each label describes each picture.

        >>> with edgevlm.open("dist/edgevlm-student-coreml-fp16.edgevlm") as model:
        ...     scores = model.classify(["examples/pictures/yellow-star.png"], ["a yellow star", "a red circle"])
        >>> bool(abs(scores.sum(1) - 1).max() < 1e-5)
        True

        Args:
            images: N pictures, see `encode_image`.
            labels: L texts, or several texts in place of one, whose embeddings are averaged; None for the baked labels.
                Some of these by name, where there is no text tower.

        Returns:
            float32 [N, L]; each row sums to 1: softmax of the scaled cosines.

        Raises:
            LabelError: no labels given and none baked in; a label without a text, or with one that the model would
                cut; or two that become the same token ids.
            InputError: one picture or one label in place of a sequence.
        """
        if labels is None:
            if not self.labels:
                raise LabelError("expected labels: this bundle has none baked in")
            rules, pictures = self.bundle.manifest.image, listed_pictures(images)
            rows = [self._run("classify", "pixels", preprocess(picture, rules)) for picture in pictures]
            return np.stack(rows) if rows else np.zeros((0, len(self.labels)), np.float32)
        labels = listed_texts(labels, "labels")
        if not labels:
            raise LabelError("expected at least one label, got none")
        if self.tokenizer is None and all(label in self.labels for label in labels):
            scores = self.classify(images)[:, [self.labels.index(str(label)) for label in labels]]
            return np.asarray(scores / scores.sum(1, keepdims=True), np.float32)  # a softmax over these alone
        return label_scores(self.encode_image(images), self._embed_labels(labels), self.bundle.manifest.logit_scale)

    def _embed_labels(self, labels: Sequence[str | Sequence[str]]) -> F32:
        several = [(label,) if isinstance(label, str) else tuple(listed_texts(label)) for label in labels]
        if not all(several):
            raise LabelError(f"label {several.index(())}: expected at least one text, got none")
        if self.tokenizer is not None:
            check([texts[0] for texts in several], several, self.tokenizer)
        embeddings = self.encode_text([text for texts in several for text in texts])
        return average(embeddings, [len(texts) for texts in several])

    def close(self) -> None:
        """Frees the backend's memory."""
        self.session.close()

    def _run(self, component: str, name: str, value: NDArray[np.float32] | NDArray[np.int32]) -> F32:
        (answer,) = self.session.run(component, {name: value}).values()
        row: F32 = answer[0]
        return row
