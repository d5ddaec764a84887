"""How long a user waits: `edgevlm --help`, and a conversion of the built-in student that was done before.

    python -m edgevlm.benchmarks.startup [--keep | --json FILE]

Every figure is a fresh process's wall time in seconds.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from edgevlm.benchmarks.measuring import keep, make_parser

TARGETS = ("coreml", "executorch", "tflite")


def wall_s(*arguments: str, cache: str) -> float:
    """Seconds that `edgevlm ARGUMENTS` takes."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "edgevlm", *arguments]
    environment = os.environ | {"EDGEVLM_CACHE_DIR": cache, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return time.perf_counter() - began


def main() -> None:
    parser = make_parser(__doc__)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        help_s = statistics.median(wall_s("--help", cache=folder) for _ in range(10))
        print(f"--help      {help_s:.3f} s")
        for target in TARGETS:
            cache = str(Path(folder) / "cache")
            first, again = (
                wall_s("convert", "--target", target, "--out", str(Path(folder) / run), cache=cache)
                for run in ("first", "again")
            )
            rows.append({"target": target, "first_s": first, "again_s": again, "ratio": again / first})
            print(f"{target:11} first {first:.1f} s, again {again:.2f} s: {again / first:.3f}x")
    if options.keep or options.json:
        keep("startup", {"help_s": help_s, "rows": rows}, "python -m edgevlm.benchmarks.startup", options.json)


if __name__ == "__main__":
    main()
