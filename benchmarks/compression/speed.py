"""How long one artefact runs beside its fp32 counterpart; a process of its own, which prints JSON.

    python -m edgevlm.benchmarks.compression.speed FP32_BUNDLE BUNDLE ROUNDS

Both are open in one process, on one thread, and take turns after a warm-up.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from edgevlm import schema
from edgevlm.benchmarks.compression.results import Speed
from edgevlm.benchmarks.measuring import clock_turns
from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.spec import Array, ComponentSpec
from edgevlm.targets import registry


def inputs(spec: ComponentSpec) -> dict[str, Array]:
    """Any: no kernel's time depends on values. Pixels in 0..255, and a token that every vocabulary has."""
    draw = np.random.default_rng(0)
    return {
        tensor.name: np.ones(tensor.shape, np.int32)
        if tensor.dtype == "int32"
        else draw.uniform(0, 255, tensor.shape).astype(np.float32)
        for tensor in spec.inputs
    }


def compare(fp32: Bundle, other: Bundle, rounds: int) -> dict[str, Speed]:
    """Times of each component."""
    runtime = registry.runtime(other.manifest.target)
    found = {}
    with ExitStack() as stack:
        sessions = {
            name: stack.enter_context(runtime.open(bundle, threads=1))
            for name, bundle in {"fp32": fp32, "other": other}.items()
        }
        for name, component in other.components.items():
            given = inputs(component.spec)
            times = clock_turns({who: partial(each.run, name, given) for who, each in sessions.items()}, rounds)
            found[name] = Speed(times["other"], times["fp32"])
    return found


def main() -> None:
    fp32, other = (Bundle.open(Path(path)) for path in sys.argv[1:3])
    print(json.dumps(schema.write(compare(fp32, other, int(sys.argv[3])))))


if __name__ == "__main__":
    main()
