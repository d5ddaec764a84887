"""A target of one's own, in one file: PyTorch's exported programs (.pt2), run by PyTorch.

A real one would be a converter module and a runtime module in a package that declares

    [project.entry-points."edgevlm.targets"]
    pt2 = "my_package:target"

where `target` has the attributes `converter` and `runtime`. `edgevlm convert --target pt2` then works as for the
built-in targets: same bundle, same golden fixtures, same parity gate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgevlm.bundle import Array, Bundle, BundledComponent, Recipe
from edgevlm.targets import (
    BundleFile,
    Closing,
    OpCount,
    OpRange,
    Programs,
    Progress,
    Unsupported,
    find_component,
    silent,
    validate_inputs,
)


class Pt2Converter:
    """Writes each component as `<component>.pt2`."""

    target = "pt2"

    def unsupported(self, programs: Programs, recipe: Recipe) -> tuple[Unsupported, ...]:
        if recipe.precision == "fp32":
            return ()
        return (Unsupported(f"the precision {recipe.precision}", instead="--recipe fp32"),)

    def audit(
        self, programs: Programs, recipe: Recipe, samples: Mapping[str, Array], progress: Progress
    ) -> tuple[OpRange, ...]:
        return ()

    def lower(
        self, programs: Programs, recipe: Recipe, out_dir: Path, progress: Progress = silent
    ) -> tuple[BundleFile, ...]:
        files = []
        for name, program in programs.items():
            exported = torch.export.export(program.module, program.example, strict=False)
            torch.export.save(exported, out_dir / f"{name}.pt2")
            files.append(BundleFile(f"{name}.pt2", (name,), {"torch": "2.13"}))
        return tuple(files)


class Pt2Session(Closing):
    evidence = "host-runtime"

    def __init__(self, bundle: Bundle) -> None:
        self._components: Mapping[str, BundledComponent] = bundle.components
        self._modules = {name: _load(bundle, component).module() for name, component in bundle.components.items()}

    def run(self, component: str, inputs: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
        spec = find_component(self._components, component).spec
        arrays = validate_inputs(spec, inputs)
        with torch.no_grad():
            answer = self._modules[component](*(torch.from_numpy(array.copy()) for array in arrays.values()))
        return {spec.outputs[0].name: answer.numpy()}

    def close(self) -> None:
        self._modules.clear()


class Pt2Runtime:
    target = "pt2"

    def open(self, bundle: Bundle, *, threads: int | None = None) -> Pt2Session:
        if threads is not None:
            torch.set_num_threads(threads)
        return Pt2Session(bundle)

    def inspect(self, bundle: Bundle) -> dict[str, tuple[OpCount, ...]]:
        found = {}
        for name, component in bundle.components.items():
            nodes = _load(bundle, component).graph.nodes
            kinds = Counter(str(node.target) for node in nodes if node.op == "call_function")
            found[name] = tuple(OpCount(kind, count, "fp32", "torch") for kind, count in kinds.items())
        return found


class target:
    converter = Pt2Converter
    runtime = Pt2Runtime


def _load(bundle: Bundle, component: BundledComponent) -> Any:
    return torch.export.load(bundle.path / component.file)


if __name__ == "__main__":
    from importlib.metadata import EntryPoint

    import edgevlm
    from edgevlm.targets import registry

    # Stands in for the installed package's entry point.
    registry._plugins = lambda: {"pt2": EntryPoint("pt2", "__main__:target", "edgevlm.targets")}
    made = edgevlm.convert(target="pt2", recipe="fp32", force=True)
    print(f"{made.manifest.target}: passed")
