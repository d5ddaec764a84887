"""The teacher's embeddings: asked for once, kept whole, and equal to what the teacher says."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import write_clip_checkpoint, write_siglip_checkpoint
from PIL import Image

from edgevlm.data.dataset import Dataset
from edgevlm.data.sources import open_data
from edgevlm.distillation import teacher_cache
from edgevlm.distillation.augmentation import view
from edgevlm.distillation.recipe import Augmentation
from edgevlm.distillation.teacher import Teacher, average_texts
from edgevlm.distillation.teacher_cache import Store, fill_pictures, picture_store, view_draws
from edgevlm.errors import LabelError

WHOLE = Augmentation()
STORED = Augmentation(crop_scale=(0.4, 0.9), stored=3)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip_checkpoint(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_siglip_checkpoint(tmp_path_factory.mktemp("models") / "siglip")


@pytest.fixture(scope="module")
def teacher(clip: Path) -> Teacher:
    return Teacher([clip])


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_cache, "SHARD", 8)


def fill(root: Path, teacher: Teacher | None, data: Dataset, how: Augmentation = WHOLE, **options: Any) -> Store:
    store = picture_store(root, teacher, data, how, 0)
    fill_pictures(store, teacher, data, how, 0, lambda stage, share: None, **options)
    return store


def test_a_picture_has_the_embedding_that_the_teacher_gives_it(teacher: Teacher, tmp_path: Path) -> None:
    data = open_data("objects:train:6")
    kept = fill(tmp_path, teacher, data).open()
    asked = teacher.embed_pictures([data.picture(index) for index in range(6)])
    np.testing.assert_allclose(kept.take(range(6)), asked, atol=1e-3)  # float16's
    np.testing.assert_allclose(np.linalg.norm(asked, axis=1), 1, atol=1e-5)


def test_a_stored_view_can_be_made_again(teacher: Teacher, tmp_path: Path) -> None:
    data = open_data("objects:train:4")
    kept = fill(tmp_path, teacher, data, STORED).open()
    for index in range(4):
        for number in range(3):
            again = view(data.picture(index), STORED, view_draws(0, index, number))
            np.testing.assert_allclose(kept.take([index], [number]), teacher.embed_pictures([again]), atol=1e-3)
    assert not np.allclose(kept.take([0], [0]), kept.take([0], [1]), atol=1e-3)


def test_nothing_is_asked_twice(
    teacher: Teacher, tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_data("objects:train:20")
    store = fill(tmp_path, teacher, data)
    before = store.open().take(range(20))
    monkeypatch.setattr(teacher, "embed_pictures", lambda pictures: pytest.fail("the teacher was asked again"))
    assert np.array_equal(fill(tmp_path, teacher, data).open().take(range(20)), before)


@pytest.mark.parametrize("damage", ["missing", "cut short", "a bit", "no note", "a torn note"])
def test_a_damaged_shard_is_computed_again_and_no_other(
    damage: str, teacher: Teacher, tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_data("objects:train:20")
    store = fill(tmp_path, teacher, data)
    before = store.open().take(range(20))
    shard = store.folder / "00001.npy"
    content = shard.read_bytes()
    note = shard.with_suffix(".json")
    match damage:
        case "missing":
            shard.unlink()
        case "cut short":
            shard.write_bytes(content[:-100])
        case "a bit":
            shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "no note":
            note.unlink()
        case "a torn note":
            note.write_text(note.read_text()[:20])
    with pytest.raises(FileNotFoundError, match=r"00001\.npy is missing or damaged"):
        store.open()
    asked: list[int] = []
    embed = teacher.embed_pictures
    monkeypatch.setattr(teacher, "embed_pictures", lambda pictures: asked.append(len(pictures)) or embed(pictures))
    assert np.array_equal(fill(tmp_path, teacher, data).open().take(range(20)), before)
    assert sum(asked) == 8


def test_a_stopped_run_goes_on_at_the_next_shard(
    teacher: Teacher, tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_data("objects:train:20")
    embed, asked = teacher.embed_pictures, []

    def stop_in_the_second_shard(pictures: list[Image.Image]) -> np.ndarray:
        if asked:
            raise KeyboardInterrupt
        asked.append(len(pictures))
        return embed(pictures)

    monkeypatch.setattr(teacher, "embed_pictures", stop_in_the_second_shard)
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, teacher, data)
    monkeypatch.setattr(teacher, "embed_pictures", lambda pictures: asked.append(len(pictures)) or embed(pictures))
    assert len(fill(tmp_path, teacher, data).open().take(range(20))) == 20
    assert sum(asked) == 20


def test_processes_share_the_work(
    teacher: Teacher, tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_data("objects:train:20")
    alone = fill(tmp_path / "alone", teacher, data).open()
    first = fill(tmp_path / "shared", teacher, data, part=0, parts=2)
    assert not (first.folder / "00001.npy").exists()
    both = fill(tmp_path / "shared", teacher, data, part=1, parts=2).open()
    assert np.array_equal(alone.take(range(20)), both.take(range(20)))


@pytest.mark.parametrize("asks", [True, False])
def test_what_cannot_be_read_is_known_with_its_reason(asks: bool, teacher: Teacher, tmp_path: Path) -> None:
    for number in range(4):
        folder = tmp_path / "data" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (number, 0, 0)).save(folder / f"{number}.png")
    (tmp_path / "data" / "a" / "2.png").write_bytes(b"not a picture")
    data = open_data(tmp_path / "data")
    kept = fill(tmp_path / "cache", teacher if asks else None, data).open()
    ((index, reason),) = kept.unreadable.items()
    assert data.example(index).key.endswith("2.png")
    assert "2.png" in reason or "picture" in reason


def test_embeddings_of_another_teacher_picture_or_view_are_kept_apart(
    teacher: Teacher, siglip: Path, tmp_path: Path
) -> None:
    data, other = open_data("objects:train:6"), open_data("objects:train:7")
    stores = [
        picture_store(tmp_path, teacher, data, WHOLE, 0),
        picture_store(tmp_path, teacher, other, WHOLE, 0),
        picture_store(tmp_path, teacher, data, STORED, 0),
        picture_store(tmp_path, teacher, data, replace(STORED, jitter=0.1), 0),
        picture_store(tmp_path, teacher, data, STORED, 1),
        picture_store(tmp_path, None, data, WHOLE, 0),
        picture_store(tmp_path, Teacher([siglip]), data, WHOLE, 0),
    ]
    assert len({store.folder for store in stores}) == len(stores)
    # Views that are drawn fresh each time never meet the teacher, so they share its embeddings of the whole picture.
    assert picture_store(tmp_path, teacher, data, replace(WHOLE, jitter=0.1), 1).folder == stores[0].folder


def test_an_ensembles_cosine_is_the_mean_of_its_members(clip: Path, siglip: Path) -> None:
    pictures = [open_data("objects:train:5").picture(index) for index in range(5)]
    texts = ["a red circle", "two blue stars"]
    members = [Teacher([clip]), Teacher([siglip])]
    both = Teacher([clip, siglip])
    assert both.dim == members[0].dim + members[1].dim
    means = np.mean([one.embed_pictures(pictures) @ one.embed_texts(texts).T for one in members], axis=0)
    np.testing.assert_allclose(both.embed_pictures(pictures) @ both.embed_texts(texts).T, means, atol=1e-6)
    assert np.log(both.logit_scale) == pytest.approx(np.mean([np.log(one.logit_scale) for one in members]))


def test_the_texts_of_a_class_are_averaged(teacher: Teacher) -> None:
    texts = (("a cat",), ("a dog", "a photo of a dog"))
    cat, dog = average_texts(teacher, texts)
    np.testing.assert_allclose(cat, teacher.embed_texts(["a cat"])[0], atol=1e-6)
    mean = teacher.embed_texts(texts[1]).mean(0)
    np.testing.assert_allclose(dog, mean / np.linalg.norm(mean), atol=1e-6)


def test_a_view_lies_within_the_picture_and_its_ranges() -> None:
    picture = Image.fromarray(np.arange(50 * 80 * 3, dtype=np.uint32).astype(np.uint8).reshape(50, 80, 3))
    how = Augmentation(crop_scale=(0.25, 0.5), jitter=0.0)
    sides = [view(picture, how, random.Random(seed)).size for seed in range(50)]
    assert all(width == height and 25 <= width <= 36 for width, height in sides)
    assert len(set(sides)) > 5
    whole = Augmentation(crop_scale=(1.0, 1.0), jitter=0.0)
    assert view(picture, whole, random.Random(0)).size == (50, 50)
    mirrored = replace(whole, mirror=1.0)
    one, other = (view(picture.crop((0, 0, 50, 50)), h, random.Random(0)) for h in (whole, mirrored))
    assert np.array_equal(np.asarray(one), np.asarray(other)[:, ::-1])


def test_a_note_says_which_entries_are_missing(teacher: Teacher, tmp_path: Path) -> None:
    store = fill(tmp_path, teacher, open_data("objects:train:3"))
    note = json.loads((store.folder / "00000.json").read_text())
    assert note["unreadable"] == {}
    assert len(note["sha256"]) == 64


def test_classes_that_are_one_to_the_teacher_are_refused(clip: Path) -> None:
    with pytest.raises(LabelError, match="the labels 'Ball', 'ball' are one and the same to the model"):
        Teacher([clip]).check_labels(("Ball", "ball", "cube"), [["Ball"], ["ball"], ["cube"]])
