"""Every example script, on bundles of every target."""

from __future__ import annotations

import contextlib
import csv
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


def test_a_model_that_talks_answers_and_captions(pictures: Path) -> None:
    bundle = library.talker("blip", "tflite", "fp32").path
    with edgevlm.open(bundle) as model:
        expected = [model.generate(picture, max_tokens=6).text for picture in sorted(pictures.iterdir())]
    answer = _run("stream_answer.py", bundle, min(pictures.iterdir()), "--max-tokens", "6")
    assert answer == f"{expected[0]}\n"
    (pictures / "broken.png").write_bytes(b"no picture")
    rows = list(csv.reader(io.StringIO(_run("caption_folder.py", bundle, pictures, "--max-tokens", "6"))))
    names = sorted(path.name for path in pictures.iterdir() if path.name != "broken.png")
    assert rows == [["picture", "caption"], *([name, text.strip()] for name, text in zip(names, expected, strict=True))]


@pytest.mark.slow
def test_a_model_that_talks_remembers_what_was_said(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, picture = library.talker("smolvlm", "tflite", "fp32").path, pictures / "yellow-star.png"
    with edgevlm.open(bundle) as model:
        chat = model.chat(picture)
        expected = [chat.ask(question, max_tokens=5).text for question in ("What is it?", "And its colour?")]
    monkeypatch.setattr(sys, "stdin", io.StringIO("What is it?\nAnd its colour?\n\nnot asked\n"))
    assert _run("chat_about_picture.py", bundle, picture, "--max-tokens", "5") == "".join(
        f"{each}\n" for each in expected
    )


@pytest.mark.slow
def test_a_custom_target_goes_through_the_whole_pipeline(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "custom_target.py")]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout == "pt2: passed\n"
    bundle = edgevlm.Bundle.open(tmp_path / "dist" / "edgevlm-student-pt2-fp32.edgevlm")
    assert bundle.manifest.target == "pt2"
