"""A dataset's pictures: decoded, and of a shape that every model can take."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from edgevlm.errors import ImageError
from edgevlm.inputs.pictures import decode

NARROWEST = 200
"""How many times as long as wide a picture may be. Models scale the shorter side, some to several hundred pixels."""


def read_picture(source: Path | bytes) -> Image.Image:
    """A picture of a file, upright and in RGB.

    Raises:
        ImageError: it cannot be decoded, or is a strip.
    """
    picture = decode(source)
    short, long = sorted(picture.size)
    if long > NARROWEST * short:
        name = f"{source}: " if isinstance(source, Path) else ""
        raise ImageError(
            f"{name}a strip of {picture.height} x {picture.width} pixels: expected a picture at most {NARROWEST} times "
            "as long as wide",
            hint="crop the picture first",
        )
    return picture
