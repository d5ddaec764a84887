"""Stands for TensorFlow Lite's benchmark_model in tests: runs the model with LiteRT, and says what that tool says."""

import sys
import time
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

FLAGS: dict[str, Any] = {
    "graph": "",
    "signature_to_run_for": "",
    "num_threads": -1,
    "use_xnnpack": False,
    "warmup_runs": 1,
    "warmup_min_secs": 0.5,
    "num_runs": 50,
    "min_secs": 1.0,
    "run_delay": -1.0,
}


def main() -> None:
    flags, unknown = dict(FLAGS), []
    for word in sys.argv[1:]:
        name, _, value = word.removeprefix("--").partition("=")
        if name in FLAGS:
            flags[name] = value == "true" if isinstance(FLAGS[name], bool) else type(FLAGS[name])(value)
        else:
            unknown.append(word)
    print("INFO: STARTING!")
    if unknown:
        print("WARN: Unconsumed cmdline flags:", *unknown)
    began = time.perf_counter()
    interpreter = Interpreter(model_path=flags["graph"], num_threads=flags["num_threads"])
    signatures = interpreter.get_signature_list()
    if flags["signature_to_run_for"] not in signatures:
        print('ERROR: Signature not specified or incorrect. Pass one of the following to "--signature_to_run_for"')
        sys.exit(1)
    runner = interpreter.get_signature_runner(flags["signature_to_run_for"])
    inputs = {name: drawn(detail["shape"], detail["dtype"]) for name, detail in runner.get_input_details().items()}
    load_us = 1e6 * (time.perf_counter() - began)
    print(f"INFO: Initialized session in {load_us / 1e3:.3f}ms.")

    def repeat(runs: int, seconds: float) -> list[int]:
        times: list[int] = []
        end = time.perf_counter() + seconds
        while len(times) < runs or time.perf_counter() < end:
            start = time.perf_counter_ns()
            runner(**inputs)
            times.append((time.perf_counter_ns() - start) // 1000)
            time.sleep(max(0.0, flags["run_delay"]))
        print(f"INFO: Running benchmark for at least {runs} iterations and at least {seconds:g} seconds but terminate")
        print(f"INFO: {stats(times)}\n")
        return times

    warm_up = repeat(flags["warmup_runs"], flags["warmup_min_secs"])
    times = repeat(flags["num_runs"], flags["min_secs"])
    means = f"Warmup (avg): {np.mean(warm_up):g}, Inference (avg): {np.mean(times):g}"
    print(f"INFO: Inference timings in us: Init: {load_us:.0f}, First inference: {warm_up[0]}, {means}")


def drawn(shape: Any, dtype: Any) -> Any:
    """In the ranges of `GetDataRangesForType`."""
    random = np.random.default_rng()
    if np.issubdtype(dtype, np.floating):
        return random.uniform(-0.5, 0.5, shape).astype(dtype)
    return random.integers(0, 99, shape, dtype, endpoint=True)


def stats(times: list[int]) -> str:
    """As `StatWithPercentiles::OutputToStream` has it, which says less of times that are all the same."""
    ranked = sorted(times)
    p5, median, p95 = (ranked[len(ranked) * share // 100] for share in (5, 50, 95))
    if ranked[0] == ranked[-1]:
        said = f"count={len(times)} curr={times[-1]}" + ("(all same)" if len(times) > 1 else "")
    else:
        said = (
            f"count={len(times)} first={times[0]} curr={times[-1]} min={ranked[0]} max={ranked[-1]} "
            f"avg={np.mean(times):g} std={np.std(times):.0f}"
        )
    return f"{said} p5={p5} median={median} p95={p95}"


main()
