"""What an app ships of a bundle, and what golden fixtures hold for those who write its reader."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import library
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageCms

import edgevlm
from edgevlm.bundle.bundle import Bundle
from edgevlm.cli import main
from edgevlm.errors import BundleError, OutputError
from edgevlm.inputs.pictures import decode
from edgevlm.parity import golden, samples
from edgevlm.parity.icc import display_p3


def test_an_app_ships_all_but_the_fixtures(tmp_path: Path) -> None:
    bundle = library.student("tflite", "int8")
    done = CliRunner().invoke(main, ["export", str(bundle.path), "--for-app", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    made = Bundle.open(tmp_path / bundle.path.name)
    assert (found["bundle"], found["digest"], found["size_bytes"]) == (str(made.path), made.digest, made.size_bytes)
    assert set(found["left_out"]) == {name for name in bundle.manifest.files if name.startswith("golden/")}
    assert made.manifest.files == {
        name: record for name, record in bundle.manifest.files.items() if name not in found["left_out"]
    }
    assert made.digest != bundle.digest
    picture = bundle.path / "golden" / "grey.png"
    with edgevlm.open(made.path, trusted=True) as small, edgevlm.open(bundle.path) as whole:
        np.testing.assert_array_equal(small.encode_image([picture]), whole.encode_image([picture]))
    with pytest.raises(BundleError, match="has no golden fixtures"):
        edgevlm.verify(made)
    with pytest.raises(OutputError, match="exists already"):
        edgevlm.export_for_app(bundle, tmp_path)
    assert edgevlm.export_for_app(bundle, tmp_path, force=True).manifest == made.manifest


def test_golden_texts_are_those_that_readers_get_wrong() -> None:
    texts = samples.golden_texts()
    assert "" in texts
    everything = "".join(texts)
    assert {*"A'3é🚗北"} <= set(everything)
    assert any("  " in text for text in texts)
    bundle = library.student("tflite", "int8")
    stored, _, _ = golden.read(bundle.path)
    assert tuple(text.text for text in stored.texts) == texts
    assert bundle.manifest.text is not None
    with edgevlm.open(bundle.path) as model:
        assert model.tokenizer is not None
        counts = list(map(model.tokenizer.token_count, texts))
    assert max(counts) > bundle.manifest.text.context_length  # one is cut
    assert sorted(counts)[-2] <= bundle.manifest.text.context_length


def test_a_picture_whose_profile_must_not_be_applied() -> None:
    picture, _ = samples.golden_pictures()["p3.png"]
    stored = io.BytesIO()
    picture.save(stored, "PNG")
    read = Image.open(io.BytesIO(stored.getvalue()))
    assert read.info["icc_profile"] == display_p3()
    profile = ImageCms.ImageCmsProfile(io.BytesIO(display_p3()))
    assert ImageCms.getProfileDescription(profile).strip() == "Display P3, gamma 2.2"
    converted = ImageCms.profileToProfile(picture, profile, ImageCms.createProfile("sRGB"))
    assert converted is not None
    own = np.asarray(decode(stored.getvalue()))
    np.testing.assert_array_equal(own, np.asarray(picture))
    assert np.abs(own.astype(int) - np.asarray(converted)).mean() > 10  # what an app that applies it is off by


@pytest.mark.parametrize("place", ["beside itself", "in itself"])
def test_a_copy_takes_nothing_from_the_bundle_it_is_made_of(place: str, tmp_path: Path) -> None:
    own = shutil.copytree(library.student("tflite", "int8").path, tmp_path / "own.edgevlm")
    folder = tmp_path if place == "beside itself" else own
    with pytest.raises(OutputError, match="expected a place beside the bundle"):
        edgevlm.export_for_app(Bundle.open(own), folder, force=True)
    assert Bundle.open(own).manifest.files.keys() >= {"golden/golden.json"}
