"""Builds towers from their configs, and counts what they cost."""

from __future__ import annotations

import torch
from torch import nn

from edgevlm.bundle.spec import TextPreprocessing
from edgevlm.errors import CheckpointError
from edgevlm.graphs.outline import outline_of
from edgevlm.models.students import grid, hybrid, vit
from edgevlm.models.students.config import Cost, GridConfig, HybridConfig, ImageTowerConfig, TextTowerConfig, VitConfig
from edgevlm.models.students.reparameterised import fuse
from edgevlm.models.students.text_tower import TextTower


def build_image_tower(config: ImageTowerConfig, embedding_dim: int) -> nn.Module:
    """A tower in its training form, with fresh weights from torch's own random numbers, in training mode.

    It takes float32 pixels [N, 3, S, S] in 0..255 with S = `config.image_size`, normalises them to -1..1 itself, and
    returns unit vectors, float32 [N, embedding_dim].
    """
    match config:
        case VitConfig():
            return vit.ImageTower(config, embedding_dim)
        case HybridConfig():
            return hybrid.ImageTower(config, embedding_dim)
        case GridConfig():
            return grid.ImageTower(config, embedding_dim)


def build_text_tower(config: TextTowerConfig, text: TextPreprocessing, embedding_dim: int) -> TextTower:
    """A small text tower with fresh weights: int32 [N, T] -> unit vectors, float32 [N, embedding_dim].

    Args:
        config: Its sizes.
        text: The tokenizer's rules: T is at most its `context_length`, and a text's embedding is read at `eot_id`.
        embedding_dim: Length of an embedding.

    Raises:
        CheckpointError: the tokenizer ends its texts with no id of its own.
    """
    if text.eot_id is None:
        raise CheckpointError("a small text tower needs a tokenizer that ends its texts, got one without an eot_id")
    return TextTower(config, text.context_length, text.eot_id, embedding_dim)


def parameters(module: nn.Module) -> int:
    """Number of weights."""
    return sum(parameter.numel() for parameter in module.parameters())


def multiply_adds(tower: nn.Module, image_size: int) -> int:
    """Multiplications with addition that one picture takes: those of convolutions and matrix products."""
    pixels = torch.zeros(1, 3, image_size, image_size, device=next(tower.parameters()).device)
    with torch.no_grad():
        return outline_of(tower, (pixels,)).multiply_adds


def cost(config: ImageTowerConfig, embedding_dim: int) -> Cost:
    """Counted on shapes alone, without weights."""
    with torch.device("meta"):
        tower = fuse(build_image_tower(config, embedding_dim))
        return Cost(parameters(tower), multiply_adds(tower, config.image_size))
