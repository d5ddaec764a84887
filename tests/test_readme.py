"""Every command in the README is run, each block in a copy of what it reads, and judged by what it prints."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from checkpoints import write_siglip_checkpoint
from library import student, talker
from talkers import write_smolvlm

from edgevlm.models.builtin import STUDENT, figures

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
COREML, TFLITE, EXECUTORCH = ("coreml", "fp16"), ("tflite", "int8"), ("executorch", "int8")


@dataclass(frozen=True)
class Block:
    """What is to be seen of a block of the README.

    Attributes:
        says: Regular expressions, found in this order in what the block prints: at least one a command.
        reads: The bundles of the built-in student that blocks before it have made.
        makes: Those that it makes itself, which other tests have in the cache.
        then: Lines that show what a block of Python has computed.
        quick: Whether it takes seconds.
        talks: Whether it reads the bundle of the reader's own model that talks.
    """

    says: tuple[str, ...]
    reads: tuple[tuple[str, str], ...] = ()
    makes: tuple[tuple[str, str], ...] = ()
    then: str = ""
    quick: bool = False
    talks: bool = False


SCENES = r"wrote {} pictures to {}"
BUNDLE = r"{0}: dist/{1}-{0}-{2}\.edgevlm"
SHOWN = (
    Block(
        (
            BUNDLE.format("coreml", "edgevlm-student", "fp16"),
            r"two-triangles\.png\n +\S+ +\d+\.\d%  two green triangles\n",
        ),
        makes=(COREML,),
        quick=True,
    ),
    Block(()),  # the environment, and these tests
    Block((BUNDLE.format("tflite", "my-siglip", "fp32"), BUNDLE.format("tflite", "edgevlm-student-labels", "fp16"))),
    Block(
        (
            BUNDLE.format("tflite", "my-smolvlm", "fp32"),
            r"^examples/pictures/two-triangles\.png: ",
        )
    ),
    Block((r"\[1\.0, True\]",), then="print([float(len(scores) - 1), bool((scores < 0).all())])", talks=True),
    Block(
        (
            r"executorch +palette-4 +refused: XNNPACK has no palettes",
            *(BUNDLE.format(target, "edgevlm-student", "int8") for target in ("coreml", "executorch", "tflite")),
            BUNDLE.format("tflite", "edgevlm-student", "int8-static"),
            r"FULLY_CONNECTED +\d+ +int8 +int8",
        ),
        makes=(("coreml", "int8"), TFLITE, EXECUTORCH),
    ),
    Block(
        (
            SCENES.format(300, "my-pictures"),
            SCENES.format(200, "unseen"),
            r"learned from +300 pictures",
            r"my-student: fp32, evidence: reference",
            r"pictures +300 +200\b",
            r"the teacher's top-1 +\d\d\.\d% +\d\d\.\d%",
            BUNDLE.format("tflite", "my-student", "fp32"),
            r"my-student-tflite-fp32\.edgevlm: fp32, evidence: host-runtime",
            r"zero-shot top-1 +\d",
        )
    ),
    Block(
        (
            r"\d+ of \d+ labels described.*: descriptions\.json",
            BUNDLE.format("tflite", "edgevlm-student-labels", "fp32"),
        )
    ),
    Block(
        (
            r"measured",
            r"report: bench/report\.html",
            r"raspberry-pi-5 +",
            *((r"emulated", r"estimated") if shutil.which("qemu-aarch64") else ()),
        ),
        reads=(TFLITE, EXECUTORCH),
    ),
    Block(
        (
            r"linear +\d+ +fp16",
            r"Advice on encode_text",
            r"token_ids",
            r"\d+ of \d+ ops are computed",
            r"files are what the manifest says",
            r"encode_image +min_cosine",
            r"files are what the manifest says",
            r"encode_image: no op differs from the model's",
            r"encode_text: no op differs from the model's",
        ),
        reads=(COREML,),
    ),
    Block(
        (r"^\[\[1\.0, 0\.0\]\] \(1, (\d+)\) \(2, \1\)$",),
        makes=(COREML,),
        then="print(scores.round(2).tolist(), images.shape, texts.shape)",
        quick=True,
    ),
    Block(
        (r"^\['embedding'\] True$",),
        reads=(COREML,),
        then="print(list(answer), 1 < tightest.headroom < float('inf'))",
        quick=True,
    ),
    Block(
        (r"^\['embedding'\] 1\.0$",),
        reads=(COREML,),
        then=("print(list(same), round(float((same['embedding'] ** 2).sum()), 2))"),
        quick=True,
    ),
    Block(
        (
            r"circle-and-square\.png: a red circle to the left of a blue square",
            r"two-triangles\.png: two green triangles",
            r"yellow-star\.png: a yellow star in the top right",
        ),
        reads=(COREML,),
    ),
    Block(
        (
            r"dist/pictures\.index: 3 pictures, 3 embedded now\n",
            r"^ *picture +cosine *\n[ ─]+\n +examples/pictures/yellow-star\.png +0\.\d+",
            r"edgevlm-student: fp32, evidence: reference",
            r"int8 +192 +\d+\.\d%",
            r"binary, then int8 +216",
        ),
        reads=(COREML,),
    ),
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    return tmp_path


def _without_setup(block: str) -> str:
    """The block without its environment (this one is used) and without what needs a network or runs these tests; its
    measurements with one thread, of one component, and shorter; its distillation shorter.
    """
    block = re.sub(
        r"python3\.11 -m venv \.venv && \. \.venv/bin/activate && pip install (--no-compile -e )?'[^']*' &&\s*",
        "",
        block,
    )
    block = re.sub(r"(?m)^(edgevlm bench dist/\S+)", r"\1 --threads 1 --seconds 0.3 --component encode_image", block)
    block = re.sub(r"--epochs \d+", "--epochs 1", block)
    lacking = ["needs a network", *([] if shutil.which("qemu-aarch64") else ["needs QEMU"])]
    return "\n".join(
        line for line in block.splitlines() if not any(each in line for each in lacking) and line.strip() != "pytest"
    )


@pytest.mark.parametrize(
    ("language", "block", "shown"),
    [
        pytest.param(*block, shown, id=f"block-{index}", marks=() if shown.quick else pytest.mark.slow)
        for index, (block, shown) in enumerate(zip(BLOCKS, SHOWN, strict=True))
        if shown.says
    ],
)
def test_a_block_prints_what_it_should(
    language: str, block: str, shown: Block, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout)
    for bundle in shown.makes:
        student(*bundle)
    for bundle in shown.reads:
        made = student(*bundle).path
        shutil.copytree(made, Path("dist", made.name))
    if shown.talks:
        shutil.copytree(talker("smolvlm", "tflite", "fp32").path, Path("dist", "my-smolvlm-tflite-fp32.edgevlm"))
    if "./my-smolvlm" in block:
        write_smolvlm(Path("my-smolvlm"))
    if "./my-siglip" in block:  # the folder of the reader's own checkpoint
        write_siglip_checkpoint(Path("my-siglip"), amplified=False)
    said = _bash(_without_setup(block)) if language == "bash" else _python(f"{block}\n{shown.then}")
    place = 0
    for each in shown.says:
        found = re.compile(each, re.MULTILINE).search(said, place)
        assert found, f"expected {each!r} in\n{said[place:]}"
        place = found.end()


def _bash(text: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-euo", "pipefail", "-c", text]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PATH": path}, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _python(text: str) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(text, "README.md", "exec"), {})
    return said.getvalue()


def test_only_the_setup_is_not_judged() -> None:
    unjudged = [block for (_, block), shown in zip(BLOCKS, SHOWN, strict=True) if not shown.says]
    assert [_without_setup(block).strip() for block in unjudged] == [""]


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


def test_ci_runs_the_second_command_and_then_what_is_slow() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert "command two" in script
    assert 'command="${command%pytest}wait && pytest && pytest -m slow"' in script
    assert BLOCKS[1][1].strip().endswith("&& pytest")
