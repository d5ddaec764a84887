"""The ML Program evaluator beside torch eager: speed, memory, and how soon a package is open.

    python -m edgevlm.benchmarks.evaluator [--rounds 15] [--processes 3] [--keep | --json FILE]

Evaluator and torch run in one process and take turns, so that whatever else the machine does meets both; medians are
compared, and the middle half of the rounds' ratios says how steady they are. Memory and opening are those of fresh
processes. Only fp32 packages have a goal of speed: in fp16 every result is rounded, which torch eager does not do.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from edgevlm.benchmarks.evaluator.memory import Footprint, measure_footprint
from edgevlm.benchmarks.evaluator.networks import NETWORKS, write_package
from edgevlm.benchmarks.evaluator.speed import Speed, measure_speed
from edgevlm.benchmarks.measuring import keep, make_parser

SPEED_GOAL, MEMORY_GOAL, OPEN_GOAL_S = 1.2, 1.3, 2.0


@dataclass(frozen=True)
class Goal:
    """A figure beside what it should be at most; None where nothing is asked."""

    what: str
    found: str
    value: float
    at_most: float | None

    @property
    def verdict(self) -> str:
        if self.at_most is None:
            return "no goal"
        return f"{'holds' if self.value <= self.at_most else 'MISSED'}: at most {self.at_most:g}"


def goals(speeds: list[Speed], footprints: list[Footprint]) -> Iterator[Goal]:
    for each in speeds:
        low, high = each.ratio_quartiles
        yield Goal(
            f"{each.network} {each.precision}, {each.threads} thread{'s' * (each.threads > 1)}",
            f"{each.eager_ms:.1f} -> {each.evaluator_ms:.1f} ms, {each.ratio:.2f}x ({low:.2f} to {high:.2f}), "
            f"CPU {each.cpu_ratio:.2f}x",
            each.ratio,
            SPEED_GOAL if each.precision == "fp32" else None,
        )
    for package in footprints:
        what = f"{package.network} {package.precision}"
        needed = f"{package.weights_mb:.0f} + {package.activations_mb:.0f}"
        least, most = package.peak_range_mb
        yield Goal(
            f"{what}, memory",
            f"{needed} -> {package.peak_mb:.0f} MB ({least:.0f} to {most:.0f}), {package.ratio:.2f}x",
            package.ratio,
            MEMORY_GOAL,
        )
        yield Goal(f"{what}, open", f"{package.open_s:.2f} s", package.open_s, OPEN_GOAL_S)


def measure(folder: Path, *, rounds: int, processes: int) -> tuple[list[Speed], list[Footprint]]:
    """Converts each network in both precisions and measures the packages."""
    speeds: list[Speed] = []
    footprints: list[Footprint] = []
    for name, build in NETWORKS.items():
        torch.manual_seed(0)
        network = build().eval()
        packages = {
            precision: write_package(network, folder / f"{build.__name__}-{precision}.mlpackage", precision=precision)
            for precision in ("fp32", "fp16")
        }
        footprints += [measure_footprint(name, *each, processes=processes) for each in packages.items()]
        for threads in (1, 2):
            speeds += measure_speed(name, network, packages, threads=threads, rounds=rounds)
    return speeds, footprints


def main() -> None:
    """Measures and prints."""
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="how often each side predicts")
    parser.add_argument("--processes", type=int, default=3, help="how often a package is opened anew")
    options = parser.parse_args()
    load_at_start = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        speeds, footprints = measure(Path(folder), rounds=options.rounds, processes=options.processes)
    for goal in goals(speeds, footprints):
        print(f"{goal.what:32}{goal.found:64}{goal.verdict}")
    print(f"load {load_at_start:.1f} at the start, {os.getloadavg()[0]:.1f} at the end")
    if options.keep or options.json:
        figures = {
            "load_at_start": round(load_at_start, 2),
            "speed": [asdict(each) for each in speeds],
            "footprint": [asdict(each) for each in footprints],
        }
        command = f"python -m edgevlm.benchmarks.evaluator --rounds {options.rounds} --processes {options.processes}"
        keep("evaluator", figures, command, options.json)


if __name__ == "__main__":
    main()
