"""Rows: what components are asked about, stacked by the names of their input tensors.

A component takes `pixels`, float32 [1, 3, H, W], or `token_ids`, int32 [1, L]; whoever asks about many pictures and
texts keeps them as `{"pixels": [N, 3, H, W], "token_ids": [M, L]}`, and no component has to be named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from edgevlm.bundle.spec import Array, ComponentSpec, ImagePreprocessing
from edgevlm.inputs.pictures import Picture, preprocess
from edgevlm.inputs.texts import Tokenizer

PIXELS, TOKEN_IDS = "pixels", "token_ids"
EMBEDDING, SCORES = "embedding", "scores"
"""What components answer to them: a unit vector of the space that pictures and texts share, and how well labels fit."""

Rows: TypeAlias = Mapping[str, Array]


def make_rows(
    pictures: Iterable[Picture], texts: Sequence[str], image: ImagePreprocessing, tokenizer: Tokenizer | None
) -> dict[str, Array]:
    """Pictures and texts, prepared as a model prepares its input.

    Args:
        pictures: N of them, each read when its turn comes.
        texts: M of them.
        image: How a picture becomes pixels.
        tokenizer: None where no component takes texts.

    Returns:
        `pixels`, float32 [N, 3, H, W], and `token_ids`, int32 [M, L]; each only where there is something for it.

    Raises:
        ImageError: a picture cannot be read.
    """
    rows: dict[str, Array] = {}
    pixels = [preprocess(picture, image) for picture in pictures]
    if pixels:
        rows[PIXELS] = np.concatenate(pixels)
    if tokenizer is not None and texts:
        rows[TOKEN_IDS] = tokenizer.encode(texts)
    return rows


def is_answerable(spec: ComponentSpec, rows: Rows) -> bool:
    """Whether there are rows for every input of the component."""
    return all(tensor.name in rows for tensor in spec.inputs)


def inputs_of(spec: ComponentSpec, rows: Rows) -> dict[str, Array]:
    """The rows that the component takes, [N, ...] each."""
    return {tensor.name: rows[tensor.name] for tensor in spec.inputs}


def takes(spec: ComponentSpec, name: str) -> bool:
    """Whether the component has an input of that name."""
    return any(tensor.name == name for tensor in spec.inputs)


def embeds(spec: ComponentSpec) -> bool:
    """Whether the component answers with an embedding."""
    return any(tensor.name == EMBEDDING for tensor in spec.outputs)


def encoder(specs: Iterable[ComponentSpec], taken: str) -> ComponentSpec | None:
    """The component that makes an embedding of what it takes; None where there is none.

    Args:
        specs: Of a model's components.
        taken: `PIXELS` or `TOKEN_IDS`.
    """
    return next((spec for spec in specs if takes(spec, taken) and embeds(spec)), None)
