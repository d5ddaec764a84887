"""What the benchmark harness itself costs, and how long its commands take for the built-in student.

    python -m edgevlm.benchmarks.harness [--rounds 400] [--keep | --json FILE]

The first is a call of `edgevlm.onboard`'s engine, its clock read around it, beside the bare interpreter's on the
same file, in turns: the teacher's image encoder in float32 on one thread, a few milliseconds. The others are wall
times of commands as a user gives them.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

import edgevlm
from edgevlm.benchmarks.measuring import keep, make_parser, take_turns
from edgevlm.onboard.engines import BundleEngine

COMPONENT = "encode_image"


def overhead(rounds: int) -> dict[str, float]:
    """Median times of the bare call and of the harness's, in milliseconds, and their ratio."""
    from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-untyped]

    with tempfile.TemporaryDirectory() as out:
        bundle = edgevlm.convert("edgevlm-teacher", target="tflite", recipe="fp32", image_only=True, out=out)
        engine = BundleEngine(bundle, COMPONENT, 1)
        engine.load()
        path = str(bundle.path / bundle.components[COMPONENT].file)
        runner = Interpreter(model_path=path, num_threads=1).get_signature_runner(COMPONENT)
        if not np.array_equal(engine.run(), runner(**engine.inputs)["embedding"]):
            raise RuntimeError("the harness and the bare interpreter disagree")
        clocked: list[int] = []

        def harness() -> None:
            began = time.perf_counter_ns()
            engine.run()
            clocked.append(time.perf_counter_ns() - began)

        times_ms = take_turns({"bare": lambda: runner(**engine.inputs), "harness": harness}, rounds, 20)
    said_ms = statistics.median(clocked) / 1e6
    return {**times_ms, "said_ms": said_ms, "ratio": times_ms["harness"] / times_ms["bare"]}


def commands() -> dict[str, float]:
    """Wall seconds of `edgevlm bench` of the student, measured here and counted on an emulated Raspberry Pi 5."""
    found = {}
    with tempfile.TemporaryDirectory() as out:
        bundle = edgevlm.convert(target="tflite", recipe="int8", out=out)
        for device in ("host", "raspberry-pi-5"):
            words = ["bench", str(bundle.path), "--device", device, "--out", f"{out}/{device}"]
            began = time.monotonic()
            subprocess.run([sys.executable, "-m", "edgevlm", *words], check=True, capture_output=True)
            found[device] = time.monotonic() - began
    return found


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=400)
    options = parser.parse_args()
    cost = overhead(options.rounds)
    print(f"bare {cost['bare']:.3f} ms, harness {cost['harness']:.3f} ms: {cost['ratio']:.4f}x")
    seconds = commands()
    for device, taken in seconds.items():
        print(f"edgevlm bench --device {device}: {taken:.1f} s")
    if options.keep or options.json:
        figures: dict[str, Any] = {"overhead": cost, "command_seconds": seconds}
        keep("harness", figures, f"python -m edgevlm.benchmarks.harness --rounds {options.rounds}", options.json)


if __name__ == "__main__":
    main()
