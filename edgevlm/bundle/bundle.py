"""The bundle, format version 1: a folder that says all about itself in `manifest.json`.

    NAME.edgevlm/
      manifest.json     what follows, with the sha256 and size of every other file
      model.tflite | model.pte | <component>.mlpackage/
      tokenizer.json    unless the bundle has no text tower
      golden/           pictures and texts with every stage's result, for tests on the device

It is a closed world: `Bundle.open` refuses a folder with a file that the manifest does not list, a listed one
missing or changed, a link, or a path that leads outside, before anything in it is loaded. Nothing is a pickle.
README.md beside this file says all of it to whoever writes a reader.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from edgevlm import schema
from edgevlm.bundle import versions
from edgevlm.bundle.claims import check_claims
from edgevlm.bundle.manifest import MANIFEST, BundledComponent, FileRecord, Manifest
from edgevlm.errors import BundleError


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose integrity has been checked.

    >>> bundle = edgevlm.Bundle.open("dist/edgevlm-student-coreml-fp16.edgevlm")
    >>> bundle.manifest.target, list(bundle.components)
    ('coreml', ['encode_image', 'encode_text'])
    >>> megabytes = bundle.artefact_bytes / 1e6

    Attributes:
        path: Its folder.
        manifest: What its `manifest.json` says.
        notes: What a user should know, and that is no reason to refuse it: whole sentences.
    """

    path: Path
    manifest: Manifest
    notes: tuple[str, ...] = ()

    @property
    def components(self) -> Mapping[str, BundledComponent]:
        return self.manifest.components

    @property
    def is_newer(self) -> bool:
        """Whether it is of a newer minor version of the format than this EdgeVLM's, whose keys are left out."""
        return versions.is_newer(self.manifest.format_version, where=str(self.path / MANIFEST))

    @property
    def functions(self) -> Mapping[str, BundledComponent]:
        """What the files answer, under their own names for it: a component once for each of its lengths.

        Specs have no lengths, and no state but among inputs and outputs. Of components without either, these are those.
        """
        return {
            each.function(length): replace(each, spec=each.spec.explicit(length, each.function(length)))
            if each.functions or each.spec.state
            else each
            for each in self.components.values()
            for length in each.spec.lengths or (1,)
        }

    def has_lengths(self, file: str) -> bool:
        """Whether a file answers a component that is run with several lengths."""
        return any(each.file == file and each.spec.lengths for each in self.components.values())

    @property
    def digest(self) -> str:
        """sha256 of `manifest.json`, which has that of every other file: one number that stands for every byte.

        Whoever publishes a bundle publishes its digest, and whoever ships it compares.
        """
        return f"sha256:{hash_file(self.path / MANIFEST)}"

    @property
    def size_bytes(self) -> int:
        """Of every file."""
        return sum(record.size_bytes for record in self.manifest.files.values())

    @property
    def artefact_bytes(self) -> int:
        """Of the files that a runtime loads."""
        return self._bytes_of({component.file for component in self.components.values()})

    def file_bytes(self, component: str) -> int:
        """Of the file that a runtime loads for one component."""
        return self._bytes_of({self.components[component].file})

    def _bytes_of(self, files: Collection[str]) -> int:
        return sum(record.size_bytes for path, record in self.manifest.files.items() if path.split("/")[0] in files)

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Reads the manifest and checks every file against it.

        Keys that a newer minor version of the format added are ignored, and named in `notes`. One that another takes
        the place of meanwhile is read again.

        Raises:
            BundleError: not a bundle, a version this EdgeVLM does not know, or damage (the message names it).
        """
        folder = Path(path)
        while True:
            before = _identity(folder)
            try:
                with _readable(folder):
                    manifest, notes = _read_manifest(folder)
                    check_claims(folder / MANIFEST, manifest)
                    _check_files(folder, manifest)
            except BundleError:
                if _identity(folder) == before:
                    raise
            else:
                if _identity(folder) == before:
                    return cls(folder, manifest, notes)


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


def hash_file(path: Path) -> str:
    """The file's sha256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _identity(folder: Path) -> tuple[int, int, int] | None:
    """Which folder lies there now."""
    try:
        found = folder.stat()
    except (OSError, ValueError):  # ValueError: a zero byte in its name
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns  # a number is given again once its folder is gone


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Says which file cannot be read, and why."""
    try:
        yield
    except OSError as error:
        raise BundleError(
            f"{error.filename or folder}: not readable: {error.strerror or error}",
            hint="whoever made the bundle can make it readable: chmod -R a+rX",
        ) from error


def _read_manifest(folder: Path) -> tuple[Manifest, tuple[str, ...]]:
    """The manifest, and what a user should know about its version."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise BundleError(
            f"{folder}: expected a bundle folder, found {'a file' if folder.exists() else 'nothing'}",
            hint="a bundle is a folder whose name ends in .edgevlm",
        )
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"{folder}: no {MANIFEST}, so this is not a bundle", hint="edgevlm convert writes bundles")
    data = schema.read_json(path, error=BundleError, hint="convert the model again", encoding="utf-8")
    version = data.get("format_version") if isinstance(data, dict) else None
    if not versions.is_newer(version, where=str(path)):
        return schema.read(Manifest, data, where=str(path), error=BundleError), ()
    ignored: list[str] = []
    manifest = schema.read(Manifest, data, where=str(path), error=BundleError, ignored=ignored)
    return manifest, (_note(folder, manifest.format_version, ignored),)


