"""What a session adds to the bare interpreter on the same file: the built-in student's image encoder, one thread.

    python -m edgevlm.benchmarks.sessions [--rounds 1000] [--keep | --json FILE]

A session checks names, dtypes, shapes and finiteness on every call. Core ML is left out: off Apple its evaluator has no
bare counterpart (`benchmarks/evaluator` compares that with torch).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

import edgevlm
from edgevlm.benchmarks.measuring import keep, make_parser, take_turns
from edgevlm.bundle.bundle import Bundle
from edgevlm.targets import registry

PIXELS = np.random.default_rng(0).uniform(0, 255, (1, 3, 64, 64)).astype(np.float32)


def bare_tflite(bundle: Bundle) -> Callable[[], NDArray[np.float32]]:
    from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-untyped]

    path = str(bundle.path / bundle.components["encode_image"].file)
    runner = Interpreter(model_path=path, num_threads=1).get_signature_runner("encode_image")
    return lambda: runner(pixels=PIXELS)["embedding"]


def bare_executorch(bundle: Bundle) -> Callable[[], NDArray[np.float32]]:
    from executorch.extension.pybindings import _C  # type: ignore[import-untyped]

    program = _C._load_program(str(bundle.path / bundle.components["encode_image"].file))
    method = program.load_method("encode_image")
    return lambda: method([torch.from_numpy(PIXELS)])[0].numpy()


BARE = {"tflite": bare_tflite, "executorch": bare_executorch}


def measure(target: str, rounds: int) -> dict[str, float | str]:
    with tempfile.TemporaryDirectory() as out:
        bundle = edgevlm.convert(target=target, recipe="fp32", out=out)
        with registry.runtime(target).open(bundle, threads=1) as session:
            bare = BARE[target](bundle)
            answer = session.run("encode_image", {"pixels": PIXELS})["embedding"]
            if not np.array_equal(answer, bare()):
                raise RuntimeError(f"{target}: the session and the bare interpreter disagree")
            times_ms = take_turns(
                {"bare": bare, "session": lambda: session.run("encode_image", {"pixels": PIXELS})}, rounds, 50
            )
    return {"target": target, **times_ms, "ratio": times_ms["session"] / times_ms["bare"]}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(target, options.rounds) for target in BARE]
    for row in rows:
        print(f"{row['target']:11} bare {row['bare']:.3f} ms, session {row['session']:.3f} ms: {row['ratio']:.3f}x")
    if options.keep or options.json:
        command = f"python -m edgevlm.benchmarks.sessions --rounds {options.rounds}"
        keep("sessions", {"rows": rows}, command, options.json)


if __name__ == "__main__":
    main()
