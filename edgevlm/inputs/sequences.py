"""Several things that may have come as one: a text is a sequence of letters, and an array one of its rows.

Whatever takes N pictures, texts or labels asks here first, so that one of them is refused everywhere alike.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
from PIL import Image

from edgevlm.errors import InputError
from edgevlm.inputs.pictures import Picture

_ONE_PICTURE = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)
_PICTURES_AXES = 4


def listed_pictures(given: Iterable[Picture]) -> list[Picture]:
    """The pictures in their order; an array uint8 [N, H, W, 3] holds N.

    >>> listed_pictures(["a.png", "b.png"])
    ['a.png', 'b.png']

    Raises:
        InputError: one picture in place of several, or nothing to go through in order.
    """
    if isinstance(given, _ONE_PICTURE) or (isinstance(given, np.ndarray) and given.ndim != _PICTURES_AXES):
        shape = f" of shape {list(given.shape)}" if isinstance(given, np.ndarray) else ""
        raise InputError(
            f"expected a sequence of pictures, got one {type(given).__name__}{shape}",
            hint="put it in a list: [picture]",
        )
    return _in_order(given, "pictures")


def one_picture(given: Picture) -> Picture:
    """The picture that a dialogue is about.

    Raises:
        InputError: several of them.
    """
    if isinstance(given, Sequence) and not isinstance(given, _ONE_PICTURE):
        raise InputError(
            f"expected one picture at most, which is all that a dialogue shows, got {type(given).__name__} of "
            f"{len(given)}",
            hint="ask about each by itself" if len(given) > 1 else "give the picture itself, or None to show none",
        )
    return given


def listed_texts(given: Iterable[Any], what: str = "texts") -> list[Any]:
    """The texts, or whatever each stands for several texts, in their order.

    Args:
        given: They.
        what: What they are called in errors.

    Raises:
        InputError: one text in place of several, or nothing to go through in order.
    """
    if isinstance(given, str | bytes):
        raise InputError(
            f"expected a sequence of {what}, got one text: {given!r}", hint=f"put it in a list: [{given!r}]"
        )
    return _in_order(given, what)


def _in_order(given: Iterable[Any], what: str) -> list[Any]:
    if isinstance(given, Set | Mapping):
        raise InputError(
            f"expected {what} in an order, got a {type(given).__name__}, so no answer could be told from another",
            hint="give a list",
        )
    try:
        return list(given)
    except TypeError:
        raise InputError(f"expected a sequence of {what}, got {type(given).__name__}") from None
