"""What a built-in model knows, before and after conversion; writes `figures.json` and the model card into its folder.

    python -m edgevlm.benchmarks.builtin FOLDER [--beside NAME=MODEL ...] [--scenes 1000] [--shipped-scenes 200]

FOLDER is a student's, such as `edgevlm/models/builtin/student`. Its artefacts are measured on the first of the scenes:
Core ML's programs are evaluated op by op off Apple, which takes its time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import edgevlm
from edgevlm import schema
from edgevlm.benchmarks.builtin_card import write_card
from edgevlm.evaluation.evaluation import evaluate
from edgevlm.models import builtin
from edgevlm.models.students import folder as folders
from edgevlm.models.students.parts import SmallText
from edgevlm.models.students.towers import cost, parameters
from edgevlm.process.writing import write_atomically

SPLITS = ("train", "combinations", "styles")
SHIPPED = (("coreml", "fp16"), ("executorch", "fp32"), ("tflite", "fp32"), ("tflite", "fp16"))


def measure(model: str | Path, scenes: int) -> dict[str, Any]:
    """Accuracy by split, on scenes that no training drew; see `edgevlm.evaluation.scene_zero_shot.SceneAccuracy`."""
    sets = {split: f"scenes:{split}:{scenes}:1:held-out" for split in SPLITS}
    found = evaluate(model, sets, attributes=True)
    return {each.name: asdict(each.attributes) for each in found.sets if each.attributes is not None}


def measure_shipped(folder: Path, scenes: int) -> list[dict[str, Any]]:
    """The same of each artefact, and of the float model on the very same scenes."""
    rows: list[dict[str, Any]] = [{"what": "torch fp32", "evidence": "reference", "accuracy": measure(folder, scenes)}]
    with tempfile.TemporaryDirectory() as out:
        for target, recipe in SHIPPED:
            bundle = edgevlm.convert(folder, target=target, recipe=recipe, out=Path(out) / recipe)
            parity = bundle.manifest.parity
            rows.append(
                {
                    "what": f"{target} {recipe}",
                    "evidence": parity.evidence if parity else "none",
                    "size_bytes": sum(file.size_bytes for file in bundle.manifest.files.values()),
                    "accuracy": measure(bundle.path, scenes),
                }
            )
            print(json.dumps({"what": rows[-1]["what"], **top1(rows[-1]["accuracy"])}), flush=True)
    return rows


def top1(accuracy: dict[str, Any]) -> dict[str, float]:
    """The headline of each split."""
    return {split: each["top1"] for split, each in accuracy.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--beside", action="append", default=[], metavar="NAME=MODEL", help="to compare with")
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--shipped-scenes", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    student = folders.read(options.folder)
    if not isinstance(student.text, SmallText):
        raise SystemExit(f"{options.folder}: expected a student with a text tower of its own")
    size = cost(student.image_config, student.embedding_dim)
    figures: dict[str, Any] = {
        "parameters": size.parameters + parameters(student.text.tower),
        "image_parameters": size.parameters,
        "multiply_adds": size.multiply_adds,
        "provenance": schema.write(student.provenance),
        "scenes": options.scenes,
        "accuracy": measure(options.folder, options.scenes),
        "beside": {},
        "shipped_scenes": options.shipped_scenes,
        "shipped": [],
    }
    print(json.dumps(top1(figures["accuracy"])), flush=True)
    for name, _, model in (each.partition("=") for each in options.beside):
        other = folders.read(builtin.FOLDERS.get(model, Path(model)))
        accuracy = measure(model, options.scenes)
        work = cost(other.image_config, other.embedding_dim).multiply_adds
        figures["beside"][name] = {"multiply_adds": work, "accuracy": accuracy}
        print(json.dumps({name: top1(accuracy)}), flush=True)
    if options.shipped_scenes:
        figures["shipped"] = measure_shipped(options.folder, options.shipped_scenes)
    write_atomically(options.folder / "figures.json", json.dumps(figures, indent=2) + "\n")
    write_card(options.folder)


if __name__ == "__main__":
    main()
