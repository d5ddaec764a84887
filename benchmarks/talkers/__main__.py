"""Converts models that talk to every target in every recipe, and keeps what each witness says.

    python tests/talkers.py WORK/checkpoints
    python -m edgevlm.benchmarks.talkers WORK/checkpoints/{llava,smolvlm,blip,internvl} --work WORK [--keep]

Resumable: what stands in WORK/rows.jsonl is not converted again. Rows of other checkpoints, and with `--target coreml`
of other targets, stay as they were kept, where the tools' versions are the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from edgevlm.benchmarks.measuring import RESULTS, keep, machine, make_parser, plain_errors
from edgevlm.benchmarks.talkers.page import page
from edgevlm.errors import InputError

RECIPES = ("fp32", "fp16", "int8", "int8-weights", "int4-weights")
TARGETS = ("coreml", "executorch", "tflite")
PAGE = Path(__file__).with_name("README.md")


def main() -> None:
    """Converts and prints."""
    parser = make_parser(__doc__)
    parser.add_argument("checkpoints", nargs="+", type=Path, help="folders in Hugging Face format")
    parser.add_argument("--work", type=Path, required=True, help="folder for bundles, cache and rows so far")
    parser.add_argument("--recipes", nargs="+", default=RECIPES, choices=RECIPES)
    parser.add_argument("--target", choices=(*TARGETS, "all"), default="all")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    asked = {each.name for each in options.checkpoints}
    kept_rows = _kept(asked, options.target) if options.keep else []
    rows = _convert_all(options.checkpoints, options.recipes, options.target, options.work)
    names = list(dict.fromkeys(row["checkpoint"] for row in (*kept_rows, *rows)))
    order = list(product(names, RECIPES, TARGETS))
    rows = sorted(rows + kept_rows, key=lambda row: order.index((row["checkpoint"], row["recipe"], row["target"])))
    figures = {"rows": rows}
    if options.keep or options.json:
        shown = ",".join(names)
        command = f"python -m edgevlm.benchmarks.talkers WORK/checkpoints/{{{shown}}} --work WORK"
        kept = keep("talkers", figures, f"{command} --keep", options.json)
        if options.json is None:
            PAGE.write_text(page(json.loads(kept.read_text(encoding="utf-8"))), encoding="utf-8")


def _kept(asked: set[str], target: str) -> list[dict[str, Any]]:
    """The rows of other checkpoints and other targets.

    Raises:
        InputError: there are some, and they were made by other versions of the tools.
    """
    kept = json.loads((RESULTS / "talkers.json").read_text(encoding="utf-8"))
    rows = [row for row in kept["rows"] if row["checkpoint"] not in asked or target not in ("all", row["target"])]
    then, now = (each["versions"] for each in (kept["machine"], machine()))
    if rows and then != now:
        raise InputError(
            f"expected the versions that the other rows were made by, {then}, got {now}",
            hint="convert all checkpoints to all targets",
        )
    return rows


def _convert_all(checkpoints: Sequence[Path], recipes: Sequence[str], target: str, work: Path) -> list[dict[str, Any]]:
    done = work / "rows.jsonl"
    rows = [json.loads(line) for line in done.read_text().splitlines()] if done.exists() else []
    for checkpoint in checkpoints:
        for recipe in recipes:
            if any((row["checkpoint"], row["recipe"]) == (checkpoint.name, recipe) for row in rows):
                continue
            outcomes = _convert(checkpoint, recipe, target, work)
            found = [_row(checkpoint.name, recipe, outcome) for outcome in outcomes]
            for row in found:
                print(json.dumps(row))
            rows += found
            with done.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in found)
    return rows


def _convert(checkpoint: Path, recipe: str, target: str, work: Path) -> list[dict[str, Any]]:
    """What `edgevlm convert` says of each target."""
    command = [sys.executable, "-m", "edgevlm", "convert", str(checkpoint), "--target", target, "--recipe", recipe]
    command += ["--lengths", "1,64", "--out", str(work / "dist"), "--force", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    outcomes: list[dict[str, Any]] = json.loads(done.stdout)["outcomes"]
    return outcomes


def _row(checkpoint: str, recipe: str, outcome: dict[str, Any]) -> dict[str, Any]:
    checks = (outcome.get("parity") or {}).get("checks", [])
    own = {each["measure"]: each["value"] for each in checks if each["component"] == "decode"}
    of_runners = [each for each in checks if each["component"] != "decode" and each["measure"] == "same_answers"]
    runners = {each["component"]: each["value"] for each in of_runners}
    return {
        "checkpoint": checkpoint,
        "recipe": recipe,
        "target": outcome["target"],
        "status": outcome["status"],
        "error": outcome["error"] and outcome["error"]["message"],
        "bytes": outcome["artefact_bytes"],
        "dialogues": (outcome.get("parity") or {}).get("samples"),
        "checks": own,
        "runners": runners,
    }


if __name__ == "__main__":
    with plain_errors():
        main()
