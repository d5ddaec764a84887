"""What an index on a device keeps of float32 search when its embeddings are stored as `edgevlm.inference.codes`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.spec import F32
from edgevlm.errors import DataError
from edgevlm.evaluation.retrieval import CUTS
from edgevlm.inference import codes

NEIGHBOURS = 10
SHORTLIST = 4
"""How many times as many as are wanted binary codes find, for int8 codes to choose from."""

Search = Callable[[F32, int], NDArray[np.int64]]


@dataclass(frozen=True)
class Form:
    """One way to store embeddings, and to search in them.

    Attributes:
        name: `float32`, `int8`, `binary`, `binary, Hamming distance` or `binary, then int8`. Queries are in float32
            except for the Hamming distance.
        embedding_bytes: What a picture takes.
        kept_nearest: Share of the pictures whose nearest other picture is the one that float32 search finds.
        kept_neighbours: Share of the k nearest others of each picture that float32 search finds, too.
        text_to_image: Share of the different captions with a picture of theirs among the first 1, 5 and 10 of all
            pictures; None where there are no captions or no text tower.
    """

    name: str
    embedding_bytes: int
    kept_nearest: float
    kept_neighbours: float
    text_to_image: tuple[float, float, float] | None


@dataclass(frozen=True)
class Index:
    """What was measured.

    Attributes:
        pictures: In the index; the more there are, the less is kept.
        neighbours_k: k of `Form.kept_neighbours`.
        mean_of: Whose mean embedding binary codes are made with: the `bundle`'s own, or the `pictures`' here.
        forms: float32 first.
    """

    pictures: int
    neighbours_k: int
    mean_of: Literal["bundle", "pictures"]
    forms: tuple[Form, ...]


def measure(images: F32, mean: F32 | None, texts: F32 | None, captions: Sequence[Sequence[int]]) -> Index:
    """Stores the pictures in every form, and looks for each picture and each text.

    Args:
        images: float32 [N, D], unit norm.
        mean: The bundle's `mean_embedding`, float32 [D]; the mean of the pictures if None.
        texts: float32 [T, D], unit norm, each different caption once; None where there are none.
        captions: For each picture, the indices of its captions.

    Raises:
        DataError: there is only one picture.
    """
    if len(images) < 2:
        raise DataError(f"an index is measured on at least two pictures, got {len(images)}")
    own = images.mean(0, dtype=np.float64).astype(np.float32)
    k = min(NEIGHBOURS, len(images) - 1)
    searches = _forms(images, own if mean is None else mean)
    exact = _neighbours(searches["float32"][1], images, k)
    forms = []
    for name, (embedding_bytes, search) in searches.items():
        got = _neighbours(search, images, k)
        forms.append(
            Form(
                name=name,
                embedding_bytes=embedding_bytes,
                kept_nearest=float((exact[:, 0] == got[:, 0]).mean()),
                kept_neighbours=float((exact[:, :, None] == got[:, None]).any(2).mean()),
                text_to_image=None if texts is None else _recall(search, texts, captions),
            )
        )
    return Index(len(images), k, "pictures" if mean is None else "bundle", tuple(forms))


def _forms(images: F32, mean: F32) -> Mapping[str, tuple[int, Search]]:
    """Bytes of a picture, and how to search."""
    int8, binary = codes.to_int8(images), codes.to_binary(images, mean)

    def search_both(queries: F32, k: int) -> NDArray[np.int64]:
        near = codes.search(queries, binary, SHORTLIST * k, mean=mean)
        return codes.search(queries, int8, k, among=near.places).places

    def search_by_distance(queries: F32, k: int) -> NDArray[np.int64]:
        return codes.search(codes.to_binary(queries, mean), binary, k).places

    float32_bytes, int8_bytes, binary_bytes = (form[0].nbytes for form in (images, int8, binary))
    return {
        "float32": (float32_bytes, lambda queries, k: codes.search(queries, images, k).places),
        "int8": (int8_bytes, lambda queries, k: codes.search(queries, int8, k).places),
        "binary, then int8": (binary_bytes + int8_bytes, search_both),
        "binary": (binary_bytes, lambda queries, k: codes.search(queries, binary, k, mean=mean).places),
        "binary, Hamming distance": (binary_bytes, search_by_distance),
    }


def _neighbours(search: Search, images: F32, k: int) -> NDArray[np.int64]:
    """The k best others of each picture."""
    places = search(images, k + 1)
    itself = places == np.arange(len(images))[:, None]
    return np.take_along_axis(places, np.argsort(itself, axis=1, kind="stable"), 1)[:, :k]


def _recall(search: Search, texts: F32, captions: Sequence[Sequence[int]]) -> tuple[float, float, float]:
    right: list[list[int]] = [[] for _ in texts]
    for picture, own in enumerate(captions):
        for text in own:
            right[text].append(picture)
    hits = np.array([np.isin(row, own) for row, own in zip(search(texts, CUTS[-1]), right, strict=True)])
    one, five, ten = (float(hits[:, :cut].any(1).mean()) for cut in CUTS)
    return one, five, ten
