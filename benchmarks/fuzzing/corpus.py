"""The sound packages that are mutated, file by file, and what they answer."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coremltools as ct  # type: ignore[import-untyped]
from coremltools.proto import Model_pb2  # type: ignore[import-untyped]

from edgevlm.benchmarks.fuzzing.gallery import Inputs, gallery
from edgevlm.benchmarks.fuzzing.models import functions, models
from edgevlm.process.quiet import quiet

MANIFEST = "Manifest.json"
MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


@dataclass(frozen=True)
class Specimen:
    """One function of a sound package.

    Attributes:
        files: The package's files: path within it -> content.
        inputs: What it is run on.
        function: The function's name; None stands for the default one.
    """

    name: str
    files: Mapping[str, bytes]
    inputs: Inputs
    function: str | None = None

    @property
    def is_random(self) -> bool:
        """Whether it draws numbers, which with a seed of -1 are others each time."""
        return b"random_" in self.files[MODEL]

    @property
    def is_compressed(self) -> bool:
        """Whether it has compressed weights, which can be read without running it."""
        return b"constexpr_" in self.files[MODEL]


def build() -> tuple[Specimen, ...]:
    """All specimens: the same with the same versions of what builds them."""
    with quiet(), tempfile.TemporaryDirectory() as folder:
        specimens = [
            Specimen(name, _files(_saved(model, Path(folder, f"{name}.mlpackage"))), inputs)
            for name, (model, inputs) in {**models(), **gallery()}.items()
        ]
        files, inputs = _several(Path(folder))
    return *specimens, *(Specimen(f"several, {name or 'default'}", files, inputs, name) for name in (None, "second"))


def digest(specimens: tuple[Specimen, ...]) -> str:
    """A name for exactly these packages, to which the number of a mutant belongs."""
    every = hashlib.sha256()
    for specimen in specimens:
        for path, content in sorted(specimen.files.items()):
            every.update(f"{specimen.name}/{path} {len(content)} ".encode() + content)
    return every.hexdigest()[:16]


def _saved(model: Any, path: Path) -> Path:
    model.save(str(path))
    return path


def _several(folder: Path) -> tuple[Mapping[str, bytes], Inputs]:
    """A package of two functions."""
    descriptor, both = ct.utils.MultiFunctionDescriptor(), functions()
    for name, (model, _) in both.items():
        path = _saved(model, folder / f"{name}.mlpackage")
        descriptor.add_function(str(path), src_function_name="main", target_function_name=name)
    descriptor.default_function_name = "first"
    ct.utils.save_multifunction(descriptor, str(folder / "several.mlpackage"))
    return _files(folder / "several.mlpackage"), both["first"][1]


def _files(package: Path) -> Mapping[str, bytes]:
    files = {path.relative_to(package).as_posix(): path.read_bytes() for path in package.rglob("*") if path.is_file()}
    spec = Model_pb2.Model.FromString(files[MODEL])
    spec.description.ClearField("metadata")  # it has today's date
    files[MODEL] = spec.SerializeToString(deterministic=True)
    files[MANIFEST] = json.dumps(_with_fixed_names(json.loads(files[MANIFEST])), indent=4).encode()
    return dict(sorted(files.items()))


def _with_fixed_names(manifest: Any) -> Any:
    """A manifest whose entries are numbered, rather than named at random each time a package is saved."""
    by_path = sorted(manifest["itemInfoEntries"].items(), key=lambda entry: str(entry[1]["path"]))
    names = {old: f"00000000-0000-0000-0000-00000000000{number}" for number, (old, _) in enumerate(by_path)}
    entries = {names[old]: entry for old, entry in by_path}
    return {
        **manifest,
        "itemInfoEntries": entries,
        "rootModelIdentifier": names[manifest["rootModelIdentifier"]],
    }
