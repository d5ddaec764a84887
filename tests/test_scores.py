"""What is said of a picture and its labels: shares, probabilities of each by itself, cosines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import library
import numpy as np
import pytest
import torch
from checkpoints import write_clip_checkpoint, write_siglip_checkpoint
from click.testing import CliRunner
from PIL import Image

import edgevlm
from edgevlm.cli import main
from edgevlm.conversion.prepared import choose_programs
from edgevlm.errors import InputError, TensorError
from edgevlm.inference.embeddings import label_scores, score, sigmoid, softmax
from edgevlm.inputs.pictures import preprocess
from edgevlm.models import catalogue
from edgevlm.models.encoders.classifier import Classifier
from edgevlm.models.reference import classifier_reference
from edgevlm.testing import FakeModel

LABELS = ("a red circle", "a blue star", "two green squares")
PICTURE = np.random.default_rng(3).integers(0, 256, (40, 48, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_siglip_checkpoint(tmp_path_factory.mktemp("siglip"))


def test_scores_of_cosines() -> None:
    cosines = np.array([[0.1, 0.12, -0.3], [0.0, 0.0, 0.0]], np.float32)
    np.testing.assert_array_equal(score(cosines, 100.0, None), softmax(100 * cosines))
    np.testing.assert_array_equal(score(cosines, 100.0, -10.0), sigmoid(100 * cosines - 10))
    np.testing.assert_array_equal(score(cosines, 100.0, -10.0, "softmax"), softmax(100 * cosines))
    np.testing.assert_array_equal(score(cosines, 100.0, -10.0, "cosine"), cosines)
    np.testing.assert_allclose(
        score(cosines, 100.0, -10.0), [[0.5, 0.880797, 0], [4.5398e-5] * 3], rtol=1e-4, atol=1e-9
    )
    with pytest.raises(InputError, match="trained to compare texts, by softmax"):
        score(cosines, 100.0, None, "sigmoid")
    with pytest.raises(InputError, match="scores: expected one of softmax, sigmoid, cosine, got 'hinge'"):
        score(cosines, 100.0, None, "hinge")  # type: ignore[arg-type]
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        np.testing.assert_array_equal(sigmoid(np.array([-1e4, 0, 1e4], np.float32)), [0, 0.5, 1])


def test_siglip_says_of_each_label_by_itself_what_transformers_says(siglip: Path) -> None:
    from transformers import SiglipModel

    theirs = SiglipModel.from_pretrained(siglip).eval()
    model = catalogue.load(siglip)
    assert model.tokenizer is not None
    assert model.logit_bias == pytest.approx(theirs.logit_bias.item())
    ids, pixels = model.tokenizer.encode(LABELS), preprocess(PICTURE, model.image)
    normalised = (torch.from_numpy(pixels) / 255 - 0.5) / 0.5
    with torch.no_grad():
        expected = theirs(input_ids=torch.from_numpy(ids).long(), pixel_values=normalised).logits_per_image
    images = model.original.run("encode_image", {"pixels": pixels})["embedding"]
    texts = model.original.run("encode_text", {"token_ids": ids})["embedding"]
    found = label_scores(images, texts, model.logit_scale, model.logit_bias)
    np.testing.assert_allclose(found, torch.sigmoid(expected).numpy(), rtol=1e-4)
    assert label_scores(images, texts[:1], model.logit_scale, model.logit_bias) == found[:, :1]  # whatever the others


def test_clip_has_no_bias(tmp_path: Path) -> None:
    assert catalogue.load(write_clip_checkpoint(tmp_path)).logit_bias is None


@pytest.mark.parametrize("bias", [None, -9.5])
def test_baked_labels_give_scores_and_logits(bias: float | None) -> None:
    model = replace(catalogue.load("edgevlm-student"), logit_bias=bias)
    assert model.tokenizer is not None
    texts = model.original.run("encode_text", {"token_ids": model.tokenizer.encode(LABELS)})["embedding"]
    pixels = preprocess(PICTURE, model.image)
    image = model.original.run("encode_image", {"pixels": pixels})["embedding"]
    program = choose_programs(model, torch.from_numpy(texts), image_only=True)["classify"]
    assert isinstance(program.module, Classifier)
    assert [output.name for output in program.spec.outputs] == ["scores", "logits"]
    with torch.no_grad():
        scores, logits = (each.numpy() for each in program.module(torch.from_numpy(pixels)))
    reference = classifier_reference(torch.from_numpy(texts), model.logit_scale, bias).forward(torch.from_numpy(image))
    for found, expected in zip((scores, logits), reference, strict=True):
        np.testing.assert_allclose(found, expected.numpy(), atol=2e-4)
    np.testing.assert_allclose(logits, model.logit_scale * image @ texts.T + (bias or 0), atol=2e-4)
    np.testing.assert_allclose(scores, label_scores(image, texts, model.logit_scale, bias), atol=2e-4)


def test_a_bundle_with_baked_labels_gives_every_kind_of_score() -> None:
    with edgevlm.open(library.labelled_student(LABELS).path) as model:
        scale = model.bundle.manifest.embedding.logit_scale
        cosines = model.encode_image([PICTURE]) @ model.encode_text(LABELS).T
        for given in (None, LABELS):
            np.testing.assert_allclose(model.classify([PICTURE], given, scores="cosine"), cosines, atol=1e-5)
            np.testing.assert_allclose(model.classify([PICTURE], given), softmax(scale * cosines), atol=1e-4)
            with pytest.raises(InputError, match="by softmax"):
                model.classify([PICTURE], given, scores="sigmoid")
        assert model.classify([], scores="cosine").shape == (0, 3)


def test_a_part_of_the_baked_labels_has_a_softmax_of_its_own() -> None:
    model = FakeModel(labels=LABELS, image_only=True, answers={"classify": [[0.7, 0.2, 0.1]]})
    np.testing.assert_allclose(model.classify([PICTURE], [LABELS[2], LABELS[1]]), [[1 / 3, 2 / 3]], rtol=1e-5)
    given = {"scores": [[0.7, 0.3]], "logits": [[30.0, 10.0]]}
    model = FakeModel(labels=("a", "b"), answers={"classify": given})
    np.testing.assert_allclose(model.classify([PICTURE], scores="cosine"), [[0.3, 0.1]], rtol=1e-5)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_an_artefact_that_answers_no_numbers_is_an_error(wrong: float, monkeypatch: pytest.MonkeyPatch) -> None:
    with edgevlm.open(library.student("tflite", "int8").path) as model:
        answer = {"embedding": np.full((1, model.bundle.manifest.embedding.dim), wrong, np.float32)}
        monkeypatch.setattr(model.session, "run", lambda *_: answer)
        with pytest.raises(TensorError, match=r"encode_text: expected numbers, and what .* answers is NaN or infinite"):
            model.encode_text(["a star"])
        with pytest.raises(TensorError, match="encode_image: expected numbers"):
            model.encode_image([Image.new("RGB", (8, 8))])


def test_the_command_says_that_no_label_fits() -> None:
    bundle = library.student("tflite", "int8")
    picture = str(bundle.path / "golden" / "grey.png")
    asked = ["run", str(bundle.path), picture, "--labels", "a blue dog, a yellow star"]
    best = CliRunner().invoke(main, [*asked, "--scores", "cosine", "--json"])
    cosines = json.loads(best.stdout)["answers"][0]["scores"]
    name, largest = max(cosines.items(), key=lambda pair: pair[1])
    shown = CliRunner().invoke(main, [*asked, "--threshold", f"{largest - 1e-3:.6f}"])
    assert shown.exit_code == 0, shown.output
    assert name in shown.output
    assert len(shown.output.splitlines()) == 2
    none = CliRunner().invoke(main, [*asked, "--threshold", f"{largest + 1e-3:.6f}"])
    assert none.output.splitlines()[-1].strip() == "none of the labels fits"
    found = json.loads(CliRunner().invoke(main, [*asked, "--threshold", "0.99", "--json"]).stdout)
    assert set(found["answers"][0]["scores"].values()) == {None}
    refused = CliRunner().invoke(main, [*asked, "--scores", "sigmoid"])
    assert (refused.exit_code, "has no bias" in refused.output) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["tflite", "coreml"])
def test_a_siglip_bundle_may_say_that_nothing_fits(target: str, siglip: Path, tmp_path: Path) -> None:
    picture = tmp_path / "grey.png"
    Image.new("RGB", (32, 32), (127, 127, 127)).save(picture)
    bundle = edgevlm.convert(siglip, target=target, recipe="fp32", labels=LABELS, out=tmp_path)
    with edgevlm.open(bundle.path) as model:
        manifest = model.bundle.manifest
        assert manifest.embedding.logit_bias == pytest.approx(catalogue.load(siglip).logit_bias)
        scores, baked = model.classify([picture], LABELS), model.classify([picture])
        cosines = model.encode_image([picture]) @ model.encode_text(LABELS).T
    np.testing.assert_allclose(
        scores, sigmoid(manifest.embedding.logit_scale * cosines + manifest.embedding.logit_bias), atol=1e-5
    )
    np.testing.assert_allclose(baked, scores, atol=1e-4)
