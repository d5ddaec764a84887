"""The format: what ships.

Everything that a bundle's `manifest.json` says is here as frozen dataclasses, and `Bundle` reads and checks it:

    >>> from edgevlm.bundle import Bundle
    >>> bundle = Bundle.open("dist/edgevlm-student-coreml-fp16.edgevlm")
    >>> bundle.manifest.image.height, bundle.manifest.embedding.dim
    (64, 192)
"""

from __future__ import annotations

from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.integer_weights import StoredWeight, WeightProof
from edgevlm.bundle.manifest import (
    FORMAT_VERSION,
    BundledComponent,
    CalibrationRecord,
    FileRecord,
    Labels,
    Manifest,
    ParityCheck,
    ParityReport,
    PictureInput,
)
from edgevlm.bundle.recipe import Activations, Calibration, ParityLimits, Recipe, Weights
from edgevlm.bundle.spec import (
    F32,
    Array,
    ComponentSpec,
    ImagePreprocessing,
    Source,
    TensorSpec,
    TextPreprocessing,
)

__all__ = [
    "F32",
    "FORMAT_VERSION",
    "Activations",
    "Array",
    "Bundle",
    "BundledComponent",
    "Calibration",
    "CalibrationRecord",
    "ComponentSpec",
    "FileRecord",
    "ImagePreprocessing",
    "Labels",
    "Manifest",
    "ParityCheck",
    "ParityLimits",
    "ParityReport",
    "PictureInput",
    "Recipe",
    "Source",
    "StoredWeight",
    "TensorSpec",
    "TextPreprocessing",
    "WeightProof",
    "Weights",
]
