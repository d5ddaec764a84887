"""The networks that are measured, with random weights: neither time nor memory depends on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class VisionTower(nn.Module):
    """CLIP ViT-B/32's vision tower: [1, 3, 224, 224] to a unit-norm embedding [1, 512]."""

    def __init__(self) -> None:
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        super().__init__()
        self.model = CLIPVisionModelWithProjection(CLIPVisionConfig(projection_dim=512))

    def forward(self, image: Tensor) -> Tensor:
        embedding: Tensor = self.model(image).image_embeds
        return nn.functional.normalize(embedding, dim=-1)


class MobileNet(nn.Module):
    """MobileNetV2 of width 1: [1, 3, 224, 224] to [1, 1280]."""

    def __init__(self) -> None:
        from transformers import MobileNetV2Config, MobileNetV2Model

        super().__init__()
        self.model = MobileNetV2Model(MobileNetV2Config())

    def forward(self, image: Tensor) -> Tensor:
        pooled: Tensor = self.model(image).pooler_output
        return pooled


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {"ViT-B/32 vision": VisionTower, "MobileNetV2": MobileNet}
IMAGE_SHAPE = (1, 3, 224, 224)


def write_package(network: nn.Module, path: Path, *, precision: str) -> Path:
    """Converts a network to an ML Program.

    Args:
        precision: `fp32` or `fp16`.

    Returns:
        `path`.
    """
    import coremltools as ct  # type: ignore[import-untyped]

    program = torch.export.export(network, (torch.zeros(IMAGE_SHAPE),), strict=False).run_decompositions({})
    model: Any = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS16,
        compute_precision=ct.precision.FLOAT32 if precision == "fp32" else ct.precision.FLOAT16,
        skip_model_load=True,
    )
    model.save(str(path))
    return path
