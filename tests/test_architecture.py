"""Who may import whom: rooms, each of which may use those above it in the list."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Each room may import those before it. A room is a module or folder of `edgevlm`; within `models` and `distillation`
# some folders are rooms of their own.
ROOMS = (
    *("errors", "schema", "process", "bundle", "graphs", "inputs", "targets", "inference"),
    *("models", "models.encoders", "models.checkpoints", "models.students", "models.builtin", "models.catalogue"),
    *("data", "parity", "compression", "conversion", "blame"),
    *("onboard", "devices", "emulation", "bench"),
    *("enrichment", "evaluation", "distillation", "distillation.builtin", "tuning"),
    *("testing", "api", "commands", "cli", "__main__"),
)
TARGET_CODE = {"errors", "bundle", "graphs", "process", "targets"}
"""What converters and runtimes know of `edgevlm`: the format, programs and the seam."""
HANDED_ON = {"interfaces", "boundary"}
"""Names of before, for one release."""


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "edgevlm" else ("edgevlm", *parts)).removesuffix(".__init__")


MODULES = {
    _module(path): path for folder in ("edgevlm", "converters", "runtimes") for path in (ROOT / folder).rglob("*.py")
}


def _room(module: str) -> str:
    """The longest room that the module is in: `edgevlm.models.encoders.clip` is in `models.encoders`."""
    inside = module.removeprefix("edgevlm.")
    found = [room for room in ROOMS if inside == room or inside.startswith(f"{room}.")]
    return max(found, key=len, default=inside.partition(".")[0])


def _imports(path: Path) -> set[str]:
    """The modules of `edgevlm` that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return {name for name in found if name.startswith("edgevlm.")}


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name.startswith("edgevlm.")))
def test_a_room_imports_only_those_above(module: str) -> None:
    room = _room(module)
    if room in {"converters", "runtimes"}:
        wanted = TARGET_CODE | {room}
    elif room in HANDED_ON:
        wanted = set(ROOMS)
    else:
        wanted = set(ROOMS[: ROOMS.index(room) + 1])
    assert {_room(name) for name in _imports(MODULES[module])} <= wanted


def test_every_room_is_there_and_listed() -> None:
    rooms = {_room(name) for name in MODULES if name.startswith("edgevlm.")}
    assert rooms - HANDED_ON == {*ROOMS, "converters", "runtimes"}
