"""What `import edgevlm` hands out, and the examples in its docstrings."""

from __future__ import annotations

import ast
import doctest
import functools
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import library
import numpy as np
import PIL.Image
import pytest

import edgevlm
from edgevlm.benchmarks.bundles import bundle_for_tests
from edgevlm.bundle import Bundle, BundledComponent, recipe
from edgevlm.bundle.manifest import TALKERS_VERSION
from edgevlm.errors import EdgeVLMError
from edgevlm.inference import codes
from edgevlm.inference.embedder import BundleModel
from edgevlm.inference.generator import Answer, Conversation, Generator
from edgevlm.models.checkpoints import talking
from edgevlm.runtimes.mlprogram import MLProgram
from edgevlm.targets import Session, registry

ROOT = Path(__file__).parent.parent
SOURCES = [path for folder in ("edgevlm", "converters", "runtimes") for path in sorted((ROOT / folder).rglob("*.py"))]
EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

BUNDLE = "dist/edgevlm-student-coreml-fp16.edgevlm"
"""The one that examples open: a fake here."""
RUN: dict[str, Any] = {
    "EdgeVLMError": EdgeVLMError,
    "open": edgevlm.open,
    "BundleModel": BundleModel,
    "BundleModel.encode_image": BundleModel.encode_image,
    "BundleModel.encode_text": BundleModel.encode_text,
    "BundleModel.classify": BundleModel.classify,
    "BundleModel.mean_embedding": BundleModel.mean_embedding,
    "Session.run": Session.run,
    "Recipe": edgevlm.Recipe,
    "DistillRecipe": edgevlm.DistillRecipe,
    "Labels": edgevlm.Labels,
    "Sampling": edgevlm.Sampling,
    "enrich": edgevlm.enrich,
    "Descriptions": edgevlm.Descriptions,
    "to_int8": codes.to_int8,
    "to_binary": codes.to_binary,
    "decode": codes.decode,
    "search": codes.search,
    "FakeSession": edgevlm.testing.FakeSession,
    "FakeModel": edgevlm.testing.FakeModel,
    "text_of": edgevlm.testing.text_of,
}
"""Whose examples are run."""
RUN_ON_A_REAL_BUNDLE: dict[str, Any] = {
    "edgevlm.bundle": importlib.import_module("edgevlm.bundle"),
    "Bundle": Bundle,
    "verify": edgevlm.verify,
    "export_for_app": edgevlm.export_for_app,
    "MLProgram.predict": MLProgram.predict,
}
"""Whose examples need the files themselves."""
READ: dict[str, Any] = {
    "convert": edgevlm.convert,
    "distill": edgevlm.distill,
    "evaluate": edgevlm.evaluate,
    "evaluate_answers": edgevlm.evaluate_answers,
    "MLProgram.open": MLProgram.open,
}
"""Whose examples take a conversion, training or data: every name in them is there, and takes what it is given."""
OF_ROOMS: dict[str, Any] = {
    f"{room.__name__}.{name}": getattr(room, name)
    for room in (importlib.import_module("edgevlm.bundle"), importlib.import_module("edgevlm.targets"))
    for name in room.__all__
    if inspect.isclass(getattr(room, name)) or inspect.isfunction(getattr(room, name))
}
"""What the format and the seam hand out, types by another name aside."""
WITHOUT_AN_EXAMPLE = {
    *("CalibrationRecord", "WeightProof"),  # of a bundle in int8: a manifest says them, and `edgevlm inspect`
    *("Advice", "OpCoverage", "PackageFunction", "PackageReader", "PackageValue"),  # others' examples read them
    "Session",  # its `run` has one
    "State",  # of a session of a model that talks, which its `Generator` keeps
}
TALKER = "dist/talker-tflite-int8.edgevlm"
"""The one that examples ask: a small original here, which nobody has trained."""
RUN_ON_A_TALKER: dict[str, Any] = {
    "Answer": Answer,
    "Generator.generate": Generator.generate,
    "Generator.chat": Generator.chat,
    "Generator.score": Generator.score,
    "Generator.classifier": Generator.classifier,
    "Conversation.ask": Conversation.ask,
    "BundleModel.talker": BundleModel.talker.fget,
    "BundleModel.generate": BundleModel.generate,
    "BundleModel.chat": BundleModel.chat,
    "BundleModel.score": BundleModel.score,
}


def _examples(documented: Any) -> list[doctest.Example]:
    return doctest.DocTestParser().get_examples(inspect.getdoc(documented) or "")


def _names(documented: Any) -> dict[str, Any]:
    """What an example's reader has imported."""
    module = inspect.getmodule(getattr(documented, "func", documented))
    return {**vars(module), "edgevlm": edgevlm, "np": np, "PIL": PIL} if module else {}


