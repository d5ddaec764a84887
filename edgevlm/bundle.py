"""The bundle, format version 1: a folder that says all about itself in `manifest.json`.

    NAME.edgevlm/
      manifest.json     what follows, with the sha256 and size of every other file
      model.tflite | model.pte | <component>.mlpackage/
      tokenizer.json    unless the bundle has no text tower
      golden/           pictures and texts with every stage's result, for tests on the device

It is a closed world: `Bundle.open` refuses a folder with a file that the manifest does not list, a listed one
missing or changed, a link, or a path that leads outside, before anything in it is loaded. Nothing is a pickle.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from edgevlm import interrupts, schema
from edgevlm.errors import BundleError, OutputError
from edgevlm.recipe import Recipe
from edgevlm.spec import ComponentSpec, ImagePreprocessing, Source, TextPreprocessing
from edgevlm.stored import WeightProof

FORMAT_VERSION = "1.2"
MANIFEST = "manifest.json"
SUFFIX = ".edgevlm"


@dataclass(frozen=True)
class BundledComponent:
    """A component and the file, or package folder, that answers it."""

    spec: ComponentSpec
    file: str


@dataclass(frozen=True)
class FileRecord:
    """What a file of the bundle must be."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class ParityCheck:
    """One comparison of the shipped file with the float reference.

    Attributes:
        component: Which component, or `zero-shot` for answers that need both towers.
        measure: `max_abs_error`, `min_cosine`, `centred_cosine`, `top1_agreement` or `finite`.
        value: What was measured.
        limit: What the recipe allows; None where the recipe sets no limit.
        passed: Whether the value is within the limit.
    """

    component: str
    measure: str
    value: float
    limit: float | None
    passed: bool


@dataclass(frozen=True)
class ParityReport:
    """All comparisons of one artefact.

    Attributes:
        evidence: `host-runtime` (the target's own runtime on the converting machine), `program-semantics` (the
            ML Program evaluator) or `device` (Apple's runtime).
        samples: Number of pictures compared.
        checks: The comparisons.
    """

    evidence: str
    samples: int
    checks: tuple[ParityCheck, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


@dataclass(frozen=True)
class Labels:
    """A baked label set: `classify` answers in this order.

    Attributes:
        names: What the answers are called.
        templates: Texts in which `{}` stands for the name.
        texts: For each label the texts whose embeddings were averaged, where descriptions are part of them; None
            where they are the filled templates.
    """

    names: tuple[str, ...]
    templates: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...] | None = None


