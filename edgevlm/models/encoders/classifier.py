"""Bakes a label set into a model: the text tower runs once, here, and the device needs none."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgevlm.bundle.dialogue import LOGITS
from edgevlm.bundle.spec import ComponentSpec, TensorSpec
from edgevlm.graphs.program import Program
from edgevlm.inputs.rows import SCORES


class Classifier(nn.Module):
    """Pixels [1, 3, H, W] -> scores and logits [1, L]: cosines with the label embeddings, scaled and moved by the bias.

    Scores are softmax of the logits, or their sigmoid where the model has a bias.
    """

    def __init__(
        self, encode_image: nn.Module, label_embeddings: Tensor, logit_scale: float, logit_bias: float | None
    ) -> None:
        super().__init__()
        self.encode_image, self.by_itself = encode_image, logit_bias is not None
        count, width = label_embeddings.shape
        self.labels = nn.Linear(width, count, bias=self.by_itself)
        self.labels.weight = nn.Parameter(label_embeddings * logit_scale, requires_grad=False)
        if logit_bias is not None:
            self.labels.bias = nn.Parameter(torch.full((count,), logit_bias), requires_grad=False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.labels(self.encode_image(pixels))
        return logits.sigmoid() if self.by_itself else logits.softmax(-1), logits


def classifier_program(
    encode_image: Program, label_embeddings: Tensor, logit_scale: float, logit_bias: float | None
) -> Program:
    """The `classify` component.

    Args:
        encode_image: The model's image tower.
        label_embeddings: float32 [L, D], unit norm, one row a label.
        logit_scale: Factor on the cosine.
        logit_bias: Added to that; None where the model has none.
    """
    shape = (1, len(label_embeddings))
    outputs = (
        TensorSpec(SCORES, "float32", shape, "probability of each label, in their order"),
        TensorSpec(LOGITS, "float32", shape, "scaled cosine with each label, and the bias where there is one"),
    )
    spec = ComponentSpec("classify", encode_image.spec.inputs, outputs)
    module = Classifier(encode_image.module, label_embeddings, logit_scale, logit_bias).eval()
    return Program(spec, module, encode_image.example)
