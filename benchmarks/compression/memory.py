"""The most memory that an artefact keeps resident; a process of its own, which does nothing else and prints JSON.

    python -m edgevlm.benchmarks.compression.memory BUNDLE

What importing the runtime costs is told apart, for that is the same whatever the recipe.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from edgevlm import schema
from edgevlm.benchmarks.compression.results import Memory
from edgevlm.benchmarks.compression.speed import inputs
from edgevlm.benchmarks.measuring import resident_mb
from edgevlm.bundle.bundle import Bundle
from edgevlm.targets import registry

_RUNTIMES = {
    "tflite": ("ai_edge_litert.interpreter",),
    "executorch": ("torch", "executorch.extension.pybindings._C", "executorch.kernels.quantized"),
}
"""What the sessions import, in their order."""


def measure(bundle: Bundle) -> Memory:
    """Runs every component twice: the first run may leave something for the second."""
    runtime = registry.runtime(bundle.manifest.target)
    for module in _RUNTIMES[bundle.manifest.target]:
        importlib.import_module(module)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew; see proc(5)
    imports_mb, libraries_mb = resident_mb("VmRSS"), resident_mb("RssFile")
    with runtime.open(bundle, threads=1) as session:
        for name, component in bundle.components.items():
            for _ in range(2):
                session.run(name, inputs(component.spec))
        return Memory(
            imports_mb=imports_mb,
            peak_mb=resident_mb("VmHWM") - imports_mb,
            mapped_mb=resident_mb("RssFile") - libraries_mb,
        )


def main() -> None:
    print(json.dumps(schema.write(measure(Bundle.open(Path(sys.argv[1]))))))


if __name__ == "__main__":
    main()
