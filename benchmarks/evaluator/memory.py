"""What a fresh process needs to open a package and to predict once: memory and time.

    python -m edgevlm.benchmarks.evaluator.memory PACKAGE [--bare]

With --bare it imports the same libraries and reads the specification alone: what the other process is measured against.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from edgevlm.benchmarks.evaluator.networks import IMAGE_SHAPE
from edgevlm.benchmarks.measuring import in_fresh_process, peak_rss_mb
from edgevlm.runtimes.mlprogram.evaluator import MLProgram
from edgevlm.runtimes.mlprogram.package import read_function, specification_version
from edgevlm.runtimes.mlprogram.program import Function, Named

_MODULE = "edgevlm.benchmarks.evaluator.memory"
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Footprint:
    """What a package needs, in MB of 10^6 bytes; medians over processes.

    Attributes:
        weights_mb: The size of its weight file.
        activations_mb: What the op with the widest inputs and results has, weights left out, as float32.
        peak_mb: The peak of resident memory, mapped weights included, beyond that of a process that only imports.
        peak_range_mb: The least and the greatest of the processes: what is freed is not always fit for use again.
        ratio: The peak's to weights and activations.
        open_s: From `MLProgram.open` to the program; the file is in the system's cache.
    """

    network: str
    precision: str
    weights_mb: float
    activations_mb: float
    peak_mb: float
    peak_range_mb: tuple[float, float]
    ratio: float
    open_s: float


def measure_footprint(name: str, precision: str, package: Path, *, processes: int) -> Footprint:
    """Opens a package in fresh processes, one after the other."""
    opened = [_processes(package) for _ in range(processes)]
    peaks_mb = [ours["peak_mb"] - bare["peak_mb"] for bare, ours in opened]
    peak_mb = statistics.median(peaks_mb)
    weights_mb = sum(file.stat().st_size for file in package.rglob("weight.bin")) / 1e6
    activations_mb = _widest(read_function(package)) / 1e6
    return Footprint(
        network=name,
        precision=precision,
        weights_mb=weights_mb,
        activations_mb=activations_mb,
        peak_mb=peak_mb,
        peak_range_mb=(min(peaks_mb), max(peaks_mb)),
        ratio=peak_mb / (weights_mb + activations_mb),
        open_s=statistics.median(ours["open_s"] for _, ours in opened),
    )


def _processes(package: Path) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """The figures of a process that only imports, and of one that predicts."""
    bare = in_fresh_process(_MODULE, str(package), "--bare", environment=_ONE_THREAD)
    return bare, in_fresh_process(_MODULE, str(package), environment=_ONE_THREAD)


def _widest(function: Function) -> int:
    """float32 bytes of the inputs and results of the op that has most, constants left out."""
    sizes = {each.name: _size(each) for each in function.inputs}
    widest = 0
    for operation in function.operations:
        if operation.kind == "const":
            continue
        read = {each for argument in operation.arguments.values() for each in argument if isinstance(each, str)}
        sizes |= {each.name: _size(each) for each in operation.outputs}
        widest = max(widest, sum(sizes.get(name, 0) for name in read | {each.name for each in operation.outputs}))
    return widest


def _size(named: Named) -> int:
    return 4 * math.prod(size or 1 for size in named.type.shape or ())


def main() -> None:
    """Prints the process's own figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("--bare", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    image = np.ones(IMAGE_SHAPE, np.float32)
    specification_version(arguments.package)  # imports what reads specifications
    start = time.perf_counter()
    if not arguments.bare:
        program = MLProgram.open(arguments.package, threads=1)
        open_s = time.perf_counter() - start
        program.predict({"image": image})
        print(json.dumps({"peak_mb": peak_rss_mb(), "open_s": open_s}))
    else:
        print(json.dumps({"peak_mb": peak_rss_mb()}))


if __name__ == "__main__":
    main()
