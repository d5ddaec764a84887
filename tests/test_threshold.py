"""The cosine from which on a picture shows one of the labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgevlm.cli import main
from edgevlm.evaluation import threshold


def _cosines(margin: float, pictures: int = 400, labels: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    truth = np.repeat(np.arange(labels), pictures // labels + 1)[:pictures]
    cosines = rng.normal(0.1, 0.02, (pictures, labels)).astype(np.float32)
    cosines[np.arange(pictures), truth] += margin
    return cosines, truth


def test_a_threshold_separates_what_can_be_separated() -> None:
    found = threshold.measure(*_cosines(0.5))
    assert found is not None
    assert (found.kept, found.refused, found.auroc, found.pictures) == (1, 1, 1, 200)
    assert 0.2 < found.cosine < 0.55


def test_a_model_that_sees_nothing_has_no_threshold_worth_its_name() -> None:
    found = threshold.measure(*_cosines(0.0, pictures=4000))
    assert found is not None
    assert found.auroc == pytest.approx(0.58, abs=0.04)  # the best of six is larger than the best of five
    assert found.kept + found.refused == pytest.approx(1.1, abs=0.08)


def test_the_shares_are_those_of_pictures_that_did_not_choose_it() -> None:
    cosines, truth = _cosines(0.04)
    found = threshold.measure(cosines, truth)
    assert found is not None
    order = np.random.default_rng(0).permutation(len(truth))
    chosen, held = order[::2], order[1::2]
    there = cosines.max(1)
    gone = np.where(np.arange(6) == truth[:, None], -np.inf, cosines).max(1)
    assert found.kept == (there[held] >= found.cosine).mean()
    assert found.refused == (gone[held] < found.cosine).mean()

    def balanced(value: float) -> float:
        return float((there[chosen] >= value).mean() + (gone[chosen] < value).mean())

    assert balanced(found.cosine) >= max(map(balanced, np.linspace(0, 0.3, 3001))) - 1e-9
    above = (there[:, None] > gone) + 0.5 * (there[:, None] == gone)
    assert found.auroc == pytest.approx(above.mean(), abs=1e-9)


def test_one_label_or_one_picture_is_too_little() -> None:
    assert threshold.measure(np.zeros((9, 1), np.float32), np.zeros(9, np.int64)) is None
    assert threshold.measure(np.zeros((1, 9), np.float32), np.zeros(1, np.int64)) is None


def test_the_command_shows_it(tmp_path: Path) -> None:
    report = tmp_path / "found.json"
    asked = ["evaluate", "edgevlm-student", "--data", "objects:train:24", "--threshold", "--out", str(report)]
    shown = CliRunner().invoke(main, asked)
    assert shown.exit_code == 0, shown.output
    assert "least cosine of a label that fits" in shown.output
    (found,) = json.loads(report.read_text(encoding="utf-8"))["sets"]
    assert set(found["threshold"]) == {"cosine", "kept", "refused", "auroc", "pictures"}
    assert found["threshold"]["pictures"] == 12
