"""Every example script, on bundles of every target."""

from __future__ import annotations

import contextlib
import io
import runpy
import subprocess
import sys
from pathlib import Path

import library
import pytest

import edgevlm

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
LABELS = "two green triangles, a red circle to the left of a blue square, a yellow star in the top right"


BUNDLES = [("coreml", "fp16"), ("tflite", "int8"), pytest.param(("executorch", "int8"), marks=pytest.mark.slow)]


@pytest.fixture(params=BUNDLES, ids=lambda bundle: bundle[0])
def bundle(request: pytest.FixtureRequest) -> Path:
    return library.student(*request.param).path


def _run(script: str, *arguments: str | Path) -> str:
    """What a script prints, run in this process."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(sys, "argv", [script, *map(str, arguments)])
        with contextlib.suppress(SystemExit):
            runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    return said.getvalue()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    _run("draw_pictures.py", tmp_path / "pictures")
    return tmp_path / "pictures"


def test_the_shipped_pictures_are_what_the_script_draws(pictures: Path) -> None:
    drawn = {path.name: path.read_bytes() for path in pictures.iterdir()}
    assert drawn == {path.name: path.read_bytes() for path in (EXAMPLES / "pictures").glob("*.png")}


def test_classify_pictures(bundle: Path, pictures: Path) -> None:
    lines = _run("classify_pictures.py", bundle, *sorted(pictures.iterdir()), "--labels", LABELS)
    answers = [line.split(": ")[1].rsplit(" (", 1)[0] for line in lines.splitlines()]
    assert answers == [
        "a red circle to the left of a blue square",
        "two green triangles",
        "a yellow star in the top right",
    ]


def test_classify_pictures_names_what_it_cannot_read_and_answers_the_rest(pictures: Path) -> None:
    script = [sys.executable, str(EXAMPLES / "classify_pictures.py")]
    bundle = library.student("tflite", "int8").path
    for arguments, out, error in (
        ([bundle, "gone.png", pictures / "two-triangles.png"], "two-triangles.png: two green", "error: gone.png: no"),
        (["gone.edgevlm", pictures / "two-triangles.png"], "", "error: gone.edgevlm: expected a bundle folder"),
    ):
        command = [*script, *map(str, arguments), "--labels", LABELS]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stdout.startswith(out)
        assert error in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_custom_target_goes_through_the_whole_pipeline(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "custom_target.py")]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout == "pt2: passed\n"
    bundle = edgevlm.Bundle.open(tmp_path / "dist" / "edgevlm-student-pt2-fp32.edgevlm")
    assert bundle.manifest.target == "pt2"
