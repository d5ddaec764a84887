"""The op that makes a classifier's outputs."""

from __future__ import annotations

import torch

from edgevlm.errors import BundleError
from edgevlm.runtimes.mlprogram.ops.registry import Classes, Tensor, Values, op


@op("classify")
def classify(probabilities: Tensor, classes: Classes) -> Values:
    shares = probabilities.reshape(-1).tolist()
    if len(shares) != len(classes) or not classes or len(set(classes)) != len(classes):
        raise BundleError(
            f"{len(set(classes))} different classes and {len(shares)} probabilities", hint="convert the model again"
        )
    best = classes[max(range(len(shares)), key=shares.__getitem__)]
    label = best if isinstance(best, str) else torch.tensor(best)
    return label, dict(zip(classes, shares, strict=True))
