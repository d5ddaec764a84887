"""The shipped models: that they are what their cards say, and that their training does what it says."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgevlm import schema
from edgevlm.benchmarks.builtin_card import model_card
from edgevlm.data.captions import caption, vocabulary
from edgevlm.data.scene import variants
from edgevlm.data.scenes import Scenes
from edgevlm.distillation.builtin import student as distillation
from edgevlm.distillation.builtin.batches import FACTS, NEGATIVES, Steps, facts
from edgevlm.distillation.builtin.caption_tokenizer import build_tokenizer
from edgevlm.distillation.builtin.teacher import contrastive_loss, train
from edgevlm.distillation.recipe import Schedule
from edgevlm.evaluation.evaluation import evaluate
from edgevlm.evaluation.scene_zero_shot import CANDIDATES, VARIED, distractors
from edgevlm.models import builtin, catalogue
from edgevlm.models.students import folder as folders
from edgevlm.models.students.config import GridConfig, TextTowerConfig
from edgevlm.models.students.towers import multiply_adds

NAMES = sorted(builtin.FOLDERS)


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_small_enough_to_ship(name: str) -> None:
    assert (builtin.FOLDERS[name] / "model.safetensors").stat().st_size < 10_000_000


@pytest.mark.parametrize("name", NAMES)
def test_the_card_is_made_from_the_figures(name: str) -> None:
    folder = builtin.FOLDERS[name]
    assert (folder / "README.md").read_text(encoding="utf-8") == model_card(folder)
    student, recorded = folders.read(folder), builtin.figures(name)
    assert multiply_adds(student.image_tower, 64) == recorded["multiply_adds"]


@pytest.mark.parametrize("name", NAMES)
def test_nine_of_ten_held_out_scenes_are_told_from_49_other_descriptions(name: str) -> None:
    assert builtin.figures(name)["accuracy"]["train"]["top1"] >= 0.9


@pytest.mark.parametrize(
    ("name", "scenes"),
    [
        (builtin.STUDENT, 20),
        pytest.param(builtin.TEACHER, 75, marks=pytest.mark.slow),
    ],
)
def test_the_figures_are_what_the_shipped_weights_reach(name: str, scenes: int) -> None:
    (found,) = evaluate(name, f"scenes:train:{scenes}:1:held-out", attributes=True).sets
    recorded = builtin.figures(name)["accuracy"]["train"]
    assert found.attributes is not None
    # The first of the thousand scenes on the card: four standard errors of a share.
    assert found.attributes.top1 == pytest.approx(
        recorded["top1"], abs=4 * (recorded["top1"] * (1 - recorded["top1"]) / scenes) ** 0.5
    )
    assert set(found.attributes.by_attribute) == set(VARIED)


def test_distractors_are_false_and_different() -> None:
    for scene in Scenes(1).batch(0, 30).scenes:
        others = [caption(other) for other in distractors(scene, CANDIDATES - 1, random.Random(0))]
        assert len(set(others) - {caption(scene)}) == CANDIDATES - 1


def test_every_caption_word_is_one_token_and_any_text_has_some() -> None:
    tokenizer = build_tokenizer(1024)
    whole = [word for text in vocabulary() for word in text.split() if word.isalpha()]
    pieces = {word: len(tokenizer.encode(word).ids) - 2 for word in whole}
    assert [word for word, count in pieces.items() if count != 1] == []
    assert len(tokenizer.encode("Ünïcode 😀").ids) > 3
    shipped = builtin.FOLDERS[builtin.STUDENT] / "tokenizer.json"
    assert json.loads(tokenizer.to_str()) == json.loads(shipped.read_text(encoding="utf-8"))


def test_the_longest_caption_fits_the_context() -> None:
    tokenizer, context = build_tokenizer(1024), catalogue.load().text.context_length
    draws = random.Random(0)
    scenes = [scene for scene in Scenes(2).batch(0, 600).scenes if len(scene.groups) == 3]
    assert max(len(tokenizer.encode(caption(scene, draws)).ids) for scene in scenes for _ in range(10)) <= context


def test_facts_change_with_every_attribute() -> None:
    for scene in Scenes(3).batch(0, 20).scenes:
        known = facts(scene)
        assert len(known) == len(FACTS)
        assert all(-1 <= value < size for value, size in zip(known, FACTS, strict=True))
        assert all(facts(variant) != known for name in VARIED for variant in variants(scene, name))


def test_a_step_depends_on_its_number_alone() -> None:
    tokenizer = build_tokenizer(1024)
    one, again = (Steps(0, 16, 10, tokenizer)[3] for _ in range(2))
    assert torch.equal(one.pixels, again.pixels)
    assert torch.equal(one.also_true, again.also_true)
    assert all(torch.equal(a[1], b[1]) for a, b in zip(one.token_ids, again.token_ids, strict=True))
    assert len(one.text_facts) == 16 * (1 + NEGATIVES)


SMALL = GridConfig(64, stem_channels=(8, 16, 32), width=32, blocks=1, heads=4, token_features=8)
SMALL_TEXT = TextTowerConfig(width=32, blocks=1, heads=4, vocabulary_size=1024)


@pytest.mark.slow
def test_training_learns(tmp_path: Path) -> None:
    train(SMALL, SMALL_TEXT, build_tokenizer(1024), seed=0, steps=51, batch_size=32, out=tmp_path)
    first, last = (json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines())
    assert last["loss"] + last["facts"] < 0.95 * (first["loss"] + first["facts"])


@pytest.mark.slow
def test_the_student_is_made_by_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = folders.read(builtin.FOLDERS[builtin.STUDENT]).provenance
    assert (made["teachers"], made["student"], made["data"]) == (
        [builtin.TEACHER],
        distillation.TOWER,
        [distillation.DATA],
    )
    assert made["recipe"] == schema.write(distillation.RECIPE)
    monkeypatch.setattr(distillation, "DATA", "scenes:train:16:7")
    short = replace(distillation.RECIPE, schedule=Schedule(epochs=1, batch_size=8))
    monkeypatch.setattr(distillation, "RECIPE", short)
    monkeypatch.setenv("EDGEVLM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.argv", ["distillation", "--out", str(tmp_path / "out")])
    distillation.main()
    student = folders.read(tmp_path / "out")
    assert student.image_config == folders.read(builtin.FOLDERS[builtin.STUDENT]).image_config
    assert student.provenance["command"] == made["command"]
    assert json.loads((tmp_path / "out" / "training.jsonl").read_text().splitlines()[-1])["step"] == 2
    distillation.main()  # the run is over: nothing is trained again


def test_training_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how = {"seed": 0, "steps": 5, "batch_size": 8}
    monkeypatch.setattr("edgevlm.distillation.builtin.teacher._EVERY", 2)
    tokenizer = build_tokenizer(1024)
    straight = train(SMALL, SMALL_TEXT, tokenizer, **how, out=tmp_path / "straight")
    train(SMALL, SMALL_TEXT, tokenizer, **how, out=tmp_path / "stopped")
    checkpoints = tmp_path / "stopped" / "checkpoints"
    max(checkpoints.iterdir()).unlink()  # as if it had been stopped after the one before
    again = train(SMALL, SMALL_TEXT, tokenizer, **how, out=tmp_path / "stopped")
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), again.parameters(), strict=True))


def test_contrastive_loss_is_clips_when_nothing_is_masked() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = (torch.nn.functional.normalize(torch.randn(n, 8, generator=generator)) for n in (4, 16))
    scale = torch.tensor(10.0)
    found = contrastive_loss(images, texts, scale, torch.zeros(4, 4, dtype=torch.bool))
    rows = []
    for i in range(4):
        own = [scale * images[i] @ texts[4 + NEGATIVES * i + j] for j in range(NEGATIVES)]
        row = torch.stack([*(scale * images[i] @ texts[j] for j in range(4)), *own])
        column = torch.stack([scale * images[j] @ texts[i] for j in range(4)])
        rows.append(0.5 * (row.logsumexp(0) - row[i] + column.logsumexp(0) - column[i]))
    assert found == pytest.approx(float(torch.stack(rows).mean()), rel=1e-5)
