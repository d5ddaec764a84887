"""What an app ships of a bundle: all but the fixtures that the artefact was held against."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from edgevlm.bundle.bundle import Bundle, write_manifest
from edgevlm.bundle.golden import FOLDER
from edgevlm.bundle.staging import staged
from edgevlm.errors import OutputError


def export_for_app(bundle: Bundle, folder: str | Path, *, force: bool = False) -> Bundle:
    """Copies a bundle without its golden fixtures, which nothing but tests reads.

    >>> small = edgevlm.export_for_app(edgevlm.Bundle.open("dist/edgevlm-student-coreml-fp16.edgevlm"), "app")
    >>> any(name.startswith("golden/") for name in small.manifest.files)
    False

    The copy is a bundle like any other, with a manifest and a digest of its own. `edgevlm verify` takes the bundle that
    it was made of: there is nothing in the copy to hold it against.

    Args:
        bundle: Which.
        folder: Where the copy goes, under the bundle's own name.
        force: Whether a bundle that lies there is replaced.

    Raises:
        OutputError: the copy would take the place of the bundle or lie in it; there is one and `force` is not set; it
            cannot be written, or the disk is full.
    """
    shipped = {name: record for name, record in bundle.manifest.files.items() if not is_fixture(name)}
    source = bundle.path.resolve()
    destination = Path(folder) / source.name
    if destination.resolve().is_relative_to(source):
        raise OutputError(f"{destination}: expected a place beside the bundle, got the bundle itself or a place in it")
    with staged(destination, force=force) as stage:
        for name in shipped:
            (stage.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.path / name, stage.folder / name)
        written = write_manifest(stage.folder, replace(bundle.manifest, files=shipped))
    return replace(written, path=destination)


def is_fixture(name: str) -> bool:
    """Whether a file of a bundle is there for tests alone."""
    return name.startswith(f"{FOLDER}/")
