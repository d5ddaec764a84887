"""What is planted, and what `edgevlm verify --blame` finds.

    python -m edgevlm.benchmarks.blame [--keep]

A small tower is converted to every target with one fault at a time, and each op of what came out is compared with the
sound model. Right is a fault that is blamed on the layer in which it was planted; the sound tower must blame nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from edgevlm.benchmarks.blame.page import page
from edgevlm.benchmarks.blame.plants import PLANTS, blamed
from edgevlm.benchmarks.measuring import keep
from edgevlm.targets import registry

PAGE = Path(__file__).with_name("README.md")


def main() -> None:
    """Plants, blames and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--keep", action="store_true", help="keep the result in benchmarks/results/, and the page")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for target in registry.CONVERTERS:
            for number, plant in enumerate((None, *PLANTS)):
                found = blamed(plant, target, Path(folder, f"{target}-{number}.edgevlm"))
                culprit = found.culprit
                row = {
                    "target": target,
                    "planted": plant.name if plant else "nothing",
                    "in": plant.place if plant else "",
                    "blamed": f"{culprit.kind} {culprit.op}" if culprit else "nothing",
                    "of": culprit.layer if culprit else "",
                    "error": culprit.error if culprit else None,
                    "right": (culprit is None)
                    if plant is None
                    else (culprit is not None and culprit.layer == plant.place),
                }
                rows.append(row)
                print(" | ".join(str(value) for value in row.values()))
    right = sum(row["right"] for row in rows)
    print(f"{right} of {len(rows)} right")
    if arguments.keep:
        kept = keep(
            "blame", {"right": right, "of": len(rows), "rows": rows}, "python -m edgevlm.benchmarks.blame --keep"
        )
        PAGE.write_text(page(json.loads(kept.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
