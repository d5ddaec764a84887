"""What distillation adds to a step of plain supervised training, the teacher's embeddings being cached.

    python -m edgevlm.benchmarks.distillation [--rounds 5] [--keep | --json FILE]

Both train the same student on the same image folder, with the same views, optimiser and batch size, in turn. The plain
loop is a textbook's: a linear layer over the labels, cross-entropy, AdamW, nothing logged and nothing kept; channels
last in memory, as ours. Pictures a second are medians over windows of ten steps; what comes before the first step (the
teacher, above all) is left out.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import edgevlm
from edgevlm.benchmarks.measuring import keep, make_parser
from edgevlm.data.sources import open_data
from edgevlm.distillation.augmentation import view
from edgevlm.distillation.recipe import Augmentation, Schedule, resolve
from edgevlm.distillation.run_folder import RunFolder
from edgevlm.inputs.pictures import resize_and_crop
from edgevlm.models.students.config import square_pictures
from edgevlm.models.students.presets import preset
from edgevlm.models.students.towers import build_image_tower

STUDENT, TEACHER, PICTURES, BATCH, WINDOW, EMBEDDING_DIM = "hybrid-xs", "edgevlm-student", 640, 64, 10, 192
SCHEDULE = Schedule(epochs=6, batch_size=BATCH)


class Views(Dataset[tuple[Tensor, int]]):
    """A fresh view of every picture, and its label."""

    def __init__(self, folder: Path) -> None:
        self.data = open_data(folder)
        self.image = square_pictures(preset(STUDENT).image_size)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = view(self.data.picture(index), Augmentation(), random.Random())
        pixels = torch.from_numpy(resize_and_crop(picture, self.image)).permute(2, 0, 1)
        return pixels, self.data.example(index).label or 0


def train_plainly(folder: Path) -> float:
    """Pictures a second of the textbook loop."""
    views = Views(folder)
    network = nn.Sequential(
        build_image_tower(preset(STUDENT), EMBEDDING_DIM), nn.Linear(EMBEDDING_DIM, len(views.data.labels))
    )
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    loader = DataLoader(views, batch_size=BATCH, shuffle=True, drop_last=True)
    times: list[float] = []
    for _ in range(SCHEDULE.epochs):
        for pixels, label in loader:
            loss = nn.functional.cross_entropy(network(pixels.float()), label)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            times.append(time.perf_counter())
    windows = zip(times[::WINDOW], times[WINDOW::WINDOW], strict=False)
    return statistics.median(WINDOW * BATCH / (end - start) for start, end in windows)


def distill(folder: Path, cache: Path, out: Path) -> float:
    """Pictures a second of `edgevlm.distill` with the paper's four losses."""
    recipe = replace(resolve("ood"), schedule=SCHEDULE)
    edgevlm.distill(TEACHER, STUDENT, folder, out, recipe=recipe, cache=cache, workers=0)
    speeds: list[float] = [line["pictures_per_second"] for line in RunFolder(out).lines()[1:]]
    return statistics.median(speeds)


def write_pictures(folder: Path) -> None:
    """An image folder of rendered objects."""
    data = open_data(f"objects:train:{PICTURES}")
    for index in range(PICTURES):
        label = data.labels[data.example(index).label or 0].split()[-1]  # the shape
        (folder / label).mkdir(parents=True, exist_ok=True)
        data.picture(index).save(folder / label / f"{index}.png")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_pictures(root / "pictures")
        distill(root / "pictures", root / "cache", root / "warm-up")
        for turn in range(options.rounds):
            plain = train_plainly(root / "pictures")
            distilled = distill(root / "pictures", root / "cache", root / f"{turn}")
            rows.append({"plain": plain, "distilled": distilled, "ratio": plain / distilled})
            print(f"plain {plain:.1f} pictures/s, distilled {distilled:.1f}: {plain / distilled:.3f}x a step")
    ratio = statistics.median(row["ratio"] for row in rows)
    print(f"median {ratio:.3f}x")
    if options.keep or options.json:
        command = f"python -m edgevlm.benchmarks.distillation --rounds {options.rounds}"
        keep("distillation", {"pictures_per_second": rows, "median_ratio": ratio}, command, options.json)


if __name__ == "__main__":
    main()
