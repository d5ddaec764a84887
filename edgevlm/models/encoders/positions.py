"""Where each patch of a picture lies: learned positions, interpolated once where the picture has another size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgevlm.bundle.spec import ImagePreprocessing


def image_positions(embeddings: Any, image: ImagePreprocessing, *, extra: int) -> Tensor:
    """The position embeddings for pictures of the preprocessing's size.

    For the size that the network was trained with they are the learned ones; for another they are interpolated,
    bicubic, as transformers does with `interpolate_pos_encoding=True`.

    Args:
        embeddings: transformers' `CLIPVisionEmbeddings` or `SiglipVisionEmbeddings`.
        image: Its `height` and `width` in pixels; a remainder that fills no patch is not looked at.
        extra: Number of tokens besides the patches: 1 where there is a class token.

    Returns:
        float32 [1, extra + patches, C]
    """
    size = embeddings.patch_size
    patches = (image.height // size) * (image.width // size)
    # Only the shape of the tokens is read, so that none need to be computed.
    tokens = torch.empty(1, extra + patches, embeddings.embed_dim, device="meta")
    with torch.no_grad():
        return embeddings.interpolate_pos_encoding(tokens, image.height, image.width).contiguous()  # type: ignore[no-any-return]
