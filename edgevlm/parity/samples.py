"""The pictures and texts that both sides are asked about."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from edgevlm.bundle.golden import SIDE
from edgevlm.data.captions import caption
from edgevlm.data.scenes import Scenes

SAMPLES = 200
TEXTS = 50
_SEED = 20_260_101
_EXIF_ORIENTATION = 0x0112


def sample_texts() -> tuple[str, ...]:
    """`TEXTS` different descriptions of scenes."""
    scenes = Scenes(_SEED, "combinations").batch(SAMPLES, 4 * TEXTS).scenes
    return tuple(dict.fromkeys(caption(scene) for scene in scenes))[:TEXTS]


def sample_pictures() -> NDArray[np.uint8]:
    """`SAMPLES` rendered scenes, uint8 [N, 64, 64, 3]."""
    return Scenes(_SEED, "combinations", SIDE).batch(0, SAMPLES).pixels


def golden_pictures() -> dict[str, tuple[Image.Image, str]]:
    """File name -> picture and what is awkward about it. The JPEG decodes alike to a few grey levels only."""
    drawn = [Image.fromarray(pixels) for pixels in Scenes(_SEED, size=160).batch(0, 4).pixels]
    turned = ImageOps.expand(drawn[1], (0, 0, 60, 0), fill=(90, 120, 60))
    exif = turned.getexif()
    exif[_EXIF_ORIENTATION] = 6
    transparent = drawn[3].convert("RGBA")
    ramp = np.tile(np.linspace(0, 255, 160, dtype=np.uint8), (160, 1))
    transparent.putalpha(Image.fromarray(ramp))
    return {
        "wide.png": (drawn[0].crop((0, 30, 160, 127)), "non-square"),
        "turned.jpg": (turned, "EXIF orientation 6, JPEG: decoders differ by a few grey levels"),
        "grey.png": (drawn[2].convert("L"), "8-bit grey"),
        "alpha.png": (transparent, "RGBA: composed over white"),
    }
