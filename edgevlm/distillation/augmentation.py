"""Random views of a picture, drawn from the picture's own number, so that a view can be made again at any time."""

from __future__ import annotations

import random

from PIL import Image, ImageEnhance, ImageOps

from edgevlm.distillation.recipe import Augmentation


def view(image: Image.Image, how: Augmentation, draws: random.Random) -> Image.Image:
    """One random view: a square crop, perhaps mirrored, with other brightness, contrast and saturation.

    Args:
        image: RGB, of any size.
        how: The ranges.
        draws: Where the numbers come from; the same state gives the same view.

    Returns:
        RGB, square, not resized.
    """
    scale = draws.uniform(*how.crop_scale)
    side = max(1, round(scale**0.5 * min(image.size)))
    left, top = draws.randint(0, image.width - side), draws.randint(0, image.height - side)
    image = image.crop((left, top, left + side, top + side))
    if draws.random() < how.mirror:
        image = ImageOps.mirror(image)
    if how.jitter:
        for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = enhancer(image).enhance(draws.uniform(1 - how.jitter, 1 + how.jitter))
    return image
