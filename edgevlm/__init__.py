"""EdgeVLM: a vision-language model goes in; a small, verified bundle that a device can load comes out."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgevlm.api import convert, distill, open
    from edgevlm.bundle.bundle import Bundle
    from edgevlm.enrichment.enrichment import enrich
    from edgevlm.evaluation.evaluation import evaluate
    from edgevlm.inference.embedder import BundleModel

__version__ = "0.1.0"
__all__ = ["Bundle", "BundleModel", "__version__", "convert", "distill", "enrich", "evaluate", "open"]

# Imported when first used, so that `edgevlm --help` answers at once.
_HOMES = {
    "Bundle": "edgevlm.bundle",
    "BundleModel": "edgevlm.inference.embedder",
    "convert": "edgevlm.api",
    "distill": "edgevlm.api",
    "enrich": "edgevlm.enrichment.enrichment",
    "evaluate": "edgevlm.evaluation.evaluation",
    "open": "edgevlm.api",
}

# At the checkout's root Python finds this folder before the installed package, and with it only this third of
# the house; the siblings `converters/`, `runtimes/` and `benchmarks/` are found once the root is on the path.
_checkout = Path(__file__).parent.parent
if (_checkout / "pyproject.toml").is_file() and str(_checkout) not in __path__:
    __path__.append(str(_checkout))


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgevlm' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
