"""What published latencies say of the model that estimates latency from counts.

    python -m edgevlm.benchmarks.calibration [--keep]

Each network that somebody measured is counted on an emulator of the core that they measured it on; then each point is
left out and predicted from the others. With `--keep` the counts go into edgevlm/bench/estimates/published.yaml, which
estimates are fitted to, and the tables into the page.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgevlm import schema
from edgevlm.bench.estimates import published
from edgevlm.bench.estimates.published import CpuPoint, points
from edgevlm.benchmarks.calibration.counting import Counted, bundle, cluster, count
from edgevlm.benchmarks.calibration.page import page
from edgevlm.benchmarks.calibration.study import tables
from edgevlm.benchmarks.measuring import keep
from edgevlm.process import interrupts

PAGE = Path(__file__).with_name("README.md")
POINTS = Path(published.__file__).with_name("published.yaml")


def main() -> None:
    """Counts, leaves out and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--keep", action="store_true", help="keep the counts, the result and the page")
    keeps = parser.parse_args().keep
    known = points()
    counted = count_all(known.cpu)
    cpu = tuple(
        replace(point, instructions=each.counts.instructions) for point, each in zip(known.cpu, counted, strict=True)
    )
    found = tables(replace(known, cpu=cpu))
    for row in found["cpu"]:
        print(" | ".join(str(value) for value in row.values()))
    if keeps:
        POINTS.write_text(with_counts(POINTS.read_text(encoding="utf-8"), cpu), encoding="utf-8")
        work = [{"multiply_adds": each.multiply_adds, **schema.write(each.counts)} for each in counted]
        kept = keep("calibration", {**found, "counted": work}, "python -m edgevlm.benchmarks.calibration --keep")
        PAGE.write_text(page(json.loads(kept.read_text(encoding="utf-8"))), encoding="utf-8")


def count_all(points: Sequence[CpuPoint]) -> list[Counted]:
    """Counts each point's network on its core, and each network once on each."""
    found: dict[tuple[object, ...], Counted] = {}
    for network in dict.fromkeys(point.network for point in points):
        with interrupts.temporary_folder() as folder:
            made = bundle(network, folder / "bundle")
            for point in points:
                if point.network == network and _key(point) not in found:
                    found[_key(point)] = count(made, point)
                    print(
                        f"{network} on {point.core}: {found[_key(point)].counts.instructions:,} instructions",
                        flush=True,
                    )
    return [found[_key(point)] for point in points]


def with_counts(text: str, points: Sequence[CpuPoint]) -> str:
    """The text of `published.yaml` with the points' instructions, in their order."""
    numbers = iter([point.instructions for point in points])
    return re.sub(r"(?<=^    instructions: )\d+$", lambda _: str(next(numbers)), text, flags=re.MULTILINE)


def _key(point: CpuPoint) -> tuple[object, ...]:
    return (point.network, cluster(replace(point, clock_mhz=0)))


if __name__ == "__main__":
    main()
