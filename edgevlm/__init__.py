"""EdgeVLM: a vision-language model goes in; a small, verified bundle that a device can load comes out.

    edgevlm.convert("edgevlm-student", target="coreml")                # -> Bundle
    with edgevlm.open("dist/edgevlm-student-coreml-fp16.edgevlm") as model:
        model.encode_image(["cat.jpg"])                                # float32 [1, D], unit norm
        model.encode_text(["a cat", "a dog"])                          # float32 [2, D], unit norm
        model.classify(["cat.jpg"], ["a cat", "a dog"])                # float32 [1, 2], rows sum to 1

Everything in `__all__` is public. A target of one's own imports `edgevlm.targets` and `edgevlm.bundle`, an index on a
device `edgevlm.inference.codes`, an app's unit tests `edgevlm.testing`, and whoever runs a Core ML package without a
Mac `edgevlm.runtimes.mlprogram`.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevlm.errors import (
    BundleError,
    CannotTell,
    CheckFailed,
    CheckpointError,
    ConnectionLost,
    DataError,
    DeviceError,
    EdgeVLMError,
    EnrichmentError,
    ImageError,
    InputError,
    LabelError,
    MissingDependency,
    OutOfMemory,
    OutputError,
    ParityFailed,
    RecipeError,
    TensorError,
    TrainingFailed,
    UnsupportedError,
)

if TYPE_CHECKING:
    from edgevlm import testing
    from edgevlm.api import convert, distill, open
    from edgevlm.bundle import Bundle, Labels, Recipe
    from edgevlm.bundle.dialogue import Sampling
    from edgevlm.bundle.export import export_for_app
    from edgevlm.conversion.pipeline import verify
    from edgevlm.distillation.recipe import DistillRecipe
    from edgevlm.enrichment.descriptions import Descriptions
    from edgevlm.enrichment.enrichment import enrich
    from edgevlm.evaluation.evaluation import evaluate
    from edgevlm.evaluation.speaking import evaluate_answers
    from edgevlm.inference.embedder import BundleModel

__version__ = "0.1.0"
__all__ = [
    "Bundle",
    "BundleError",
    "BundleModel",
    "CannotTell",
    "CheckFailed",
    "CheckpointError",
    "ConnectionLost",
    "DataError",
    "Descriptions",
    "DeviceError",
    "DistillRecipe",
    "EdgeVLMError",
    "EnrichmentError",
    "ImageError",
    "InputError",
    "LabelError",
    "Labels",
    "MissingDependency",
    "OutOfMemory",
    "OutputError",
    "ParityFailed",
    "Recipe",
    "RecipeError",
    "Sampling",
    "TensorError",
    "TrainingFailed",
    "UnsupportedError",
    "__version__",
    "convert",
    "distill",
    "enrich",
    "evaluate",
    "evaluate_answers",
    "export_for_app",
    "open",
    "testing",
    "verify",
]

# Imported when first used, so that `edgevlm --help` answers at once.
_HOMES = {
    "Bundle": "edgevlm.bundle",
    "BundleModel": "edgevlm.inference.embedder",
    "Descriptions": "edgevlm.enrichment.descriptions",
    "DistillRecipe": "edgevlm.distillation.recipe",
    "Labels": "edgevlm.bundle",
    "Recipe": "edgevlm.bundle",
    "Sampling": "edgevlm.bundle.dialogue",
    "convert": "edgevlm.api",
    "distill": "edgevlm.api",
    "enrich": "edgevlm.enrichment.enrichment",
    "evaluate": "edgevlm.evaluation.evaluation",
    "evaluate_answers": "edgevlm.evaluation.speaking",
    "export_for_app": "edgevlm.bundle.export",
    "open": "edgevlm.api",
    "verify": "edgevlm.conversion.pipeline",
}

# At the checkout's root Python finds this folder before the installed package, and with it only this third of
# the house; the siblings `converters/`, `runtimes/` and `benchmarks/` are found once the root is on the path.
_checkout = Path(__file__).parent.parent
if (_checkout / "pyproject.toml").is_file() and str(_checkout) not in __path__:
    __path__.append(str(_checkout))


def __getattr__(name: str) -> Any:
    if name == "testing":
        return import_module("edgevlm.testing")
    if name not in _HOMES:
        raise AttributeError(f"module 'edgevlm' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
