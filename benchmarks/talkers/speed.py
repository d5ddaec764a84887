"""How long a token and a prompt take a decoder of SmolVLM-256M's size: ours beside other toolchains' and the bandwidth.

    python -m edgevlm.benchmarks.talkers.speed --work WORK [--threads 1 2] [--rounds 3] [--keep | --json FILE]

All have the same random weights: LiteRT and ExecuTorch as bundles hold them, ONNX Runtime GenAI and OpenVINO
(`pip install 'edgevlm[peers]'`) as their own tools make them, and transformers on torch; Core ML's row is the
evaluator's. Each runs in a process of its own, in turns, several rounds; a figure is the median of the rounds' medians,
and ratios are within a number of threads. Files are made once and stay in WORK. What a token must read are its weights
and the caches; what memory gives is the fastest of some sums over 400 MB.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgevlm.benchmarks.measuring import in_fresh_process, keep, make_parser, plain_errors
from edgevlm.benchmarks.talkers import decoders
from edgevlm.benchmarks.talkers.decoders import CONTEXT
from edgevlm.benchmarks.talkers.size import checkpoint_in

MODULE = "edgevlm.benchmarks.talkers.speed"
RECIPES = ("fp32", "int8", "int4-weights")
PRECISIONS = {"fp32": "fp32", "int8": "int8", "int4-weights": "int4"}
"""What the peers call them."""
OURS, PEERS = ("tflite", "executorch", "coreml"), ("onnxruntime-genai", "openvino")
"""Core ML's is the evaluator's time."""


@dataclass(frozen=True)
class Contender:
    """One decoder.

    Attributes:
        toolchain: Whose.
        recipe: Of its weights.
        folder: With its files.
    """

    toolchain: str
    recipe: str
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.toolchain} {self.recipe}"

    @property
    def weight_bytes(self) -> int:
        """Of its files, which a token reads but for a table of embeddings that some have."""
        of_ours, of_peers = ("model.tflite", "model.pte", "weight.bin"), ("model.onnx.data", "openvino_model.bin")
        names = (*of_ours, *of_peers, "model.safetensors")
        return sum(path.stat().st_size for name in names for path in self.folder.rglob(name))


def main() -> None:
    """Makes the files, times them and prints."""
    parser = make_parser(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for the checkpoint and the files")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--recipes", nargs="+", default=RECIPES, choices=RECIPES)
    options = parser.parse_args()
    checkpoint = checkpoint_in(options.work)
    contenders = list(_made(checkpoint, options.work / "speed", options.recipes))
    figures = {
        "memory_gb_per_second": _bandwidth(),
        "state_bytes": _state_bytes(checkpoint),
        "rows": [row for threads in options.threads for row in _timed(contenders, threads, options.rounds)],
    }
    print(json.dumps(figures, indent=2))
    if options.keep or options.json:
        asked = f"--recipes {' '.join(options.recipes)} --rounds {options.rounds}"
        keep("talker-speed", figures, f"python -m {MODULE} --work WORK {asked} --keep", options.json)


def _made(checkpoint: Path, work: Path, recipes: tuple[str, ...]) -> Iterator[Contender]:
    """Every contender, made if it is not there."""
    llama = work / "llama"
    if not (llama / "tokenizer.json").exists():
        decoders.make_llama(checkpoint, llama)
    yield Contender("eager", "fp32", llama)
    for recipe in recipes:
        for toolchain in (*OURS, *PEERS):
            folder = work / f"{toolchain}-{recipe}"
            done = folder / "done"
            if not done.exists():
                folder.mkdir(parents=True, exist_ok=True)
                print(f"making {toolchain} {recipe}", flush=True)
                if toolchain in OURS:
                    decoders.make_ours(checkpoint, toolchain, recipe, folder)
                elif toolchain == "openvino":
                    decoders.make_openvino(llama, PRECISIONS[recipe], folder)
                else:
                    decoders.make_onnx(llama, PRECISIONS[recipe], folder)
                done.touch()
            yield Contender(toolchain, recipe, folder)


def _timed(contenders: list[Contender], threads: int, rounds: int) -> list[dict[str, Any]]:
    """A row of each contender: medians in milliseconds of the rounds' medians, and the rounds."""
    found: dict[str, list[Mapping[str, Any]]] = {each.name: [] for each in contenders}
    for turn in range(rounds):
        for each in contenders if turn % 2 == 0 else reversed(contenders):
            print(f"round {turn + 1} of {rounds}, {threads} threads: {each.name}", flush=True)
            arguments = [each.toolchain, str(each.folder), "--threads", str(threads)]
            environment = {"OMP_NUM_THREADS": str(threads)}
            found[each.name].append(
                in_fresh_process("edgevlm.benchmarks.talkers.decoders", *arguments, environment=environment)
            )
    rows = []
    for each in contenders:
        parts = found[each.name][0]["ms"]
        medians = {part: [statistics.median(one["ms"][part]) for one in found[each.name]] for part in parts}
        rows.append(
            {
                "toolchain": each.toolchain,
                "recipe": each.recipe,
                "threads": threads,
                "weight_bytes": each.weight_bytes,
                "ms": {part: round(statistics.median(one), 2) for part, one in medians.items()},
                "rounds_ms": {part: [round(number, 2) for number in one] for part, one in medians.items()},
                "peak_rss_mb": max(one["peak_rss_mb"] for one in found[each.name]),
            }
        )
    return rows


def _bandwidth() -> float:
    """What one core reads of memory, in GB of 10^9 bytes a second: the fastest of ten sums."""
    numbers, best = np.ones(100_000_000, np.float32), float("inf")
    for _ in range(10):
        began = time.perf_counter()
        numbers.sum()
        best = min(best, time.perf_counter() - began)
    return round(numbers.nbytes / best / 1e9, 2)


def _state_bytes(checkpoint: Path) -> int:
    """Of keys and values in float32, for the whole context."""
    text = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["text_config"]
    head_dim = text["hidden_size"] // text["num_attention_heads"]
    return 2 * 4 * CONTEXT * int(text["num_hidden_layers"] * text["num_key_value_heads"] * head_dim)


if __name__ == "__main__":
    with plain_errors():
        main()