@pytest.mark.parametrize("name", edgevlm.__all__)
def test_a_public_name_is_there_and_says_what_it_is(name: str) -> None:
    value = getattr(edgevlm, name)
    if name == "__version__":
        assert re.fullmatch(r"\d+\.\d+\.\d+", value)
        return
    assert inspect.getdoc(value)
    if isinstance(value, ModuleType) or (isinstance(value, type) and issubclass(value, EdgeVLMError)):
        return  # the root of the errors shows how one is caught, and a module's names have their own
    assert (RUN | RUN_ON_A_REAL_BUNDLE | READ)[name] is value
    assert _examples(value)


def test_what_is_public_is_what_completion_and_type_checkers_see() -> None:
    assert set(edgevlm.__all__) <= set(dir(edgevlm))
    tree = ast.parse((ROOT / "edgevlm/__init__.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(edgevlm.__all__) - {"__version__"} <= imported
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        edgevlm.opne  # noqa: B018


def test_every_error_is_public() -> None:
    found = vars(importlib.import_module("edgevlm.errors"))
    errors = {name for name, each in found.items() if isinstance(each, type) and issubclass(each, EdgeVLMError)}
    assert errors <= set(edgevlm.__all__)


def test_the_face_is_imported_without_what_is_heavy() -> None:
    code = (
        "import sys, edgevlm, edgevlm.cli; heavy = {'torch', 'numpy', 'PIL', 'tokenizers'} & set(sys.modules); "
        "edgevlm.Bundle, edgevlm.Recipe, edgevlm.open, edgevlm.testing; "
        "heavy |= {'torch', 'transformers'} & set(sys.modules); sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("room", ["bundle", "targets"])
def test_a_room_hands_out_its_names(room: str) -> None:
    module = importlib.import_module(f"edgevlm.{room}")
    assert list(module.__all__) == sorted(module.__all__, key=lambda name: (not name.isupper(), name.islower(), name))
    for name in module.__all__:
        assert hasattr(module, name)


def test_former_names_hand_on() -> None:
    interfaces, boundary = (importlib.import_module(f"edgevlm.{name}") for name in ("interfaces", "boundary"))
    assert interfaces.Session is Session
    assert all(hasattr(interfaces, name) for name in ("Array", "Converter", "F32", "OpCount", "Programs", "Progress"))
    assert boundary.validate_inputs is importlib.import_module("edgevlm.targets").validate_inputs


def test_a_target_of_ones_own_imports_the_seam_and_the_format_alone() -> None:
    tree = ast.parse((ROOT / "examples/custom_target.py").read_text())
    top = {node.module for node in tree.body if isinstance(node, ast.ImportFrom) and node.module}
    assert {name for name in top if name.startswith("edgevlm")} == {"edgevlm.bundle", "edgevlm.targets"}


# Examples


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the examples' pictures, where the bundle that they open is a fake."""
    really_open = edgevlm.open
    monkeypatch.setattr(
        edgevlm, "open",
        lambda path, **options: edgevlm.testing.FakeModel() if path == BUNDLE else really_open(path, **options),
        raising=False,
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    edgevlm.enrich(["red circle"], "examples/descriptions.csv", "descriptions.json")


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("name", RUN)
def test_an_example_does_what_it_shows(name: str) -> None:
    _run(name, RUN[name])


@pytest.mark.parametrize("name", RUN_ON_A_REAL_BUNDLE)
def test_an_example_with_a_bundle_does_what_it_shows(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("examples").symlink_to(ROOT / "examples")
    Path("dist").mkdir()
    Path(BUNDLE).symlink_to(library.student("coreml", "fp16").path)
    _run(name, RUN_ON_A_REAL_BUNDLE[name])


@pytest.mark.parametrize("name", OF_ROOMS)
def test_what_a_room_hands_out_has_an_example_that_does_what_it_shows(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = _examples(OF_ROOMS[name])
    assert bool(examples) != (name.rpartition(".")[2] in WITHOUT_AN_EXAMPLE)
    monkeypatch.chdir(tmp_path)
    if any(BUNDLE in each.source for each in examples):
        Path("dist").mkdir()
        Path(BUNDLE).symlink_to(library.student("coreml", "fp16").path)
    if examples and OF_ROOMS[name] not in RUN_ON_A_REAL_BUNDLE.values():
        _run(name, OF_ROOMS[name])


@pytest.mark.parametrize("name", RUN_ON_A_TALKER)
def test_an_example_with_a_talker_does_what_it_shows(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("examples").symlink_to(ROOT / "examples")
    monkeypatch.setattr(edgevlm, "open", lambda path: {TALKER: _talker}[path](tmp_path / "talker"), raising=False)
    _run(name, RUN_ON_A_TALKER[name])


def _talker(folder: Path) -> BundleModel:
    """A bundle whose session is the original."""
    model = talking.load(library.talker_checkpoint("llava"), name="llava")
    folder.mkdir()
    (folder / model.dialogue.tokenizer_file).write_bytes(model.tokenizer_json)
    bundle = bundle_for_tests(
        folder,
        {name: BundledComponent(program.spec, "model.litertlm") for name, program in model.programs.items()},
        format_version=TALKERS_VERSION,
        image=model.image,
        dialogue=model.dialogue,
        **dict.fromkeys(("embedding_dim", "logit_scale", "embedding_space_id")),
    )
    return BundleModel(bundle, session=model.original)


def _run(name: str, documented: Any) -> None:
    examples = _examples(documented)
    assert examples
    test = doctest.DocTest(examples, _names(documented), name, None, None, inspect.getdoc(documented))
    said: list[str] = []
    outcome = doctest.DocTestRunner().run(test, out=said.append)
    assert outcome.failed == 0, "".join(said)


@pytest.mark.parametrize("name", READ)
def test_an_example_names_what_is_there(name: str) -> None:
    examples = _examples(READ[name])
    assert examples
    names = _names(READ[name])
    calls = [call for each in examples for call in _calls(ast.parse(each.source), names)]
    assert calls
    for function, call in calls:
        inspect.signature(function).bind(*call.args, **{word.arg or "": word.value for word in call.keywords})


def _calls(tree: ast.AST, names: dict[str, Any]) -> Iterator[tuple[Any, ast.Call]]:
    """The calls of what has a name in an example's module, such as `edgevlm.convert`, and not of what it made."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and re.fullmatch(r"\w+(\.\w+)*", ast.unparse(node.func)):
            first, *rest = ast.unparse(node.func).split(".")
            if first in names:
                yield functools.reduce(getattr, rest, names[first]), node


def test_the_readers_of_examples_would_see_a_wrong_one() -> None:
    with pytest.raises(AttributeError):
        list(_calls(ast.parse("edgevlm.covert()"), {"edgevlm": edgevlm}))
    ((function, call),) = _calls(ast.parse("edgevlm.convert(tarqet='tflite')"), {"edgevlm": edgevlm})
    with pytest.raises(TypeError):
        inspect.signature(function).bind(**{word.arg or "": word.value for word in call.keywords})


# Recipes and labels in Python


def test_convert_takes_recipes_and_labels_made_in_python() -> None:
    broken = recipe.Recipe("mine", "fp32", "", recipe.ParityLimits(), float32_ops=("auto",))
    with pytest.raises(edgevlm.RecipeError, match="the recipe 'mine': float32_ops: expected precision: fp16"):
        edgevlm.convert(target="tflite", recipe=broken)
    labels = edgevlm.Labels(("a cat", "a dog"), ("a photo of {}",))
    with pytest.raises(edgevlm.InputError, match="Labels have their templates"):
        edgevlm.convert(target="tflite", labels=labels, templates=["{}!"])


# Extras


def _extras_of(path: Path) -> Iterator[tuple[str, str | None, str]]:
    """Where an extra is named, the package it is to bring where that is written out, and the extra."""
    tree = ast.parse(path.read_text())
    targets = [
        node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == "target"
        and isinstance(node.value, ast.Constant)
    ]
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and ast.unparse(node.func) in ("MissingDependency", "require")):
            continue
        package = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
        for word in node.keywords:
            if word.arg != "extra":
                continue
            named = [each.value for each in ast.walk(word.value) if isinstance(each, ast.Constant)]
            if ast.unparse(word.value) == "self.target":
                named = targets
            for extra in named:
                if isinstance(extra, str):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", package, extra


def _brings(extra: str) -> set[str]:
    """The packages of an extra, those of the extras in it included."""
    found = set()
    for requirement in EXTRAS[extra]:
        if inner := re.match(r"edgevlm\[(.*)\]", requirement):
            found |= {package for each in inner[1].split(",") for package in _brings(each)}
        else:
            found.add(re.split(r"[<>=~\[ ]", requirement)[0].replace("_", "-"))
    return found


def test_every_extra_that_an_error_names_exists_and_brings_the_package() -> None:
    found = [each for path in SOURCES for each in _extras_of(path)]
    assert len(found) > 15
    for where, package, extra in found:
        assert extra in EXTRAS, where
        assert package is None or package.replace("_", "-") in _brings(extra), f"{where}: {extra} has no {package}"


def test_every_target_has_an_extra_of_its_name() -> None:
    assert set(registry.CONVERTERS) <= set(EXTRAS)  # where the extra is the target that was asked for


def test_every_extra_in_a_text_exists() -> None:
    for path in (*SOURCES, ROOT / "README.md"):
        for named in re.findall(r"edgevlm\[([a-z][a-z,-]*)\]", path.read_text()):
            assert set(named.split(",")) <= set(EXTRAS), path
