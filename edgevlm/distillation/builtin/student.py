"""Distils the built-in student from the built-in teacher, on rendered scenes.

    python -m edgevlm.distillation.builtin.student --out OUT

The losses need pictures alone: where the teacher puts them, and what tells them apart there. The text tower stays the
teacher's. Stopped and started again with the same OUT, it goes on where it was.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import torch

from edgevlm.distillation.distillation import Request, distill
from edgevlm.distillation.recipe import Augmentation, DistillRecipe, LossTerm, Schedule
from edgevlm.models.builtin import TEACHER
from edgevlm.models.students import folder as folders
from edgevlm.models.students.layout import is_student

TOWER = "grid-xxs"
DATA = "scenes:train:120000:7"
RECIPE = DistillRecipe(
    name="built-in-student",
    summary="the built-in student's",
    losses=(LossTerm("feature_mse", 4.0), LossTerm("image_contrastive")),
    schedule=Schedule(epochs=14, batch_size=256, learning_rate=3e-3),
    augmentation=Augmentation(crop_scale=(1.0, 1.0), jitter=0.0),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the model and its log")
    parser.add_argument("--threads", type=int, default=1, help="of the training process; one more draws scenes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    run = options.out / "run"
    if not is_student(run):
        request = Request((TEACHER,), TOWER, DATA, RECIPE, run, precision="bf16")
        distill(request, progress=lambda stage, share: print(stage, flush=True))
    student = folders.read(run)
    made = {"command": "python -m edgevlm.distillation.builtin.student --out OUT", **student.provenance}
    folders.save(options.out, replace(student, provenance=made), dtype=torch.float16)
    shutil.copy(run / "metrics.jsonl", options.out / "training.jsonl")


if __name__ == "__main__":
    main()
