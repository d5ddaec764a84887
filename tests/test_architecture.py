"""Who may import whom: rooms, each of which may use those above it in the list."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import edgevlm

ROOT = Path(__file__).parent.parent

# Each room may import those before it. A room is a module or folder of `edgevlm`; within `models` and `distillation`
# some folders are rooms of their own.
ROOMS = (
    *("errors", "schema", "process", "bundle", "graphs", "inputs", "targets", "inference"),
    *(
        "models",
        "models.encoders",
        "models.generators",
        "models.checkpoints",
        "models.students",
        "models.builtin",
        "models.catalogue",
    ),
    *("data", "parity", "compression", "conversion", "blame"),
    *("onboard", "devices", "emulation", "bench"),
    *("enrichment", "evaluation", "distillation", "distillation.builtin", "tuning"),
    *("testing", "api", "commands", "cli", "__main__"),
)
TARGET_CODE = {"errors", "schema", "bundle", "graphs", "process", "targets"}
"""What converters and runtimes know of `edgevlm`: the format, programs and the seam."""
TARGETS = (
    *("converters.coreml", "converters.executorch", "converters.tflite"),
    *("runtimes.coreml", "runtimes.executorch", "runtimes.tflite", "runtimes.mlprogram"),
)
"""Rooms of their own, which know what lies beside them in `converters` or `runtimes`, and nothing of each other."""
EVALUATED = {"runtimes.coreml": {"runtimes.mlprogram"}}
"""But off Apple Core ML's runtime is the ML Program evaluator."""
FOR_PATH_AND_VERSION = {"edgevlm.conversion.cache", "edgevlm.process.children"}
"""Who may `import edgevlm`, from which all public names could be reached."""
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
    found = [room for room in (*ROOMS, *TARGETS) if inside == room or inside.startswith(f"{room}.")]
    return max(found, key=len, default=inside.partition(".")[0])


def _imports(source: str, module: str) -> set[str]:
    """The modules of `edgevlm` that a module's source imports, wherever in it; `edgevlm` itself is one."""
    package = module if MODULES.get(module, Path()).name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f"{origin}.{alias.name}"
                if origin == "edgevlm" and name not in MODULES:  # a public name
                    found.add(edgevlm._HOMES.get(alias.name, "edgevlm.errors"))
                else:
                    found.add(name if name in MODULES else origin)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            found |= {each.value for each in node.args if isinstance(each, ast.Constant)}
    return {name for name in found if f"{name}.".startswith("edgevlm.")}


def _wanted(room: str) -> set[str]:
    if room.startswith(("converters", "runtimes")):
        return TARGET_CODE | {room, room.partition(".")[0]} | EVALUATED.get(room, set())
    return set(ROOMS) if room in HANDED_ON else set(ROOMS[: ROOMS.index(room) + 1])


def _forbidden(source: str, module: str) -> set[str]:
    """What the module imports and may not."""
    imported = _imports(source, module) - ({"edgevlm"} if module in FOR_PATH_AND_VERSION else set())
    return {name for name in imported if _room(name) not in _wanted(_room(module))}


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name.startswith("edgevlm.")))
def test_a_room_imports_only_those_above(module: str) -> None:
    assert _forbidden(MODULES[module].read_text(encoding="utf-8"), module) == set()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("edgevlm.bundle.spec", "from edgevlm.api import convert"),
        ("edgevlm.bundle.spec", "from edgevlm import convert"),
        ("edgevlm.bundle.spec", "from edgevlm import api"),
        ("edgevlm.bundle.spec", "import edgevlm"),
        ("edgevlm.bundle.spec", "import edgevlm.api"),
        ("edgevlm.bundle.spec", "from .. import api"),
        ("edgevlm.bundle.spec", "from ..api import convert"),
        ("edgevlm.bundle", "from ..api import convert"),
        ("edgevlm.bundle.spec", "def f():\n    from edgevlm import evaluation"),
        ("edgevlm.bundle.spec", "import importlib\nimportlib.import_module('edgevlm.api')"),
        ("edgevlm.converters.tflite.converter", "from edgevlm.converters.coreml.converter import x"),
        ("edgevlm.converters.half", "from edgevlm.converters.coreml.converter import x"),
        ("edgevlm.runtimes.tflite.runtime", "from edgevlm.runtimes.mlprogram import MLProgram"),
        ("edgevlm.converters.tflite.converter", "from edgevlm.models.model import Model"),
    ],
)
def test_an_import_from_below_is_seen_however_it_is_written(module: str, source: str) -> None:
    assert _forbidden(source, module) != set()


def test_contributing_says_what_is_in_each_room_from_the_top() -> None:
    table = re.findall(r"^  \| (`.*?) \|(.*)", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE)
    named = [name for rooms, _ in table for name in re.findall(r"`(?:edgevlm/)?(\w+)`", rooms)]
    top = [room for room in ROOMS if "." not in room and room != "__main__"]
    assert [name for name in named if name in top] == top
    (of_models,) = (text for rooms, text in table if rooms == "`edgevlm/models`")
    assert all(f"`{room.removeprefix('models.')}" in of_models for room in ROOMS if room.startswith("models."))


def test_every_room_is_there_and_listed() -> None:
    rooms = {_room(name) for name in MODULES if name.startswith("edgevlm.")}
    assert rooms - HANDED_ON == {*ROOMS, *TARGETS, "converters", "runtimes"}
