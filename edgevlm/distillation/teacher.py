"""The teacher: one loaded model, or several that speak as one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from edgevlm.bundle.spec import F32
from edgevlm.errors import UnsupportedError
from edgevlm.inference.embeddings import average
from edgevlm.inputs.labels import check
from edgevlm.inputs.rows import TOKEN_IDS, make_rows
from edgevlm.models import catalogue


class Teacher:
    """A frozen float32 model, or an ensemble of them.

    The embeddings of an ensemble are its members' side by side, divided by the square root of their number: the
    cosine of two is the mean of the members' cosines.

    Args:
        names: What `edgevlm.models.catalogue.load` takes; at least one.
        device: Where it runs, such as `cpu` or `cuda:0`.

    Attributes:
        names, models: As given, and loaded.
        dim: Length of an embedding.
        fingerprint: Hash of the members' files.
        logit_scale: Factor on the cosine that it was trained with; the geometric mean of an ensemble's.
    """

    def __init__(self, names: Sequence[str | Path], *, device: str = "cpu") -> None:
        self.names = tuple(str(name) for name in names)
        self.models = tuple(catalogue.load(name) for name in names)
        self._tokenizers = []
        for name, model in zip(self.names, self.models, strict=True):
            if model.tokenizer is None:
                raise UnsupportedError(
                    f"{name} has no text tower, so it cannot teach",
                    hint="give the dual encoder that it was distilled from",
                )
            model.original.to(device)
            self._tokenizers.append(model.tokenizer)
        self.dim = sum(model.embedding_dim for model in self.models)
        self.fingerprint = hashlib.sha256("".join(map(catalogue.fingerprint, names)).encode()).hexdigest()
        self.logit_scale = float(np.exp(np.mean([np.log(model.logit_scale) for model in self.models])))

    def check_labels(self, names: Sequence[str], texts: Sequence[Sequence[str]]) -> None:
        """Raises LabelError where a label has more tokens than a member's context, or is the same as another to all."""
        check(names, texts, *self._tokenizers)

    def embed_pictures(self, pictures: Sequence[Image.Image]) -> F32:
        """RGB pictures of any sizes -> unit vectors, float32 [N, dim]."""
        return self._side_by_side(
            model.original.run("encode_image", make_rows(pictures, (), model.image, None))["embedding"]
            for model in self.models
        )

    def embed_texts(self, texts: Sequence[str]) -> F32:
        """Texts -> unit vectors, float32 [N, dim]."""
        return self._side_by_side(
            model.original.run("encode_text", {TOKEN_IDS: tokenizer.encode(texts)})["embedding"]
            for model, tokenizer in zip(self.models, self._tokenizers, strict=True)
        )

    def _side_by_side(self, members: Iterable[F32]) -> F32:
        parts = list(members)
        return np.concatenate(parts, 1) / np.float32(len(parts) ** 0.5)


def average_texts(teacher: Teacher, texts: Sequence[Sequence[str]]) -> F32:
    """One unit vector for each class: its texts' embeddings averaged, float32 [L, dim]."""
    embeddings = teacher.embed_texts([text for several in texts for text in several])
    return average(embeddings, [len(several) for several in texts])
