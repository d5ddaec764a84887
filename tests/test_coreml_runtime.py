"""The Core ML runtime over real bundles, on the ML Program evaluator."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from mlprograms import write_program

from edgevlm.benchmarks.bundles import bundle_for_tests
from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.manifest import BundledComponent
from edgevlm.bundle.spec import ComponentSpec, TensorSpec
from edgevlm.errors import BundleError, MissingDependency, TensorError, UnsupportedError
from edgevlm.runtimes import coreml
from edgevlm.runtimes.coreml import CoreMLRuntime
from edgevlm.targets.inspection import OpCount

pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="there Apple's own runtime answers")

WEIGHT = np.random.default_rng(0).standard_normal((5, 12)).astype(np.float32)
PIXELS = TensorSpec("pixels", "float32", (1, 3, 2, 2), "RGB, 0..255")
IDS = TensorSpec("ids", "int32", (1, 4), "token ids")
EMBEDDING = TensorSpec("embedding", "float32", (1, 5), "unit norm")
ENCODE_IMAGE = ComponentSpec("encode_image", (PIXELS,), (EMBEDDING,))
ENCODE_TEXT = ComponentSpec("encode_text", (IDS,), (EMBEDDING,))


def embed_pixels(pixels: Any) -> Any:
    return mb.linear(x=mb.reshape(x=pixels, shape=[1, 12]), weight=WEIGHT)


def embed_ids(ids: Any) -> Any:
    return mb.reduce_sum(x=mb.gather(x=WEIGHT.T.copy(), indices=ids), axes=[1])


def write_bundle(folder: Path, components: Mapping[str, tuple[ComponentSpec, Any]]) -> Bundle:
    folder.mkdir()
    bundled = {}
    for name, (spec, body) in components.items():
        given = {each.name: np.zeros(each.shape, each.dtype) for each in spec.inputs}
        write_program(folder / f"{name}.mlpackage", given, body, names=("embedding",))
        bundled[name] = BundledComponent(spec, f"{name}.mlpackage")
    return bundle_for_tests(folder, bundled)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle") / "small.edgevlm"
    towers = {"encode_image": (ENCODE_IMAGE, embed_pixels), "encode_text": (ENCODE_TEXT, embed_ids)}
    return write_bundle(folder, towers)


def test_each_component_answers_with_program_semantics(bundle: Bundle) -> None:
    pixels = np.random.default_rng(1).uniform(0, 255, PIXELS.shape).astype(np.float32)
    ids = np.array([[3, 0, 11, 3]], np.int32)
    with CoreMLRuntime().open(bundle, threads=1) as session:
        assert session.evidence == "program-semantics"
        image = session.run("encode_image", {"pixels": pixels})["embedding"]
        text = session.run("encode_text", {"ids": ids})["embedding"]
    np.testing.assert_allclose(image, pixels.reshape(1, 12) @ WEIGHT.T, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(text, WEIGHT.T[ids].sum(1), rtol=1e-5, atol=1e-6)
    assert image.dtype == text.dtype == np.float32
    assert image.shape == text.shape == (1, 5)


@pytest.mark.parametrize(
    ("component", "inputs", "message"),
    [
        ("classify", {"pixels": np.zeros(PIXELS.shape, np.float32)}, "no component 'classify'"),
        ("encode_image", {"image": np.zeros(PIXELS.shape, np.float32)}, "'pixels', got 'image'"),
        ("encode_image", {"pixels": np.zeros(PIXELS.shape, np.uint8)}, "expected dtype float32, got uint8"),
        ("encode_image", {"pixels": np.zeros((1, 2, 2, 3), np.float32)}, r"expected shape \[1, 3, 2, 2\]"),
        ("encode_text", {"ids": np.array([[0, 0, 0, 12]], np.int32)}, "index is out of range"),
    ],
)
def test_wrong_inputs_are_refused(bundle: Bundle, component: str, inputs: dict[str, Any], message: str) -> None:
    with CoreMLRuntime().open(bundle) as session, pytest.raises(TensorError, match=message):
        session.run(component, inputs)


def test_a_closed_session_answers_nothing(bundle: Bundle) -> None:
    session = CoreMLRuntime().open(bundle)
    session.close()
    with pytest.raises(TensorError, match="this session is closed"):
        session.run("encode_image", {"pixels": np.zeros(PIXELS.shape, np.float32)})


def test_inspect_counts_ops_without_loading_weights(bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(bundle.path, tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "encode_image.mlpackage" / "Data" / "com.apple.CoreML" / "weights")
    counts = CoreMLRuntime().inspect(Bundle(tmp_path / "b", bundle.manifest))
    assert OpCount("linear", 1, "fp32", "evaluator") in counts["encode_image"]
    assert {each.kind for each in counts["encode_text"]} >= {"gather", "reduce_sum"}


def test_a_package_that_is_not_what_the_manifest_says(tmp_path: Path) -> None:
    spec = ComponentSpec("encode_image", (PIXELS,), (EMBEDDING,))
    bundle = write_bundle(tmp_path / "b.edgevlm", {"encode_image": (spec, embed_pixels)})
    (bundle.path / "encode_image.mlpackage").rename(bundle.path / "kept")
    write_program(bundle.path / "encode_image.mlpackage", {"image": np.zeros(PIXELS.shape, np.float32)}, embed_pixels)
    with pytest.raises(BundleError, match="has the inputs pixels, the package has image"):
        CoreMLRuntime().open(bundle)


def test_an_output_of_another_shape_is_refused(tmp_path: Path) -> None:
    spec = ComponentSpec("encode_image", (PIXELS,), (TensorSpec("embedding", "float32", (1, 6), ""),))
    bundle = write_bundle(tmp_path / "b.edgevlm", {"encode_image": (spec, embed_pixels)})
    with CoreMLRuntime().open(bundle) as session, pytest.raises(BundleError, match=r"expected shape \[1, 6\]"):
        session.run("encode_image", {"pixels": np.zeros(PIXELS.shape, np.float32)})


def test_an_op_that_the_evaluator_lacks_is_refused_at_open(tmp_path: Path) -> None:
    def bent(block: Any) -> None:
        block.operations[-1].type = "bend"

    bundle = write_bundle(tmp_path / "b.edgevlm", {"encode_image": (ENCODE_IMAGE, embed_pixels)})
    shutil.rmtree(bundle.path / "encode_image.mlpackage")
    pixels = {"pixels": np.zeros(PIXELS.shape, np.float32)}
    write_program(bundle.path / "encode_image.mlpackage", pixels, embed_pixels, names=("embedding",), edit=bent)
    with pytest.raises(UnsupportedError, match="bend"):
        CoreMLRuntime().open(bundle)


@pytest.mark.parametrize("package", ["coremltools", "torch"])
def test_a_missing_package_is_named(bundle: Bundle, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependency, match=package) as error:
        CoreMLRuntime().open(bundle)
    assert error.value.hint == "pip install 'edgevlm[coreml]'"


def test_importing_the_runtime_imports_no_framework() -> None:
    code = "import sys, edgevlm.runtimes.coreml; print({'torch', 'coremltools', 'PIL'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"


def test_pictures_for_apples_runtime_keep_their_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 4, 6)).astype(np.float32)
    picture = coreml._picture(pixels)
    assert (picture.mode, picture.size) == ("RGB", (6, 4))
    np.testing.assert_array_equal(np.asarray(picture), pixels[0].transpose(1, 2, 0))