def _raise(error: OSError) -> None:
    raise error


def _note(folder: Path, version: str, ignored: list[str]) -> str:
    """What to say about a newer minor version."""
    keys = f" ({', '.join(sorted(ignored))})" if ignored else ""
    return (
        f"{folder} is in format {version}, this edgevlm knows {versions.own(version)}: what the newer format added is "
        f"ignored{keys}. To have it read, update edgevlm."
    )


def _check_files(folder: Path, manifest: Manifest) -> None:
    for name in manifest.files:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in name or name == MANIFEST:
            raise BundleError(f"{folder}: the manifest lists the path {name!r}, which leads out of the bundle")
    alike: dict[str, str] = {}
    for name in manifest.files:
        other = alike.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            raise BundleError(f"{folder}: {other!r} and {name!r} are one file where capitals do not count, as on a Mac")
    found = set()
    for root, folders, names in os.walk(folder, onerror=_raise):
        for name in (*folders, *names):
            path = Path(root, name)
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                raise BundleError(f"{path}: a bundle holds no links")
            if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
                raise BundleError(f"{path}: a bundle holds files and folders alone, and this is neither")
            if name in names:
                found.add(path.relative_to(folder).as_posix())
    for name in sorted(found - set(manifest.files) - {MANIFEST}):
        raise BundleError(f"{folder / name}: the manifest does not list this file", hint="remove it")
    for key, rules in (("text", manifest.text), ("dialogue", manifest.dialogue)):
        if rules is not None and rules.tokenizer_file not in manifest.files:
            raise BundleError(
                f"{folder}: {key}.tokenizer_file names {rules.tokenizer_file!r}, which is not in the bundle"
            )
    for name, component in manifest.components.items():
        file = component.file
        if file not in manifest.files and not any(listed.startswith(f"{file}/") for listed in manifest.files):
            raise BundleError(f"{folder}: the component {name!r} names the file {file!r}, which is not in the bundle")
    for name, record in manifest.files.items():
        path = folder / name
        if name not in found:
            raise BundleError(f"{path}: listed in the manifest and missing", hint="copy the whole folder again")
        size_bytes = path.stat().st_size
        if size_bytes != record.size_bytes:
            raise BundleError(
                f"{path}: expected {record.size_bytes} bytes, got {size_bytes}", hint="copy the bundle again"
            )
    for name, record in manifest.files.items():
        if hash_file(folder / name) != record.sha256:
            raise BundleError(
                f"{folder / name}: the content is not what the manifest's sha256 says", hint="copy it again"
            )
