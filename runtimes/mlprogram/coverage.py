"""Which ops of ML Programs the evaluator computes, and what its results are compared with.

Nothing here is claimed: `oracles.json` lists what the tests of the ops compare with, and a test fails where the two
differ, where an op is computed that no test runs, or where one is neither computed nor listed below.
"""

from __future__ import annotations

import json
from importlib.resources import files

from edgevlm.runtimes.mlprogram.opsets import definitions
from edgevlm.targets.inspection import OpCoverage

NOT_COVERED = {
    "conv_quantized": "of the older neural network format alone, to which coremltools maps it",
}


def coverage() -> tuple[OpCoverage, ...]:
    """Every op, by name."""
    oracles = json.loads((files("edgevlm.runtimes.mlprogram") / "oracles.json").read_text(encoding="utf-8"))
    return tuple(
        OpCoverage(
            kind,
            opsets=tuple(version.opset for version in versions),
            oracles=tuple(oracles.get(kind, ())),
            reason=NOT_COVERED.get(kind, ""),
        )
        for kind, versions in definitions().items()
    )
