"""The shipped student: that it is what its card says."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from edgevlm.data.captions import caption, vocabulary
from edgevlm.data.scenes import Scenes, variants
from edgevlm.evaluation.scene_zero_shot import CANDIDATES, VARIED, distractors
from edgevlm.models import builtin, catalogue
from edgevlm.models.model_card import model_card
from edgevlm.models.student_training import (
    FACTS,
    NEGATIVES,
    Steps,
    accuracy,
    build_tokenizer,
    contrastive_loss,
    facts,
    load,
    train,
)

FIGURES = builtin.figures()


def test_weights_are_small_enough_to_ship() -> None:
    assert builtin.WEIGHTS.stat().st_size < 10_000_000
    assert 2e6 < FIGURES["parameters"] < 4e6


def test_the_card_is_made_from_the_figures() -> None:
    assert (builtin.FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8") == model_card(FIGURES)


def test_nine_of_ten_held_out_scenes_are_told_from_49_other_descriptions() -> None:
    assert FIGURES["accuracy"]["train"]["top1"] >= 0.9


def test_the_figures_are_what_the_shipped_weights_reach() -> None:
    student, tokenizer = load(builtin.FOLDER)
    measured = accuracy(student, tokenizer, "train", 150)
    recorded = FIGURES["accuracy"]["train"]
    # The first 150 of the thousand scenes on the card: four standard errors of a share.
    assert measured.top1 == pytest.approx(
        recorded["top1"], abs=4 * (recorded["top1"] * (1 - recorded["top1"]) / 150) ** 0.5
    )
    assert set(measured.by_attribute) == set(VARIED)
    print(json.dumps(measured.by_attribute, indent=1))


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
    assert json.loads(tokenizer.to_str()) == json.loads(builtin.TOKENIZER.read_text(encoding="utf-8"))


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


def test_training_learns(tmp_path: Path) -> None:

    from edgevlm.models.student import StudentConfig

    log = tmp_path / "log.jsonl"
    config = StudentConfig(stem_channels=(8, 16, 32), image_width=32, text_width=32, text_blocks=1, image_blocks=1)
    train(config, build_tokenizer(1024), 0, 51, 32, log)
    first, last = (json.loads(line) for line in log.read_text().splitlines())
    assert last["loss"] + last["facts"] < 0.95 * (first["loss"] + first["facts"])


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
