"""How long a prediction takes beside torch eager: one process, taking turns."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from edgevlm.benchmarks.evaluator.networks import IMAGE_SHAPE
from edgevlm.benchmarks.measuring import Rounds, clock_rounds
from edgevlm.runtimes.mlprogram.evaluator import MLProgram


@dataclass(frozen=True)
class Speed:
    """A package's predictions beside the network's own in torch.

    Attributes:
        eager_ms, evaluator_ms: Median wall times.
        ratio: Of the medians.
        ratio_quartiles: The middle half of the ratios of single rounds.
        cpu_ratio: Of the median CPU times, which other work on the machine stretches less.
        max_abs_error: Of the answers, against torch's.
    """

    network: str
    precision: str
    threads: int
    eager_ms: float
    evaluator_ms: float
    ratio: float
    ratio_quartiles: tuple[float, float]
    cpu_ratio: float
    max_abs_error: float


def measure_speed(
    name: str, network: nn.Module, packages: Mapping[str, Path], *, threads: int, rounds: int
) -> list[Speed]:
    """Every package of a network against the network itself, on so many threads.

    Args:
        packages: Precision -> package.
    """
    torch.set_num_threads(threads)
    image = torch.randn(IMAGE_SHAPE, generator=torch.Generator().manual_seed(0))
    inputs = {"image": image.numpy()}
    programs = {precision: MLProgram.open(path, threads=threads) for precision, path in packages.items()}
    with torch.inference_mode():
        expected = network(image)
        times = clock_rounds(
            {
                "eager": lambda: network(image),
                **{precision: partial(program.predict, inputs) for precision, program in programs.items()},
            },
            rounds,
        )
    found = []
    for precision, program in programs.items():
        (answer,) = program.predict(inputs).values()
        error = float((torch.as_tensor(answer) - expected).abs().max())
        found.append(_compared(name, precision, threads, times["eager"], times[precision], error))
    return found


def _compared(name: str, precision: str, threads: int, eager: Rounds, ours: Rounds, error: float) -> Speed:
    ratios = [mine / theirs for mine, theirs in zip(ours.walls_ms, eager.walls_ms, strict=True)]
    lower, _, upper = statistics.quantiles(ratios, n=4)
    return Speed(
        network=name,
        precision=precision,
        threads=threads,
        eager_ms=eager.median.wall_ms,
        evaluator_ms=ours.median.wall_ms,
        ratio=ours.median.wall_ms / eager.median.wall_ms,
        ratio_quartiles=(lower, upper),
        cpu_ratio=ours.median.cpu_ms / eager.median.cpu_ms,
        max_abs_error=error,
    )
