from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgevlm.benchmarks.bundles import bundle_for_tests
from edgevlm.bundle.bundle import Bundle, seal, write_manifest
from edgevlm.bundle.integer_weights import WeightProof
from edgevlm.bundle.manifest import (
    FORMAT_VERSION,
    BundledComponent,
    CalibrationRecord,
)
from edgevlm.bundle.recipe import BUILTIN
from edgevlm.bundle.spec import ComponentSpec, ImagePreprocessing, Source, TensorSpec
from edgevlm.bundle.staging import staged
from edgevlm.errors import BundleError, OutputError

HALF = (0.5, 0.5, 0.5)


def make(folder: Path) -> Bundle:
    """A small bundle whose artefact is a package folder."""
    (folder / "encode_image.mlpackage" / "Data").mkdir(parents=True)
    (folder / "encode_image.mlpackage" / "Data" / "weight.bin").write_bytes(bytes(range(200)))
    (folder / "golden").mkdir()
    (folder / "golden" / "golden.json").write_text("{}")
    spec = ComponentSpec(
        "encode_image",
        (TensorSpec("pixels", "float32", (1, 3, 8, 8), "RGB"),),
        (TensorSpec("embedding", "float32", (1, 4), "unit vector"),),
    )
    return bundle_for_tests(
        folder,
        {"encode_image": BundledComponent(spec, "encode_image.mlpackage")},
        image=ImagePreprocessing(8, 8, "exact", 8, 8, "bicubic", False, 1 / 255, HALF, HALF),
        logit_scale=100.0,
        embedding_space_id="sha256:0",
        recipe=BUILTIN["fp16"],
        source=Source("small", "clip", "sha256:0", "MIT"),
        requires={"iOS": "16"},
        estimated_peak_memory_bytes=1,
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_at(tmp_path / "small.edgevlm")


def make_at(path: Path) -> Bundle:
    path.mkdir()
    return make(path)


def test_what_was_sealed_opens_as_it_was(bundle: Bundle) -> None:
    opened = Bundle.open(bundle.path)
    assert opened.manifest == bundle.manifest
    assert opened.size_bytes == 202


WEIGHTS = "encode_image.mlpackage/Data/weight.bin"


def _edit_manifest(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


TEXT = {
    "context_length": 8,
    "pad_id": 0,
    "eot_id": 1,
    "canonicalisation": "none",
    "lower_case": False,
    "tokenizer_file": "tokenizer.json",
}


def _list_path(name: str) -> Callable[[Path], None]:
    record = {"sha256": "0", "size_bytes": 0}
    return lambda path: _edit_manifest(path, lambda m: m["files"].update({name: record}))


ATTACKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file too many": (lambda path: (path / "extra.txt").write_text("x"), "does not list this file"),
    "a hidden file too many": (lambda path: (path / "golden" / ".x").write_text("x"), "does not list this file"),
    "a file missing": (lambda path: (path / WEIGHTS).unlink(), "missing"),
    "a byte flipped": (lambda path: (path / WEIGHTS).write_bytes(bytes([1, *range(1, 200)])), "sha256"),
    "a file cut short": (lambda path: os.truncate(path / WEIGHTS, 100), "expected 200 bytes, got 100"),
    "a path upwards": (_list_path("../outside"), "leads out of the bundle"),
    "a path upwards inside": (_list_path("golden/../../outside"), "leads out of the bundle"),
    "an absolute path": (_list_path("/etc/passwd"), "leads out of the bundle"),
    "a Windows path": (_list_path("C:\\outside"), "leads out of the bundle"),
    "a pipe": (lambda path: os.mkfifo(path / "pipe"), "files and folders alone"),
    "a pipe in place of a file": (
        lambda path: [(path / WEIGHTS).unlink(), os.mkfifo(path / WEIGHTS)],
        "files and folders alone",
    ),
    "a socket in place of a file": (
        lambda path: [(path / WEIGHTS).unlink(), os.mknod(path / WEIGHTS, 0o600 | stat.S_IFSOCK)],
        "files and folders alone",
    ),
    "a file of a terabyte": (
        lambda path: os.truncate(path / WEIGHTS, 1 << 40),
        "got 1099511627776",
    ),
    "a file of a terabyte that is listed": (
        lambda path: [
            os.truncate(path / WEIGHTS, 1 << 40),
            _edit_manifest(path, lambda m: m["files"][WEIGHTS].update(size_bytes=1 << 40)),
        ],
        "expected at most 68,719,476,736 bytes, got 1,099,511,627,776",
    ),
    "a link to a file": (lambda path: (path / "link").symlink_to("manifest.json"), "no links"),
    "a link to a folder": (lambda path: (path / "link").symlink_to("golden"), "no links"),
    "no manifest": (lambda path: (path / "manifest.json").unlink(), r"no manifest\.json"),
    "a manifest cut short": (lambda path: os.truncate(path / "manifest.json", 50), "not readable as JSON"),
    "a manifest that is no mapping": (lambda path: (path / "manifest.json").write_text("[]"), "format version"),
    "a version from the future": (lambda p: _edit_manifest(p, lambda m: m.update(format_version="5.0")), "got '5.0'"),
    "a picture without a width": (
        lambda path: _edit_manifest(path, lambda m: m["image"].update(width=0)),
        "image.width: expected 1 or more pixels, got 0",
    ),
    "a deviation of zero": (
        lambda path: _edit_manifest(path, lambda m: m["image"].update(std=[1, 0, 1])),
        r"image.std\[1\]: expected more than 0, got 0",
    ),
    "an unknown key": (lambda path: _edit_manifest(path, lambda m: m.update(extra=1)), "unknown key 'extra'"),
    "a key missing": (lambda path: _edit_manifest(path, lambda m: m.pop("target")), "'target' is missing"),
    "a number for a name": (lambda path: _edit_manifest(path, lambda m: m.update(name=3)), "expected str, got 3"),
    "two names that are one on a Mac": (_list_path("ENCODE_IMAGE.mlpackage/Data/weight.bin"), "capitals do not count"),
    "a key twice": (
        lambda path: (path / "manifest.json").write_text(
            (path / "manifest.json").read_text().replace("{", '{"name": "another",', 1)
        ),
        "the key 'name' occurs twice",
    ),
    **{
        f"a tokenizer at {file}": (
            lambda path, file=file: _edit_manifest(path, lambda m: m.update(text=TEXT | {"tokenizer_file": file})),
            "text.tokenizer_file names .* not in the bundle",
        )
        for file in ("../elsewhere.json", "/etc/passwd", "/dev/zero", "golden", "gone.json")
    },
    "a component without a file": (
        lambda path: _edit_manifest(path, lambda m: m["components"]["encode_image"].update(file="gone.mlpackage")),
        "not in the bundle",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_damage_is_refused_by_name(bundle: Bundle, attack: str) -> None:
    damage, message = ATTACKS[attack]
    damage(bundle.path)
    with pytest.raises(BundleError, match=message):
        Bundle.open(bundle.path)


def test_a_missing_folder_and_a_file_are_no_bundles(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="found nothing"):
        Bundle.open(tmp_path / "nothing")
    with pytest.raises(BundleError, match="found a file"):
        Bundle.open(tmp_path / "file")


def test_a_newer_minor_version_is_read_without_its_keys_and_a_note_says_so(bundle: Bundle) -> None:
    def renew(manifest: dict[str, Any]) -> None:
        manifest |= {"format_version": "1.7", "signature": {"by": "x"}}
        manifest["image"]["gamma"] = 2.2
        manifest["components"]["encode_image"]["spec"]["outputs"][0]["scale"] = 1

    _edit_manifest(bundle.path, renew)
    opened = Bundle.open(bundle.path)
    assert opened.manifest == replace(bundle.manifest, format_version="1.7")
    assert opened.is_newer
    (note,) = opened.notes
    assert f"is in format 1.7, this edgevlm knows {FORMAT_VERSION}" in note
    assert "(components.encode_image.spec.outputs[0].scale, image.gamma, signature)" in note
    assert "update edgevlm" in note


def test_a_newer_minor_version_is_refused_where_a_known_key_is_wrong(bundle: Bundle) -> None:
    _edit_manifest(bundle.path, lambda m: m.update(format_version="1.7", logit_scale="large", more=1))
    with pytest.raises(BundleError, match="logit_scale: expected float, got 'large'"):
        Bundle.open(bundle.path)


def test_a_bundle_of_this_version_or_an_older_one_has_no_notes(bundle: Bundle) -> None:
    assert (Bundle.open(bundle.path).notes, Bundle.open(bundle.path).is_newer) == ((), False)
    _edit_manifest(bundle.path, lambda m: m.update(format_version="1.1", more=1))
    with pytest.raises(BundleError, match="unknown key 'more'"):
        Bundle.open(bundle.path)


@pytest.mark.parametrize("version", ["5.0", "5.7", "10.0"])
def test_a_newer_major_version_is_refused_with_what_to_do(bundle: Bundle, version: str) -> None:
    _edit_manifest(bundle.path, lambda m: m.update(format_version=version, unknown=1))
    with pytest.raises(
        BundleError, match=f"expected format version 4.x, got '{version}', which a newer edgevlm"
    ) as found:
        Bundle.open(bundle.path)
    assert found.value.hint == "update edgevlm, or convert the model again with this one"


def test_an_older_major_version_is_refused_with_what_to_do(bundle: Bundle) -> None:
    _edit_manifest(bundle.path, lambda m: m.update(format_version="0.9"))
    with pytest.raises(BundleError, match="which this edgevlm reads no more") as found:
        Bundle.open(bundle.path)
    assert found.value.hint == "convert the model again with this edgevlm"


ODD_VERSIONS = [
    "1",
    "1.",
    ".2",
    "1.x",
    "1.02",
    "01.2",
    "1.2.0",
    " 1.2",
    "1.2\n",
    "-1.2",
    "1.\u0662",
    "",
    1.2,
    1,
    True,
    None,
]


@pytest.mark.parametrize("version", ODD_VERSIONS, ids=repr)
def test_what_is_no_version_is_refused(bundle: Bundle, version: object) -> None:
    _edit_manifest(bundle.path, lambda m: m.update(format_version=version))
    with pytest.raises(BundleError, match=re.escape(f"two whole numbers, got {version!r}")):
        Bundle.open(bundle.path)


def test_an_older_minor_version_is_read(bundle: Bundle) -> None:
    def age(manifest: dict[str, object]) -> None:
        """What 1.0 did not have."""
        manifest["format_version"] = "1.0"
        for key in ("compressed_size_bytes", "calibration", "weights"):
            del manifest[key]
        recipe = manifest["recipe"]
        assert isinstance(recipe, dict)
        manifest["recipe"] = {key: recipe[key] for key in ("name", "precision", "summary", "parity")}

    _edit_manifest(bundle.path, age)
    manifest = Bundle.open(bundle.path).manifest
    assert manifest == replace(bundle.manifest, format_version="1.0")
    assert (manifest.recipe, manifest.weights, manifest.calibration) == (BUILTIN["fp16"], (), None)


def test_what_compression_did_is_read_back(tmp_path: Path) -> None:
    proof = WeightProof("encode_image", {"4": 1, "8": 1}, {"8": "float32"}, 1, ("blocks.0.mlp.fc1",), ("a", "b"))
    record = CalibrationRecord("photos/", "queries.txt", 128, 3, "0" * 64)
    path = tmp_path / "small.edgevlm"
    sealed = make_at(path)
    manifest = replace(
        sealed.manifest,
        recipe=BUILTIN["int8-static"],
        weights=(proof,),
        calibration=record,
        compressed_size_bytes=150,
    )
    write_manifest(path, manifest)
    opened = Bundle.open(path).manifest
    assert opened == manifest
    assert opened.weights[0].decided == 2


def test_an_interrupted_build_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "b.edgevlm", force=False) as stage:
        make(stage.folder)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_replacement_keeps_the_old_bundle(bundle: Bundle) -> None:
    with pytest.raises(KeyboardInterrupt), staged(bundle.path, force=True) as stage:
        (stage.folder / "half").write_text("x")
        raise KeyboardInterrupt
    assert Bundle.open(bundle.path).manifest == bundle.manifest
    assert [path.name for path in bundle.path.parent.iterdir()] == [bundle.path.name]


def test_an_existing_bundle_is_replaced_only_with_force(bundle: Bundle) -> None:
    with pytest.raises(OutputError, match="exists already"), staged(bundle.path, force=False):
        pass
    with staged(bundle.path, force=True) as stage:
        make(stage.folder)
        (stage.folder / "new").write_text("x")
    assert (bundle.path / "new").is_file()
    assert [path.name for path in bundle.path.parent.iterdir()] == [bundle.path.name]


def test_a_reader_always_opens_one_of_the_two_while_a_bundle_is_replaced(bundle: Bundle) -> None:
    ended, found = threading.Event(), []

    def read() -> None:
        while not ended.is_set():
            try:
                opened = Bundle.open(bundle.path)
                found.append(opened.manifest.files[WEIGHTS].size_bytes)
            except BundleError as error:
                found.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(40):
        with staged(bundle.path, force=True) as stage:
            made = make(stage.folder)
            (stage.folder / WEIGHTS).write_bytes(bytes(turn))
            seal(stage.folder, made.manifest)
    ended.set()
    reader.join()
    assert set(found) <= {200, *range(40)}
    assert len(set(found)) > 2


def test_what_may_not_be_read_is_named(tmp_path: Path) -> None:
    names = ("manifest.json", WEIGHTS, "golden", "encode_image.mlpackage")
    for number, name in enumerate(names):
        (make_at(tmp_path / f"{number}").path / name).chmod(0)
    code = """
import sys
from edgevlm.bundle.bundle import Bundle
from edgevlm.errors import BundleError
for path in sys.argv[1:]:
    try:
        Bundle.open(path)
    except BundleError as error:
        print(error)
"""
    # root may read anything, unless that is taken from it
    bounded = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    if bounded and shutil.which("setpriv") is None:
        pytest.skip("needs setpriv, of util-linux, or another user than root")
    command = [*bounded, sys.executable, "-c", code, *(str(tmp_path / f"{number}") for number in range(len(names)))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    expected = [tmp_path / f"{number}" / name for number, name in enumerate(names)]
    for line, path in zip(done.stdout.splitlines(), expected, strict=True):
        assert re.fullmatch(f"{path}: (cannot be read|not readable): Permission denied", line)


def test_force_never_replaces_what_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "photo.jpg").write_bytes(b"x")
    with pytest.raises(OutputError, match="not a bundle"), staged(tmp_path / "precious", force=True):
        pass
    assert (tmp_path / "precious" / "photo.jpg").is_file()


def test_a_full_disk_is_said_plainly_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no disk space"), staged(tmp_path / "b.edgevlm", force=False):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_a_real_full_disk(tmp_path: Path) -> None:
    # /dev/full answers every write with ENOSPC.
    with pytest.raises(OutputError, match="no disk space"), staged(tmp_path / "b.edgevlm", force=False):
        Path("/dev/full").write_bytes(b"x")


def test_a_disk_that_fills_up_while_a_folder_is_copied(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "weight.bin").write_bytes(b"x")

    def copy(source: str, target: str) -> None:
        Path("/dev/full").write_bytes(Path(source).read_bytes())

    with pytest.raises(OutputError, match="no disk space"), staged(tmp_path / "b.edgevlm", force=False) as stage:
        shutil.copytree(tmp_path / "package", stage.folder / "package", copy_function=copy)
    assert [path.name for path in tmp_path.iterdir()] == ["package"]


def test_an_output_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write"), staged(tmp_path / "file" / "b.edgevlm", force=False):
        pass
