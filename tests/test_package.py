from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import library
import pytest

import edgevlm

ROOT = Path(__file__).parent.parent
APP = """
from typing import assert_type

import edgevlm
from edgevlm import {names}
from edgevlm.interfaces import Session as Former
from edgevlm.targets import Session

assert_type(open("my.edgevlm"), BundleModel)
assert_type(edgevlm.convert(target="tflite", recipe=Recipe.load("int8")), Bundle)
assert_type(Labels(("a cat",), ("a {{}}",)).names, tuple[str, ...])
assert_type(DistillRecipe.load("ood"), DistillRecipe)
assert_type(verify(Bundle.open("my.edgevlm")).passed, bool)
assert_type(testing.FakeModel().session, testing.FakeSession)
session: Session = testing.FakeSession([])
former: Former = session
raise BundleError("gone", hint=None)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # From a copy: setuptools leaves a build/ beside its source, and packs what an earlier one left there.
    source = tmp_path_factory.mktemp("source")
    for name in ("edgevlm", "converters", "runtimes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def _modules() -> set[str]:
    folders = {"edgevlm": "edgevlm", "converters": "edgevlm/converters", "runtimes": "edgevlm/runtimes"}
    return {
        f"{inside}/{path.relative_to(ROOT / outside).as_posix()}"
        for outside, inside in folders.items()
        for path in (ROOT / outside).rglob("*.py")
    }


def test_the_wheel_holds_every_module_the_weights_and_nothing_generic(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert _modules() <= names
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "edgevlm").rglob("*.jinja")} <= names
    assert {
        "edgevlm/py.typed",
        "edgevlm/bundle/README.md",
        "edgevlm/bundle/manifest.schema.json",
        "edgevlm/bundle/golden.schema.json",
        "edgevlm/bundle/golden_dialogues.schema.json",
        "edgevlm/models/builtin/student/config.json",
        "edgevlm/models/builtin/student/model.safetensors",
        "edgevlm/models/builtin/student/tokenizer.json",
        "edgevlm/models/builtin/student/figures.json",
        "edgevlm/models/builtin/teacher/model.safetensors",
        "edgevlm/models/builtin/student/README.md",
        "edgevlm/runtimes/mlprogram/opsets.json",
        "edgevlm/runtimes/mlprogram/oracles.json",
    } <= names
    assert not [name for name in names if name.startswith("edgevlm/benchmarks")]  # studies run from a checkout
    assert {name.split("/")[0].removesuffix(".dist-info") for name in names} == {"edgevlm", "edgevlm-0.1.0"}


@pytest.mark.slow
def test_the_wheel_works_in_a_fresh_environment_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    scripts = tmp_path / "env" / "bin"
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}

    def run(*command: str) -> str:
        return subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=tmp_path, env=clean, timeout=600
        ).stdout

    run(str(scripts / "pip"), "install", "--quiet", "--no-compile", str(wheel))
    targets = json.loads(run(str(scripts / "edgevlm"), "targets", "--json"))["targets"]
    assert [target["target"] for target in targets] == ["coreml", "executorch", "tflite"]
    assert not any(target["converts"] for target in targets)  # no backend was asked for
    assert "edgevlm-student" in run(str(scripts / "edgevlm"), "models")
    assert "conv_quantized" in run(str(scripts / "edgevlm"), "targets", "--ops", "coreml")
    located = run(
        str(scripts / "python"), "-c", "import edgevlm.converters, edgevlm.runtimes as r; print(r.__path__[0])"
    )
    assert located.startswith(str(tmp_path))
    missing = subprocess.run(
        [str(scripts / "edgevlm"), "convert", "--target", "coreml"],
        capture_output=True, text=True, cwd=tmp_path, env=clean, check=False,
    )  # fmt: skip
    assert missing.returncode == 3
    assert "pip install 'edgevlm[" in missing.stderr
    assert "Traceback" not in missing.stderr

    # And a device needs no torch to open a bundle: a tflite one, by what its extra brings.
    bundle = library.student("tflite", "int8").path
    code = (
        "import sys, edgevlm, numpy as np; "
        f"model = edgevlm.open({str(bundle)!r}); "
        "scores = model.classify([np.zeros((80, 70, 3), np.uint8)], ['a star', 'a heart']); "
        "assert scores.shape == (1, 2) and 'torch' not in sys.modules"
    )
    run(str(scripts / "pip"), "install", "--quiet", "--no-compile", f"{wheel}[tflite-device]")
    run(str(scripts / "python"), "-c", code)
    assert "torch" not in run(str(scripts / "pip"), "list")


def test_the_checkout_itself_finds_every_part() -> None:
    code = "import edgevlm.converters, edgevlm.runtimes, edgevlm.benchmarks, edgevlm.cli"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_packages_listed_are_those_that_exist() -> None:
    import tomllib

    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {module.removesuffix("/__init__.py").replace("/", ".") for module in _modules() if "__init__" in module}
    assert listed == found


@pytest.mark.slow
def test_what_ships_and_what_measures_it_are_strictly_typed(wheel: Path, tmp_path: Path) -> None:
    # Type checkers cannot follow the folders of the checkout into one package; in the wheel they are one.
    zipfile.ZipFile(wheel).extractall(tmp_path)
    shutil.copytree(ROOT / "benchmarks", tmp_path / "edgevlm/benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
    _check("mypy", "--config-file", str(ROOT / "pyproject.toml"), "-p", "edgevlm", cwd=tmp_path)
    # And whoever imports it has the types of every public name, though most are imported when first used.
    (tmp_path / "app.py").write_text(APP.format(names=", ".join(edgevlm.__all__)), encoding="utf-8")
    _check("mypy", "--config-file", str(ROOT / "pyproject.toml"), "app.py", cwd=tmp_path)


@pytest.mark.parametrize("command", [("ruff", "check", "."), ("ruff", "format", "--check", ".")])
def test_style(command: tuple[str, ...]) -> None:
    _check(*command, cwd=ROOT)


def _check(*command: str, cwd: Path) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
