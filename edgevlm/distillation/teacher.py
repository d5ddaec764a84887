"""The teacher: one loaded model, or several that speak as one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from edgevlm.bundle.spec import F32
from edgevlm.errors import UnsupportedError
from edgevlm.inputs.labels import check_lengths
from edgevlm.inputs.pictures import resize_and_crop
from edgevlm.inputs.texts import Tokenizer
from edgevlm.models import catalogue

_PICTURES_AT_ONCE, _TEXTS_AT_ONCE = 32, 128


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
        self.device = device
        self.models = tuple(catalogue.load(name) for name in names)
        self._tokenizers = []
        for name, model in zip(self.names, self.models, strict=True):
            if model.text is None or model.tokenizer_json is None:
                raise UnsupportedError(
                    f"{name} has no text tower, so it cannot teach",
                    hint="give the dual encoder that it was distilled from",
                )
            model.network.to(device)
            self._tokenizers.append(Tokenizer.from_bytes(model.text, model.tokenizer_json))
        self.dim = sum(model.embedding_dim for model in self.models)
        self.fingerprint = hashlib.sha256("".join(map(catalogue.fingerprint, names)).encode()).hexdigest()
        self.logit_scale = float(np.exp(np.mean([np.log(model.logit_scale) for model in self.models])))

    def check_labels(self, names: Sequence[str], texts: Sequence[Sequence[str]]) -> None:
        """Raises LabelError where a label's text has more tokens than a member's context."""
        for tokenizer in self._tokenizers:
            check_lengths(names, texts, tokenizer)

    def embed_pictures(self, pictures: Sequence[Image.Image]) -> F32:
        """RGB pictures of any sizes -> unit vectors, float32 [N, dim]."""
        parts = []
        for model in self.models:
            pixels = np.stack([resize_and_crop(picture, model.image) for picture in pictures])
            planes = torch.from_numpy(pixels).permute(0, 3, 1, 2)
            parts.append(self._ask(model.reference["encode_image"], planes, _PICTURES_AT_ONCE, torch.float32))
        return self._side_by_side(parts)

    def embed_texts(self, texts: Sequence[str]) -> F32:
        """Texts -> unit vectors, float32 [N, dim]."""
        parts = []
        for model, tokenizer in zip(self.models, self._tokenizers, strict=True):
            ids = torch.from_numpy(tokenizer.encode(texts))
            parts.append(self._ask(model.reference["encode_text"], ids, _TEXTS_AT_ONCE, torch.int32))
        return self._side_by_side(parts)

    @torch.no_grad()
    def _ask(self, encode: object, rows: torch.Tensor, at_once: int, dtype: torch.dtype) -> F32:
        answers = [encode(part.to(self.device, dtype)).float().cpu() for part in torch.split(rows, at_once)]  # type: ignore[operator]
        embeddings: F32 = torch.cat(answers).numpy()
        return embeddings

    def _side_by_side(self, parts: list[F32]) -> F32:
        return np.concatenate(parts, 1) / np.float32(len(parts) ** 0.5)


def average_texts(teacher: Teacher, texts: Sequence[Sequence[str]]) -> F32:
    """One unit vector for each class: the mean of its texts' embeddings, of length one again, float32 [L, dim]."""
    flat = [text for several in texts for text in several]
    embeddings = teacher.embed_texts(flat)
    ends = np.cumsum([len(several) for several in texts])[:-1]
    means = np.stack([part.mean(0) for part in np.split(embeddings, ends)])
    return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True), np.float32)