@dataclass(frozen=True)
class CalibrationRecord:
    """The data that ranges were measured on.

    Attributes:
        data: What a user called it.
        texts: The file that texts came from; None where they are the data's own.
        samples: Number of pictures.
        seed: Of their choice.
        fingerprint: Hash of what was chosen.
    """

    data: str
    texts: str | None
    samples: int
    seed: int
    fingerprint: str


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` holds. Field order is the file's.

    Attributes:
        estimated_peak_memory_bytes: What the target's engine adds to a process at most while it opens the artefact and
            runs the component that needs most: weights as it keeps them, activations, the mapped file and its own
            library. A target that does not say: weights in float32 and activations.
        compressed_size_bytes: What the artefact's files come to in a compressed download (deflate); since 1.1.
        calibration: What ranges were measured on; None where none were; since 1.1.
        weights: Proof for each component whose weights are integers; since 1.1.
        multiply_adds: Of each component's convolutions, matrix products and attention; since 1.2.
    """

    format_version: str
    name: str
    target: str
    components: Mapping[str, BundledComponent]
    image: ImagePreprocessing
    text: TextPreprocessing | None
    labels: Labels | None
    embedding_dim: int
    logit_scale: float
    embedding_space_id: str
    recipe: Recipe
    source: Source
    requires: Mapping[str, str]
    estimated_peak_memory_bytes: int
    parity: ParityReport | None
    tool_versions: Mapping[str, str]
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    compressed_size_bytes: int | None = None
    calibration: CalibrationRecord | None = None
    weights: tuple[WeightProof, ...] = ()
    multiply_adds: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose integrity has been checked."""

    path: Path
    manifest: Manifest

    @property
    def components(self) -> Mapping[str, BundledComponent]:
        return self.manifest.components

    @property
    def size_bytes(self) -> int:
        """Of every file."""
        return sum(record.size_bytes for record in self.manifest.files.values())

    @property
    def artefact_bytes(self) -> int:
        """Of the files that a runtime loads."""
        artefacts = {component.file for component in self.components.values()}
        return sum(record.size_bytes for path, record in self.manifest.files.items() if path.split("/")[0] in artefacts)

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Reads the manifest and checks every file against it.

        Raises:
            BundleError: not a bundle, a version this EdgeVLM does not know, or damage (the message names it).
        """
        folder = Path(path)
        manifest = _read_manifest(folder)
        _check_files(folder, manifest)
        return cls(folder, manifest)


def seal(folder: Path, manifest: Manifest) -> Bundle:
    """Writes `manifest.json` with the hash and size of every file in the folder."""
    files = {
        path.relative_to(folder).as_posix(): FileRecord(hash_file(path), path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    }
    return write_manifest(folder, replace(manifest, files=files))


def write_manifest(folder: Path, manifest: Manifest) -> Bundle:
    """Writes `manifest.json` as it is given; the files that it lists must not have changed since."""
    text = json.dumps(schema.write(manifest), indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return Bundle(folder, manifest)


@dataclass
class Stage:
    """A folder under construction.

    Attributes:
        folder: Where to write.
        destination: What the folder is renamed to when the `staged` block ends; may be changed until then.
    """

    folder: Path
    destination: Path


@contextmanager
def staged(destination: Path, *, force: bool) -> Iterator[Stage]:
    """A temporary sibling of `destination` to write into, renamed to it when the block ends without an error.

    Whatever ends the block early, Ctrl-C included, leaves what was there before and nothing else.

    Raises:
        OutputError: the destination exists and `force` is not set, cannot be written, or the disk is full.
    """
    refuse_existing(destination, force=force)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with interrupts.temporary_folder(destination.parent, f".{destination.name}.") as folder:
            folder.chmod(0o755)
            stage = Stage(folder, destination)
            yield stage
            with interrupts.put_off():
                _swap(folder, stage.destination)
    except OSError as error:
        raise output_error(error, destination) from error


def refuse_existing(destination: Path, *, force: bool) -> None:
    """Raises OutputError if `destination` exists and may not be replaced: never anything that is not a bundle."""
    if destination.exists() and not force:
        raise OutputError(f"{destination} exists already", hint="--force replaces it, --out writes elsewhere")
    if destination.exists() and not (destination / MANIFEST).is_file():
        raise OutputError(f"{destination} exists and is not a bundle", hint="move it away, or use --out or --name")


def hash_file(path: Path) -> str:
    """The file's sha256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _swap(folder: Path, destination: Path) -> None:
    if not destination.exists():
        folder.rename(destination)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{destination.name}.old.", dir=destination.parent))
    try:
        destination.rename(old / destination.name)
        try:
            folder.rename(destination)
        except BaseException:
            (old / destination.name).rename(destination)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def output_error(error: OSError, destination: Path) -> OutputError:
    """What an OSError while writing `destination` means to a user: a full disk, or a folder that is not theirs."""
    # shutil.copytree gathers its errors in one that has no number.
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(error):
        free = shutil.disk_usage(destination.parent).free if destination.parent.exists() else 0
        return OutputError(
            f"no disk space left while writing {destination} ({free / 1e6:.0f} MB free)",
            hint="free some space, or write elsewhere with --out",
        )
    return OutputError(
        f"cannot write {destination}: {error.strerror or error}", hint="choose a folder you may write to with --out"
    )


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not folder.is_dir():
        raise BundleError(
            f"{folder}: expected a bundle folder, found {'a file' if folder.exists() else 'nothing'}",
            hint="a bundle is a folder whose name ends in .edgevlm",
        )
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"{folder}: no {MANIFEST}, so this is not a bundle", hint="edgevlm convert writes bundles")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: not readable as JSON: {error}", hint="convert the model again") from error
    version = data.get("format_version") if isinstance(data, dict) else None
    if not isinstance(version, str) or version.split(".")[0] != FORMAT_VERSION.split(".")[0]:
        raise BundleError(
            f"{path}: expected format version {FORMAT_VERSION.split('.')[0]}.x, got {version!r}",
            hint="update edgevlm, or convert the model again with this one",
        )
    return schema.read(Manifest, data, where=str(path), error=BundleError)


def _check_files(folder: Path, manifest: Manifest) -> None:
    for name in manifest.files:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in name or name == MANIFEST:
            raise BundleError(f"{folder}: the manifest lists the path {name!r}, which leads out of the bundle")
    found = set()
    for root, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(root, name)
            if path.is_symlink():
                raise BundleError(f"{path}: a bundle holds no links")
            if name in names:
                found.add(path.relative_to(folder).as_posix())
    for name in sorted(found - set(manifest.files) - {MANIFEST}):
        raise BundleError(f"{folder / name}: the manifest does not list this file", hint="remove it")
    for name, record in manifest.files.items():
        path = folder / name
        if name not in found:
            raise BundleError(f"{path}: listed in the manifest and missing", hint="copy the whole folder again")
        size_bytes = path.stat().st_size
        if size_bytes != record.size_bytes:
            raise BundleError(
                f"{path}: expected {record.size_bytes} bytes, got {size_bytes}", hint="copy the bundle again"
            )
        if hash_file(path) != record.sha256:
            raise BundleError(f"{path}: the content is not what the manifest's sha256 says", hint="copy it again")
    for name, component in manifest.components.items():
        file = component.file
        if file not in manifest.files and not any(listed.startswith(f"{file}/") for listed in manifest.files):
            raise BundleError(f"{folder}: the component {name!r} names the file {file!r}, which is not in the bundle")
