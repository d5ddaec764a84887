"""Who may import whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Each layer may import its own and those before it.
LAYERS = (
    {"errors", "spec", "schema", "interrupts", "locking"},
    {
        "recipe",
        "stored",
        "bundle",
        "cache",
        "interfaces",
        "capture",
        "boundary",
        "preprocessing",
        "tokenizing",
        "labels",
        "footprint",
        "memory",
        "work",
        "progress",
        "codes",
    },
    {"registry", "bundle_model", "parity"},
    {"models", "data", "distillation", "enrichment", "evaluation", "compression"},
    {"golden", "audit", "prepared", "contents", "forecast", "pipeline", "api", "report", "tuning", "blame"},
    {"onboard", "devices", "emulation", "bench"},
    {"commands", "cli", "__main__"},
)
TARGET_CODE = LAYERS[0] | LAYERS[1]


def _imports(path: Path) -> set[str]:
    """Names of `edgevlm`'s modules that a file imports, wherever in it: `edgevlm.models.encoders.clip` counts as `models`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            bare = node.module == "edgevlm"
            names = [f"edgevlm.{alias.name}" for alias in node.names] if bare else [node.module]
        found |= {name.split(".")[1] for name in names if name.startswith("edgevlm.")}
    return found - {"__version__"}


def _files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", _files("edgevlm"), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_layer_imports_only_those_below(path: Path) -> None:
    name = path.relative_to(ROOT / "edgevlm").parts[0].removesuffix(".py")
    if name == "__init__":
        return
    (level,) = (index for index, layer in enumerate(LAYERS) if name in layer)
    assert _imports(path) <= set().union(*LAYERS[: level + 1])


@pytest.mark.parametrize("path", _files("converters") + _files("runtimes"), ids=lambda p: str(p.relative_to(ROOT)))
def test_targets_know_only_the_seams_and_not_each_other(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0]
    assert _imports(path) <= TARGET_CODE | {own}


def test_every_module_has_a_layer() -> None:
    names = {path.relative_to(ROOT / "edgevlm").parts[0].removesuffix(".py") for path in _files("edgevlm")}
    assert names - {"__init__"} == set().union(*LAYERS)
