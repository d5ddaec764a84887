"""A student as it is trained: both towers and the factor on their cosines."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class DualEncoder(nn.Module):
    """Pixels and token ids -> embeddings of one space, and the factor on their cosine before softmax.

    Args:
        image: Pixels float32 [B, 3, H, W] -> unit vectors [B, D].
        text: Token ids int32 [B, T] -> unit vectors [B, D]; None where no text tower is trained.
        logit_scale: What the factor starts with; its logarithm is trained.
    """

    def __init__(self, image: nn.Module, text: nn.Module | None, logit_scale: float) -> None:
        super().__init__()
        self.image = image
        self.text = text
        self.log_scale = nn.Parameter(torch.tensor(math.log(logit_scale)))

    def forward(self, pixels: Tensor, token_ids: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor]:
        images = self.image(pixels.float()).float()
        texts = None if self.text is None or token_ids is None else self.text(token_ids).float()
        return images, texts, self.log_scale.exp()
