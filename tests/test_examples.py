"""Every example script, on bundles of every target."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import edgevlm

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
LABELS = "two green triangles, a red circle to the left of a blue square, a yellow star in the top right"


@pytest.fixture(scope="module", params=["coreml", "executorch", "tflite"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return edgevlm.convert(target=request.param, recipe="fp32", out=tmp_path_factory.mktemp("dist")).path


def _run(script: str, *arguments: str | Path, cwd: Path) -> str:
    command = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    _run("draw_pictures.py", tmp_path / "pictures", cwd=tmp_path)
    return tmp_path / "pictures"


def test_the_shipped_pictures_are_what_the_script_draws(pictures: Path) -> None:
    drawn = {path.name: path.read_bytes() for path in pictures.iterdir()}
    assert drawn == {path.name: path.read_bytes() for path in (EXAMPLES / "pictures").glob("*.png")}


def test_classify_pictures(bundle: Path, pictures: Path) -> None:
    lines = _run("classify_pictures.py", bundle, *sorted(pictures.iterdir()), "--labels", LABELS, cwd=pictures)
    answers = [line.split(": ")[1].rsplit(" (", 1)[0] for line in lines.splitlines()]
    assert answers == [
        "a red circle to the left of a blue square",
        "two green triangles",
        "a yellow star in the top right",
    ]


def test_search_pictures_embeds_once(bundle: Path, pictures: Path) -> None:
    first = _run("search_pictures.py", bundle, pictures, "two green triangles", cwd=pictures).splitlines()
    assert first[0] == "embedded 3 pictures"
    assert first[1].endswith("two-triangles.png")
    second = _run("search_pictures.py", bundle, pictures, "a yellow star", cwd=pictures).splitlines()
    assert second[0].endswith("yellow-star.png")
    assert len(second) == 3


def test_a_custom_target_goes_through_the_whole_pipeline(tmp_path: Path) -> None:
    assert _run("custom_target.py", cwd=tmp_path) == "pt2: passed\n"
    bundle = edgevlm.Bundle.open(tmp_path / "dist" / "edgevlm-student-pt2-fp32.edgevlm")
    assert bundle.manifest.target == "pt2"
