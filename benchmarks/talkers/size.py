"""Converts a model of SmolVLM-256M's size to every target, and asks one of the bundles: time, memory, words.

    python -m edgevlm.benchmarks.talkers.size --work WORK [--recipe int8] [--context 2048] [--keep | --json FILE]

One command for all targets, `edgevlm convert --target all`, with as many threads as it takes by itself. Weights are
random, so what is said means nothing. Peak memory is that of the largest process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from edgevlm.benchmarks.checkpoints import write_smolvlm
from edgevlm.benchmarks.measuring import keep, make_parser, plain_errors

MODULE = "edgevlm.benchmarks.talkers.size"
NAME = "smolvlm-256m"
PICTURE = Path(__file__).parents[2] / "examples/pictures/two-triangles.png"
QUESTION = "How many triangles are there?"
ASKED = "tflite"


def main() -> None:
    """Converts, asks and prints."""
    parser = make_parser(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for the checkpoint and bundles")
    parser.add_argument("--recipe", default="int8")
    parser.add_argument("--context", type=int, default=2048)
    options = parser.parse_args()
    checkpoint = checkpoint_in(options.work)
    figures = {
        "conversion": _converted(checkpoint, options.recipe, options.context, options.work / "dist"),
        "answer": _asked(options.work / "dist" / f"{NAME}-{ASKED}-{options.recipe}.edgevlm"),
    }
    print(json.dumps(figures, indent=2))
    if options.keep or options.json:
        command = f"python -m {MODULE} --work WORK --recipe {options.recipe} --context {options.context} --keep"
        keep("talker-size", figures, command, options.json)


def checkpoint_in(work: Path) -> Path:
    """The checkpoint, written if it is not there."""
    checkpoint = work / NAME
    if not (checkpoint / "chat_template.json").exists():  # which is written last
        write_smolvlm(checkpoint)
    return checkpoint


def _converted(checkpoint: Path, recipe: str, context: int, out: Path) -> dict[str, Any]:
    command = ["convert", str(checkpoint), "--target", "all", "--recipe", recipe, "--context", str(context)]
    said, figures = _run([*command, "--out", str(out), "--force", "--no-cache", "--json"])
    targets = [
        {
            "target": outcome["target"],
            "status": outcome["status"],
            "error": outcome["error"] and outcome["error"]["message"],
            "seconds": outcome["seconds"],
            "proof_seconds": outcome["parity_seconds"],
            "bytes": outcome["artefact_bytes"],
        }
        for outcome in json.loads(said)["outcomes"]
    ]
    return {**figures, "targets": targets}


def _asked(bundle: Path) -> dict[str, Any]:
    said, figures = _run(["run", str(bundle), str(PICTURE), "--ask", QUESTION, "--max-tokens", "32"])
    return {**figures, "text": said}


def _run(arguments: list[str]) -> tuple[str, dict[str, float]]:
    """What the command line says, and what it took: of text that streams, also until the first of it."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "edgevlm", *arguments], stdout=subprocess.PIPE)
    assert process.stdout is not None
    pieces = []
    while piece := os.read(process.stdout.fileno(), 1 << 16):
        pieces.append((time.perf_counter() - began, piece))
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"edgevlm {' '.join(arguments)} ended with {os.waitstatus_to_exitcode(status)}")
    figures = {
        "wall_seconds": round(time.perf_counter() - began, 1),
        "first_text_seconds": round(pieces[0][0], 1),
        "pieces": len(pieces),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gb": round(usage.ru_maxrss * 1024 / 1e9, 2),
    }
    return b"".join(piece for _, piece in pieces).decode(), figures


if __name__ == "__main__":
    with plain_errors():
        main()
