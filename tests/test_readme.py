"""Every command in the README is run, in the README's order, in a copy of what it needs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgevlm.models.builtin import STUDENT, figures

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "examples", folder / "examples")
    return folder


def _without_setup(block: str) -> str:
    """The block without its environment (this one is used) and without what needs a network or runs these tests."""
    block = re.sub(
        r"python3\.11 -m venv \.venv && \. \.venv/bin/activate && pip install (-e )?'[^']*' &&\s*", "", block
    )
    lacking = ["needs a network", *([] if shutil.which("qemu-aarch64") else ["needs QEMU"])]
    lines = [
        line for line in block.splitlines() if not any(each in line for each in lacking) and line.strip() != "pytest"
    ]
    # The folder of the reader's own checkpoint is made here.
    return "\n".join(lines)


@pytest.mark.parametrize("index", range(len(BLOCKS)), ids=lambda index: f"block-{index}")
def test_block_runs(index: int, checkout: Path) -> None:
    language, block = BLOCKS[index]
    if "./my-siglip" in block and not (checkout / "my-siglip").exists():
        from checkpoints import write_siglip_checkpoint

        write_siglip_checkpoint(checkout / "my-siglip", amplified=False)
    text = _without_setup(block) if language == "bash" else block
    if language == "bash" and not text.strip():
        return
    if text.startswith("pip install"):
        return
    command = ["bash", "-euo", "pipefail", "-c", text] if language == "bash" else [sys.executable, "-c", text]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=checkout, capture_output=True, text=True, env=os.environ | {"PATH": path}, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_first_answer_is_right(checkout: Path) -> None:
    text = _without_setup(BLOCKS[0][1]).replace("edgevlm convert --target coreml &&\n", "")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", text],
        cwd=checkout,
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": path},
        check=True,
    )
    assert done.stdout.splitlines()[1].endswith("two green triangles")


def test_figures_are_those_that_were_kept() -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    study = (ROOT / "benchmarks" / "ood" / "README.md").read_text(encoding="utf-8")
    named, described = study.split("| **by name and description**")[0], study.split("| **by name and description**")[1]

    def unseen(part: str, row: str) -> str:
        found = re.search(rf"^\| {re.escape(row)} \| ([\d.]+)", part, re.MULTILINE)
        assert found
        return f"{float(found[1]):.0f} %"

    for part, claim in (
        (named, "told their names from {} to {}"),
        (described, "told what they look like from {} to {}"),
    ):
        assert claim.format(unseen(part, "label texts"), unseen(part, "+ proximity")) in text
    assert f"its teacher reaches {unseen(named, 'the teacher')} and {unseen(described, 'the teacher')}" in text
    found = figures(STUDENT)
    other = found["beside"]["undistilled, the same towers"]["accuracy"]["combinations"]["top1"]
    assert f"({100 * found['accuracy']['combinations']['top1']:.0f} % against {100 * other:.0f} %" in text
    assert f"`edgevlm-student` ({found['parameters'] / 1e6:.1f} M parameters" in text


def test_ci_runs_the_second_command() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert "command two" in script
    assert "pytest" in BLOCKS[1][1]
