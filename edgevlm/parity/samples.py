"""The pictures and texts that both sides are asked about."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from edgevlm.bundle.golden import SIDE
from edgevlm.data.captions import caption
from edgevlm.data.scenes import Scenes
from edgevlm.parity.icc import display_p3

SAMPLES = 200
TEXTS = 50
_SEED = 20_260_101
_EXIF_ORIENTATION = 0x0112
_PLAIN_TEXTS = 4


def sample_texts() -> tuple[str, ...]:
    """`TEXTS` different descriptions of scenes."""
    scenes = Scenes(_SEED, "combinations").batch(SAMPLES, 4 * TEXTS).scenes
    return tuple(dict.fromkeys(caption(scene) for scene in scenes))[:TEXTS]


def golden_texts() -> tuple[str, ...]:
    """Four descriptions, and texts that an app's own reading of them gets wrong first.

    Capitals, an apostrophe, digits, accents, letters outside of the first 65,536, blanks that come twice or last, no
    text at all, and one that no context holds.
    """
    plain = sample_texts()[:_PLAIN_TEXTS]
    return (
        *plain,
        *("A Photo of a CAT", "it's two o'clock", "room 101, 3rd floor", "crème brûlée", "a 🚗 in 北京"),
        *("two  blanks, and one last ", "", " ".join(plain * 40)),
    )


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
    across, down = np.meshgrid(*2 * [ramp[0]])
    wide_gamut = Image.fromarray(np.stack([across, down, 255 - across], -1))
    wide_gamut.info["icc_profile"] = display_p3()
    return {
        "wide.png": (drawn[0].crop((0, 30, 160, 127)), "non-square"),
        "turned.jpg": (turned, "EXIF orientation 6, JPEG: decoders differ by a few grey levels"),
        "grey.png": (drawn[2].convert("L"), "8-bit grey"),
        "alpha.png": (transparent, "RGBA: composed over white"),
        "p3.png": (wide_gamut, "Display P3 profile: the stored values count, and are not turned into sRGB"),
    }
