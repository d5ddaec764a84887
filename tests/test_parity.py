from __future__ import annotations

import shutil
from pathlib import Path

import library
import numpy as np
import pytest
from PIL import Image

from edgevlm.bundle.recipe import BUILTIN, ParityLimits
from edgevlm.bundle.spec import ComponentSpec, TensorSpec
from edgevlm.errors import BundleError
from edgevlm.parity import golden
from edgevlm.parity.comparison import Answers, ask, compare
from edgevlm.targets.runtime import Closing


def _unit(rows: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(rows, 16)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


IMAGE, TEXT = _unit(200, 0), _unit(50, 1)


def _dual(image: np.ndarray, text: np.ndarray) -> Answers:
    return {"encode_image": {"embedding": image}, "encode_text": {"embedding": text}}


def _images(rows: np.ndarray) -> Answers:
    return {"encode_image": {"embedding": rows}}


def _scores(rows: np.ndarray) -> Answers:
    return {"classify": {"scores": rows}}


REFERENCE = _dual(IMAGE, TEXT)


def test_equal_answers_pass_every_check() -> None:
    checks = compare(REFERENCE, REFERENCE, BUILTIN["fp32"].parity)
    assert all(check.passed for check in checks)
    assert {(check.component, check.measure) for check in checks} == {
        *(
            (component, measure)
            for component in ("encode_image", "encode_text")
            for measure in ("finite", "max_abs_error", "min_cosine", "centred_cosine")
        ),
        ("zero-shot", "top1_agreement"),
    }


@pytest.mark.parametrize(
    ("image", "failed"),
    [
        (np.where(np.arange(16) == 3, IMAGE + np.float32(2e-5), IMAGE), {"max_abs_error"}),
        (IMAGE[::-1], {"max_abs_error", "min_cosine", "top1_agreement"}),
        (np.full_like(IMAGE, np.nan), {"finite", "top1_agreement"}),
        (np.full_like(IMAGE, np.inf), {"finite", "top1_agreement"}),
    ],
)
def test_each_fault_fails_its_check(image: np.ndarray, failed: set[str]) -> None:
    with np.errstate(invalid="ignore"):
        checks = compare(REFERENCE, _dual(image, TEXT), BUILTIN["fp32"].parity)
    assert {check.measure for check in checks if not check.passed} == failed


def test_three_changed_answers_in_two_hundred_are_too_many() -> None:
    scores = np.eye(10, dtype=np.float32)[np.arange(200) % 10]
    limits = ParityLimits(min_top1_agreement=0.99)
    for changed, passed in ((2, True), (3, False)):
        other = scores.copy()
        other[:changed] = np.roll(other[:changed], 1, axis=1)
        check = compare(_scores(scores), _scores(other), limits)[-1]
        assert (check.measure, check.value, check.passed) == ("top1_agreement", 1 - changed / 200, passed)


def test_a_tie_of_the_reference_may_be_broken_either_way() -> None:
    limits = ParityLimits(min_top1_agreement=1.0)
    got = np.array([[0.0, 0.5, 0.4]], np.float32)
    for ahead, passed in ((5e-7, True), (1e-4, False)):
        expected = np.array([[0.5 + ahead, 0.5, 0.4]], np.float32)
        assert compare(_scores(expected), _scores(got), limits)[-1].passed == passed


def test_a_missing_limit_is_reported_and_passes() -> None:
    checks = compare(REFERENCE, _dual(-IMAGE, TEXT), ParityLimits())
    assert all(check.passed and check.limit in (None, 1.0) for check in checks)


class _Doubler(Closing):
    evidence = "test"

    def run(self, component: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        (value,) = inputs.values()
        assert value.shape[0] == 1
        return {"embedding": value.reshape(1, -1).astype(np.float32) * 2}

    def close(self) -> None: ...


def test_a_centred_cosine_tells_what_a_shared_mean_hides() -> None:
    mean = np.full(16, 5, np.float32)
    mean /= np.linalg.norm(mean)
    apart = 0.05 * _unit(200, 2)
    expected, other = mean + apart, mean + 0.05 * _unit(200, 3)  # all that is left of the rest is the mean

    def measured(got: np.ndarray) -> dict[str, float]:
        checks = compare(_images(expected), _images(got), ParityLimits(min_cosine=0.99))
        assert all(check.passed for check in checks)
        return {check.measure: check.value for check in checks}

    assert measured(other)["min_cosine"] > 0.99
    assert abs(measured(other)["centred_cosine"]) < 0.1
    assert measured(expected)["centred_cosine"] == pytest.approx(1, abs=1e-6)


def test_equal_embeddings_have_no_centred_cosine() -> None:
    same = np.repeat(IMAGE[:1], 5, axis=0)
    checks = compare(_images(same), _images(same), ParityLimits())
    assert "centred_cosine" not in {check.measure for check in checks}


def test_samples_are_asked_one_at_a_time_in_order() -> None:
    pixels = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
    token_ids = np.arange(6, dtype=np.int32).reshape(3, 2)
    given = TensorSpec("embedding", "float32", (1, 12), "")
    specs = [
        ComponentSpec("encode_image", (TensorSpec("pixels", "float32", (1, 3, 2, 2), ""),), (given,)),
        ComponentSpec("hear", (TensorSpec("sound", "float32", (1, 3), ""),), (given,)),  # there are no rows of sounds
        ComponentSpec("encode_text", (TensorSpec("token_ids", "int32", (1, 2), ""),), (given,)),
    ]
    shares: list[float] = []
    answers = ask(_Doubler(), specs, {"pixels": pixels, "token_ids": token_ids}, shares.append)
    assert list(answers) == ["encode_image", "encode_text"]
    assert np.array_equal(answers["encode_image"]["embedding"], pixels.reshape(2, 12) * 2)
    assert np.array_equal(answers["encode_text"]["embedding"], token_ids * 2.0)
    assert shares == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_scores_may_differ_by_what_the_embeddings_may_times_the_logit_scale() -> None:
    limits = BUILTIN["fp32"].parity
    expected = np.array([[0.5, 0.5]], np.float32)
    got = expected + np.array([[3e-4, -3e-4]], np.float32)
    reference, artefact = _scores(expected), _scores(got)
    by_scale = {scale: compare(reference, artefact, limits, logit_scale=scale)[1] for scale in (1.0, 100.0)}
    assert (by_scale[1.0].limit, by_scale[1.0].passed) == (1e-5, False)
    assert (by_scale[100.0].limit, by_scale[100.0].passed) == (pytest.approx(5e-4), True)


def test_every_output_of_a_component_is_compared() -> None:
    features = {"features": IMAGE.reshape(200, 4, 4), "embedding": IMAGE}
    wrong = {**features, "features": IMAGE.reshape(200, 4, 4) + np.float32(1e-3)}
    checks = compare({"see": features}, {"see": wrong}, BUILTIN["fp32"].parity)
    assert {check.component for check in checks} == {"see.features", "see.embedding"}
    failed = {(check.component, check.measure) for check in checks if not check.passed}
    assert failed == {("see.features", "max_abs_error"), ("see.features", "min_cosine")}


@pytest.mark.parametrize("size", [(1280, 64 * 200), (64, 64), (1280, 650), (20_000, 20_000)])
def test_a_sheet_of_samples_that_fills_the_memory_is_refused(size: tuple[int, int], tmp_path: Path) -> None:
    folder = shutil.copytree(library.student("tflite", "int8").path, tmp_path / "bomb.edgevlm")
    Image.new("1", size).save(folder / golden.SAMPLE_SHEET)
    with pytest.raises(BundleError, match="the golden fixtures cannot be read"):
        golden.read(folder)
