"""Bakes a label set into a model: the text tower runs once, here, and the device needs none."""

from __future__ import annotations

from torch import Tensor, nn

from edgevlm.bundle.spec import ComponentSpec, TensorSpec
from edgevlm.graphs.program import Program


class Classifier(nn.Module):
    """Pixels [1, 3, H, W] -> scores [1, L]: softmax of the scaled cosines with the label embeddings."""

    def __init__(self, encode_image: nn.Module, label_embeddings: Tensor, logit_scale: float) -> None:
        super().__init__()
        self.encode_image = encode_image
        self.labels = nn.Linear(label_embeddings.shape[1], label_embeddings.shape[0], bias=False)
        self.labels.weight = nn.Parameter(label_embeddings * logit_scale, requires_grad=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.labels(self.encode_image(pixels)).softmax(-1)  # type: ignore[no-any-return]


def classifier_program(encode_image: Program, label_embeddings: Tensor, logit_scale: float) -> Program:
    """The `classify` component.

    Args:
        encode_image: The model's image tower.
        label_embeddings: float32 [L, D], unit norm, one row a label.
        logit_scale: Factor on the cosine before softmax.
    """
    scores = TensorSpec("scores", "float32", (1, len(label_embeddings)), "probability of each label, in their order")
    spec = ComponentSpec("classify", encode_image.spec.inputs, (scores,))
    return Program(spec, Classifier(encode_image.module, label_embeddings, logit_scale).eval(), encode_image.example)
