"""The bundles that are compared, in a work folder: what was converted before is not converted again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgevlm.benchmarks.checkpoints import write_clip, write_siglip
from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.manifest import SUFFIX
from edgevlm.bundle.recipe import BUILTIN
from edgevlm.compression.calibration import CalibrationSource
from edgevlm.conversion import pipeline
from edgevlm.process.progress import Progress, silent

MODELS = {
    "edgevlm-student": "the built-in student, which is trained",
    "clip-vit-b32": "a CLIP of ViT-B/32's size with random weights",
    "siglip-b16-224": "a SigLIP of base/16-224's size with random weights",
}
"""What the table is about; any other model that `edgevlm convert` takes can be measured too."""

CALIBRATION = CalibrationSource("scenes:train:500:3")
_WRITERS: dict[str, Callable[[Path], Path]] = {"clip-vit-b32": write_clip, "siglip-b16-224": write_siglip}


@dataclass(frozen=True)
class Conversion:
    """What became of one model, target and recipe.

    Attributes:
        bundle: What was written, be its parity within the recipe's limits or not; None where nothing was.
        refused: Why nothing was; else empty.
    """

    bundle: Bundle | None
    refused: str = ""


def locate_model(name: str, work: Path) -> str | Path:
    """What the pipeline calls a model; those with random weights are written into the work folder first."""
    if name not in _WRITERS:
        return name
    folder = work / "checkpoints" / name
    if not (folder / "preprocessor_config.json").is_file():  # the last file to be written
        _WRITERS[name](folder)
    return folder


def convert(
    model: str, recipe: str, targets: Sequence[str], work: Path, progress: Progress = silent
) -> dict[str, Conversion]:
    """Converts to those of the targets that are not in the work folder yet; one compression serves them all."""
    request = pipeline.Request(
        model=locate_model(model, work),
        targets=tuple(targets),
        recipe=BUILTIN[recipe],
        out=work / "bundles",
        use_cache=False,
        calibration=CALIBRATION,
    )
    destinations = {target: request.destination(target) for target in targets}
    found = {target: _find(destination) for target, destination in destinations.items()}
    missing = tuple(target for target, conversion in found.items() if conversion is None)
    for outcome in pipeline.convert(replace(request, targets=missing), progress) if missing else ():
        if outcome.error:
            note = _note(destinations[outcome.target])
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(outcome.error.message, encoding="utf-8")
        found[outcome.target] = Conversion(outcome.bundle, outcome.error.message if outcome.error else "")
    return {target: conversion for target, conversion in found.items() if conversion}


def _find(destination: Path) -> Conversion | None:
    stem = destination.name.removesuffix(SUFFIX)
    for path in (destination, destination.with_name(f"{stem}.failed-parity{SUFFIX}")):
        if path.is_dir():
            return Conversion(Bundle.open(path))
    note = _note(destination)
    return Conversion(None, note.read_text(encoding="utf-8")) if note.is_file() else None


def _note(destination: Path) -> Path:
    """Where it is kept why there is no bundle."""
    return destination.with_suffix(".refused.txt")
