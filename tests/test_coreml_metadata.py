"""What a Core ML bundle says of its inputs, and each package of itself, to an app without the manifest."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import library
import pytest
from click.testing import CliRunner
from coremltools.proto import Model_pb2

from edgevlm.bundle.bundle import Bundle, seal
from edgevlm.bundle.manifest import PictureInput
from edgevlm.cli import main
from edgevlm.converters.coreml.metadata import SPECIFICATION, describe
from edgevlm.errors import BundleError
from edgevlm.targets import registry

LABELS = ("a red circle", "a blue star", "two green squares")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """One with every component."""
    return library.labelled_student(LABELS)


def _description(package: Path) -> Any:
    return Model_pb2.Model.FromString((package / SPECIFICATION).read_bytes()).description


def test_the_manifest_says_that_an_input_is_a_picture(bundle: Bundle) -> None:
    image = bundle.manifest.image
    for name in ("encode_image", "classify"):
        (picture,) = bundle.components[name].pictures.values()
        assert set(bundle.components[name].pictures) == {"pixels"}
        assert (picture.layout, picture.height, picture.width) == ("RGB", image.height, image.width)
        assert f"(value * {image.rescale:g} - mean) / std is computed inside" in picture.scaling
        assert f"the mean {image.mean[0]:g}, " in picture.scaling
    assert bundle.components["encode_text"].pictures == {}
    assert library.student("tflite", "int8").components["encode_image"].pictures == {}


def test_a_package_says_the_same(bundle: Bundle) -> None:
    component = bundle.components["encode_image"]
    (pixels,) = _description(bundle.path / component.file).input
    assert pixels.type.WhichOneof("Type") == "imageType"
    picture = component.pictures["pixels"]
    assert (pixels.type.imageType.height, pixels.type.imageType.width) == (picture.height, picture.width)
    said = (
        f"a picture, RGB, {picture.width} pixels wide and {picture.height} high, resized and cropped; {picture.scaling}"
    )
    assert pixels.shortDescription == said
    (ids,) = _description(bundle.path / bundle.components["encode_text"].file).input
    assert ids.shortDescription == "token ids, padded on the right"


def test_a_packages_metadata_is_filled(bundle: Bundle) -> None:
    manifest = bundle.manifest
    for name, component in bundle.components.items():
        about = _description(bundle.path / component.file).metadata
        assert about.shortDescription.startswith(
            f"{name} of {manifest.name}: takes {component.spec.inputs[0].name} [1, "
        )
        assert ("a picture, RGB" in about.shortDescription) == (name != "encode_text")
        assert about.author == f"{manifest.source.name}, converted by EdgeVLM"
        assert about.license == manifest.source.licence != ""
        assert about.versionString == manifest.source.revision != ""
        own = dict(about.userDefined)
        assert float(own["logit_scale"]) == manifest.embedding.logit_scale
        assert own["embedding_space_id"] == manifest.embedding.space_id
        assert (own["source"], own["recipe"]) == (manifest.source.name, manifest.recipe.name)
        assert json.loads(own.get("labels", "[]")) == (list(LABELS) if name == "classify" else [])
        assert "logit_bias" not in own


def test_a_bias_is_said_and_the_same_manifest_gives_the_same_bytes(bundle: Bundle, tmp_path: Path) -> None:
    package = tmp_path / "classify.mlpackage"
    shutil.copytree(bundle.path / bundle.components["classify"].file, package)
    before = (package / SPECIFICATION).read_bytes()
    describe(package, bundle.manifest)
    assert (package / SPECIFICATION).read_bytes() == before
    names = ("\u732b", 'a "quoted" one')
    assert bundle.manifest.labels is not None
    labels = replace(bundle.manifest.labels, names=names)
    describe(package, replace(bundle.manifest, logit_bias=-16.5, labels=labels))
    own = dict(_description(package).metadata.userDefined)
    assert own["logit_bias"] == "-16.5"
    assert json.loads(own["labels"]) == list(names)


@pytest.mark.parametrize("change", ["height", "no such input"])
def test_a_manifest_that_says_otherwise_is_refused(change: str, bundle: Bundle, tmp_path: Path) -> None:
    component = bundle.components["encode_image"]
    shutil.copytree(bundle.path / component.file, tmp_path / component.file)
    other = replace(component.pictures["pixels"], height=7)
    pictures: dict[str, PictureInput] = {"height": {"pixels": other}, "no such input": {"image": other}}[change]
    changed = replace(component, pictures=pictures)
    sealed = seal(tmp_path, replace(bundle.manifest, components={"encode_image": changed}))
    with pytest.raises(BundleError, match=r"the manifest says that encode_image takes the pictures \w+ \(RGB, 7 x "):
        registry.runtime("coreml").open(sealed)


def test_advice_is_to_who_can_act_on_it(bundle: Bundle) -> None:
    """Only EdgeVLM writes the graph of a bundle; of a package alone it may be anybody."""
    shown = CliRunner().invoke(main, ["inspect", str(bundle.path)]).stdout
    assert "Advice on encode_image, for the app's developer\n  neural engine: " in shown
    assert "fp32 runs on the GPU and the CPU alone" in " ".join(shown.split())
    package = str(bundle.path / bundle.components["encode_image"].file)
    assert "for the app's developer\n" in CliRunner().invoke(main, ["inspect", package]).stdout
    half = library.student("coreml", "fp16")
    ours = "Advice on encode_image, for EdgeVLM's converter alone: nothing to do for who embeds the bundle\n  speed: "
    assert ours in CliRunner().invoke(main, ["inspect", str(half.path)]).stdout
    package = str(half.path / half.components["encode_image"].file)
    assert "for who converted it\n  speed: " in CliRunner().invoke(main, ["inspect", package]).stdout
    found = json.loads(CliRunner().invoke(main, ["inspect", str(half.path), "--json"]).stdout)
    assert {each["to"] for each in found["advice"]["encode_image"]} == {"converter"}
