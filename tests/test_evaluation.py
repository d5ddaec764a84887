"""Evaluation: measures by hand and by slow references, then real models, bundles and data end to end."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import library
import numpy as np
import pytest
import torch
from checkpoints import write_clip_checkpoint
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

import edgevlm
from edgevlm.bundle.manifest import Labels
from edgevlm.cli import main
from edgevlm.data.captions import caption
from edgevlm.data.dataset import Example
from edgevlm.data.rendered import HELD_OUT_START
from edgevlm.data.scene import variants
from edgevlm.data.scenes import Scenes
from edgevlm.data.sources import open_data
from edgevlm.enrichment.descriptions import Descriptions, Entry
from edgevlm.errors import CheckFailed, DataError, ImageError, InputError, LabelError, UnsupportedError
from edgevlm.evaluation import diagnostics, few_shot, retrieval, zero_shot
from edgevlm.evaluation.answers import ask_pictures, ask_texts, spread
from edgevlm.evaluation.encoders import open_encoder
from edgevlm.evaluation.evaluation import evaluate
from edgevlm.inference.embeddings import average
from edgevlm.inputs.rows import make_rows
from edgevlm.models import catalogue
from edgevlm.models.reference import Original
from edgevlm.models.students import folder as student_folder
from edgevlm.models.students.config import VitConfig, square_pictures
from edgevlm.models.students.parts import FixedLabels, StudentParts
from edgevlm.models.students.towers import build_image_tower
from edgevlm.process.progress import silent
from edgevlm.tuning.task import Task

F32 = NDArray[np.float32]
OBJECTS = "objects:combinations:222:1:held-out"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def write_descriptions(folder: Path, *labels: str) -> Path:
    path = folder / "descriptions.json"
    entries = {label: Entry((f"A {label} with {number} corners.",)) for number, label in enumerate(labels)}
    Descriptions({}, entries).write(path)
    return path


def units(draws: np.random.Generator, count: int, dim: int = 8) -> F32:
    vectors = draws.standard_normal((count, dim))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


class InMemory:
    """A dataset of plain-coloured pictures; those without a colour cannot be read."""

    def __init__(
        self,
        colours: Sequence[str | None],
        labels: tuple[str, ...] = (),
        truth: Sequence[int | None] | None = None,
        captions: Sequence[tuple[str, ...]] | None = None,
    ) -> None:
        self.name, self.labels, self.fingerprint = "in memory", labels, "0"
        self.colours, self.truth, self.captions = colours, truth, captions
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.colours)

    def example(self, index: int) -> Example:
        label = self.truth[index] if self.truth else None
        return Example(f"picture-{index}", label, self.captions[index] if self.captions else ())

    def picture(self, index: int) -> Image.Image:
        self.read.append(index)
        colour = self.colours[index]
        if colour is None:
            raise ImageError(f"picture-{index}: not a picture")
        return Image.new("RGB", (40, 30), colour)


# Zero-shot


def test_mean_per_class_weighs_classes_and_top1_pictures() -> None:
    scores = np.float32([[3, 1, 2], [3, 1, 2], [3, 2, 1], [1, 2, 3], [1, 3, 2]])
    found = zero_shot.measure(scores, np.array([0, 0, 0, 1, 1]), ("a", "b", "c"))
    assert found.top1 == pytest.approx(4 / 5)
    assert found.mean_per_class == pytest.approx((1 + 1 / 2) / 2)
    assert found.top5 is None
    assert found.chance == pytest.approx(1 / 3)
    assert found.by_class == (
        zero_shot.ClassAccuracy("a", 3, 1.0, None),
        zero_shot.ClassAccuracy("b", 2, 0.5, "c"),
    )


def test_top5_counts_labels_among_the_five_best() -> None:
    scores = np.float32([[7, 6, 5, 4, 3, 2, 1]] * 3)
    assert zero_shot.measure(scores, np.array([0, 4, 5]), tuple("abcdefg")).top5 == pytest.approx(2 / 3)


def test_prompts_are_averaged_to_unit_length() -> None:
    found = average(np.float32([[1, 0], [0, 1], [0, 1]]), [2, 1])
    assert found == pytest.approx(np.array([[0.5**0.5, 0.5**0.5], [0, 1]]))


# Few-shot


def test_the_probe_learns_separable_classes_and_nothing_from_noise() -> None:
    draws = np.random.default_rng(0)
    truth = np.repeat(np.arange(6), 30)
    centres = units(draws, 6, 32)
    separable = centres[truth] + 0.05 * draws.standard_normal((180, 32)).astype(np.float32)
    assert few_shot.measure(separable, truth, 3, 3).mean_per_class == 1.0
    found = few_shot.measure(units(draws, 180, 32), truth, 3, 10)
    assert found.chance == pytest.approx(1 / 6)
    assert found.spread is not None
    assert abs(found.mean_per_class - found.chance) < 4 * found.spread / len(found.by_seed) ** 0.5
    assert found.spread == pytest.approx(np.std(found.by_seed, ddof=1))


def test_draws_have_as_many_of_each_class_and_grow_with_the_shots() -> None:
    truth = np.repeat([0, 2, 5], (4, 30, 9))
    one, three = (few_shot.draw(truth, shots, seed=7) for shots in (1, 3))
    assert [int(three[truth == number].sum()) for number in (0, 2, 5)] == [3, 3, 3]
    assert not (one & ~three).any()
    assert (three != few_shot.draw(truth, 3, seed=8)).any()


def test_a_class_needs_a_picture_more_than_shots() -> None:
    with pytest.raises(DataError, match="'b' has 2"):
        few_shot.refuse_rare(np.array([0, 0, 0, 1, 1]), ("a", "b"), 2, where="data")
    few_shot.refuse_rare(np.array([0, 0, 0, 1, 1]), ("a", "b"), 1, where="data")


# Retrieval


def test_any_caption_of_a_picture_counts_and_a_shared_one_for_each_that_has_it() -> None:
    images = np.float32([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    texts = np.float32([[0.9, 0.1, 0], [0.1, 0.2, 0.95], [0, 0.9, 0.8]])
    # Text 0 is right for pictures 0 and 1, text 1 for picture 2, text 2 for picture 0.
    found = retrieval.measure(images, texts, [(0, 2), (0,), (1,)])
    assert found.image_to_text.at_1 == pytest.approx(2 / 3)  # picture 1 finds text 2 first
    assert found.text_to_image.at_1 == pytest.approx(2 / 3)  # text 2 finds picture 1 first
    assert found.image_to_text.at_5 == found.text_to_image.at_10 == 1.0
    assert found.image_to_text.chance[0] == pytest.approx((2 / 3 + 1 / 3 + 1 / 3) / 3)


def test_a_model_that_answers_the_same_to_everything_finds_nothing() -> None:
    same = np.tile(np.float32([1, 0]), (30, 1))
    found = retrieval.measure(same, same, [(index,) for index in range(30)])
    assert found.image_to_text.at_10 == found.text_to_image.at_10 == 0.0


def test_retrieval_is_what_a_slow_reference_counts() -> None:
    draws = np.random.default_rng(3)
    texts = units(draws, 40)
    own = [tuple(draws.choice(40, size=draws.integers(1, 4), replace=False).tolist()) for _ in range(300)]
    own += [(number,) for number in range(40)]
    images = units(draws, len(own))
    found = retrieval.measure(images, texts, own)
    for cut, at in ((1, "at_1"), (5, "at_5"), (10, "at_10")):
        first = [sorted(range(40), key=lambda t, i=i: -float(images[i] @ texts[t]))[:cut] for i in range(len(own))]
        to_text = np.mean([bool(set(first[i]) & set(own[i])) for i in range(len(own))])
        near = [sorted(range(len(own)), key=lambda i, t=t: -float(images[i] @ texts[t]))[:cut] for t in range(40)]
        to_image = np.mean([any(t in own[i] for i in near[t]) for t in range(40)])
        assert getattr(found.image_to_text, at) == pytest.approx(to_text)
        assert getattr(found.text_to_image, at) == pytest.approx(to_image)


def test_chance_is_the_share_of_orders_that_find_a_right_one() -> None:
    captions = [(0,), (1, 2), (3, 4, 5)]
    found = retrieval.measure(units(np.random.default_rng(0), 3), units(np.random.default_rng(1), 6), captions)
    orders = list(itertools.permutations(range(6)))
    for cut, chance in zip((1, 5), found.image_to_text.chance, strict=False):
        by_hand = np.mean([[bool(set(order[:cut]) & set(own)) for order in orders] for own in captions])
        assert chance == pytest.approx(by_hand)


# Diagnostics


def test_relation_by_hand() -> None:
    teacher = np.float32([[1, 0], [0, 1], [-1, 0]])
    student = np.float32([[0.9, 0.1], [0.8, 0.2], [-1, 0]])
    assert diagnostics.relation(student, teacher) == pytest.approx(2 / 3)
    assert diagnostics.relation(np.tile(student[:1], (3, 1)), teacher) == pytest.approx(1 / 3)
    assert diagnostics.relation(student, np.tile(teacher[:1], (3, 1))) == 0.0


def test_neighbours_by_hand() -> None:
    def at(*degrees: float) -> F32:
        angles = np.radians(degrees)
        return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)

    # The nearest in the teacher: 0-1, 1-0, 2-3, 3-2; in the student: 0-2, 1-0 and not 2, 2-0, 3-1.
    teacher, student = at(0, 10, 50, 61), at(0, 12, -9, 40)
    assert diagnostics.neighbours(student, teacher, 1) == pytest.approx(1 / 4)
    assert diagnostics.neighbours(student, teacher, 3) == 1.0


def test_inversions_by_hand() -> None:
    texts = np.eye(4, dtype=np.float32)
    teacher = np.float32([[0.9, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.9]])
    student = np.float32([[0.2, 0.3, 0.9, 0.5], [0.1, 0.2, 0.3, 0.9]])
    # Of the first picture's best three, 0 > 1 > 2, the student has all three pairs the other way round.
    assert diagnostics.inversions(student, texts, teacher, texts, 3) == pytest.approx(3 / 2)
    assert diagnostics.inversions(teacher, texts, teacher, texts, 4) == 0.0
    assert diagnostics.inversions(-teacher, texts, teacher, texts, 4) == 6.0
    assert diagnostics.inversions(np.zeros_like(teacher), texts, teacher, texts, 4) == 6.0


def test_diagnostics_are_what_slow_references_count() -> None:
    draws = np.random.default_rng(5)
    count, k = 300, 7
    teacher, noise = units(draws, count), units(draws, count)
    student = teacher + 0.5 * noise
    texts, student_texts = units(draws, 20), units(draws, 20)

    def order(model: F32, i: int) -> list[int]:
        return sorted((j for j in range(count) if j != i), key=lambda j: -float(model[i] @ model[j]))[:k]

    own = [max(range(count), key=lambda j, i=i: float(student[i] @ teacher[j])) == i for i in range(count)]
    shared = [len(set(order(student, i)) & set(order(teacher, i))) / k for i in range(count)]
    turned = []
    for i in range(count):
        best = sorted(range(20), key=lambda t, i=i: -float(teacher[i] @ texts[t]))[:k]
        answers = [float(student[i] @ student_texts[t]) for t in best]
        turned.append(sum(a <= b for a, b in itertools.combinations(answers, 2)))
    assert diagnostics.relation(student, teacher) == pytest.approx(np.mean(own))
    assert diagnostics.neighbours(student, teacher, k) == pytest.approx(np.mean(shared))
    assert diagnostics.inversions(student, student_texts, teacher, texts, k) == pytest.approx(np.mean(turned))
    assert 0.1 < np.mean(own) < 0.99


# Asking


def test_every_picture_is_read_once_in_order_and_unreadable_ones_are_listed() -> None:
    data = InMemory([None if index in (3, 40) else f"rgb({index},0,0)" for index in range(50)])

    def red(pictures: Sequence[Image.Image]) -> F32:
        return np.float32([[picture.getpixel((0, 0))[0]] for picture in pictures])

    told: list[float | None] = []
    answers = ask_pictures(
        data,
        range(50),
        {"red": red, "twice": lambda pictures: 2 * red(pictures)},
        max_unreadable=0.1,
        progress=lambda stage, share: told.append(share),
        stage="reading",
    )
    assert sorted(data.read) == list(range(50))
    assert answers.skipped == {f"picture-{index}": f"picture-{index}: not a picture" for index in (3, 40)}
    assert answers.places.tolist() == [index for index in range(50) if index not in (3, 40)]
    assert answers.by["red"][:, 0].tolist() == answers.places.tolist()
    assert answers.by["twice"][:, 0].tolist() == (2 * answers.places).tolist()
    assert told[-1] == 1.0


def test_too_many_unreadable_pictures_are_an_error_and_so_is_nan() -> None:
    data = InMemory(["red"] * 98 + [None] * 2)
    asked = {"data": data, "rows": range(100), "progress": lambda stage, share: None, "stage": ""}
    with pytest.raises(DataError, match=r"more than 1\.0% of the 100 pictures"):
        ask_pictures(questions={"x": lambda p: np.ones((len(p), 1), np.float32)}, max_unreadable=0.01, **asked)
    with pytest.raises(CheckFailed, match="picture-0 is not finite"):
        ask_pictures(questions={"x": lambda p: np.full((len(p), 1), np.nan, np.float32)}, max_unreadable=0.5, **asked)
    with pytest.raises(CheckFailed, match="'b'"):
        ask_texts(lambda texts: np.float32([[1], [np.inf]]), ["a", "b"], progress=lambda stage, share: None, stage="")


def test_a_limit_is_spread_over_the_data() -> None:
    assert list(spread(10, None)) == list(spread(10, 12)) == list(range(10))
    assert list(spread(10, 4)) == [0, 2, 5, 7]


# Real models and bundles


@pytest.fixture(scope="module")
def bundle() -> Path:
    return library.student("coreml", "fp16").path


@pytest.mark.slow
def test_a_bundle_answers_as_its_model_does(bundle: Path) -> None:
    float_model = edgevlm.evaluate("edgevlm-student", OBJECTS, templates=["a {}"], teacher=bundle, limit=40)
    shipped = evaluate(bundle, OBJECTS, templates=["a {}"], teacher="edgevlm-student", limit=40)
    assert (float_model.evidence, float_model.precision) == ("reference", "fp32")
    assert (shipped.evidence, shipped.precision) == ("program-semantics", "fp16")
    (before,), (after,) = float_model.sets, shipped.sets
    assert before.zero_shot.top1 > 0.9  # its card says so
    assert after.zero_shot.top1 == pytest.approx(before.zero_shot.top1, abs=0.02)
    assert after.zero_shot.classes == 222
    assert len(after.zero_shot.by_class) == 40
    assert after.notes == ("182 of the 222 labels have no pictures, but can be mistaken for others",)
    assert after.retrieval.image_to_text.at_1 == pytest.approx(before.retrieval.image_to_text.at_1, abs=0.02)
    assert before.retrieval.image_to_text.at_1 > 0.7
    for found in (before.diagnostics, after.diagnostics):
        assert found.relation >= 0.98
        assert found.neighbours >= 0.98
        assert found.inversions <= 0.5
    with open_encoder("edgevlm-student") as one, open_encoder(bundle) as other:
        data = open_data(OBJECTS)
        pictures = [data.picture(index) for index in range(50)]
        texts = [f"a {label}" for label in data.labels]
        answers = [(e.encode_pictures(pictures) @ e.encode_texts(texts).T).argmax(1) for e in (one, other)]
    assert (answers[0] == answers[1]).mean() >= 0.98


def test_the_command_shows_data_sets_side_by_side_and_writes_json(tmp_path: Path) -> None:
    bundle = library.student("tflite", "int8").path
    report = tmp_path / "reports" / "found.json"
    arguments = ("evaluate", bundle, "--data", f"ID={OBJECTS}", "--data", "OOD=scenes:styles:20", "--limit", "24")
    result = run(*arguments, "--template", "a {}", "--template", "a picture of a {}", "--out", report)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "int8, evidence: host-runtime" in lines[0]
    assert "a picture of a {}" in lines[1]
    heading = next(line.split() for line in lines if "ID" in line)
    assert heading == ["ID", "OOD"]
    cells = {line.strip().split("  ")[0]: line.split()[-2:] for line in lines if line.strip()}
    assert cells["pictures"] == ["24", "20"]
    assert cells["zero-shot top-1"][0].endswith("%")
    assert cells["zero-shot top-1"][1] == "–"
    found = json.loads(report.read_text())
    assert found["schema_version"] == 1
    assert [each["name"] for each in found["sets"]] == ["ID", "OOD"]
    assert found["sets"][0]["zero_shot"]["pictures"] == 24
    assert found["sets"][1]["zero_shot"] is None
    assert found["sets"][1]["retrieval"]["pictures"] == 20
    assert found["templates"] == ["a {}", "a picture of a {}"]


@pytest.mark.slow
def test_scenes_are_told_apart_by_attribute() -> None:
    (found,) = evaluate("edgevlm-student", "scenes:combinations:8:1:held-out", attributes=True).sets
    scenes = Scenes(seed=1, split="combinations").batch(HELD_OUT_START, 8)
    right = []
    with open_encoder("edgevlm-student") as encoder:
        for scene, pixels in zip(scenes.scenes, scenes.pixels, strict=True):
            texts = [caption(scene), *map(caption, variants(scene, "texture"))]
            scores = encoder.encode_texts(texts) @ encoder.encode_pictures([Image.fromarray(pixels)])[0]
            right.append(scores.argmax() == 0)
    assert found.attributes.by_attribute["texture"] == np.mean(right)
    assert found.attributes.by_attribute["colour"] > 0.7
    assert found.attributes.top1 > 0.5
    assert found.attributes.top1_one_attribute <= min(found.attributes.by_attribute.values())
    shown = run("evaluate", "edgevlm-student", "--data", "A=objects:styles:3", "--attributes")
    assert "among 50 descriptions" in shown.stdout
    assert re.search(r"in the shape +[0-9.]+% \(1\d%\)", shown.stdout)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip_checkpoint(tmp_path_factory.mktemp("clip") / "tiny-clip")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """An image folder of three classes, eight pictures each and one more that is none."""
    data = open_data("scenes:train:24")
    for index in range(24):
        folder = tmp_path / "photos" / ("cat", "dog [brown]", "old bicycle")[index % 3]
        folder.mkdir(parents=True, exist_ok=True)
        data.picture(index).save(folder / f"{index}.png")
    (tmp_path / "photos" / "cat" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    return tmp_path / "photos"


def test_a_checkpoint_on_an_image_folder_with_probes_and_a_broken_picture(clip: Path, photos: Path) -> None:
    arguments = ("evaluate", clip, "--data", photos, "--max-unreadable", "0.1")
    result = run(*arguments, "--shots", "4,1", "--seeds", "3", "--json")
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)["sets"]
    assert found["pictures"] == 24
    assert list(found["skipped"]) == ["cat/broken.jpg"]
    assert [(probe["shots"], len(probe["by_seed"])) for probe in found["few_shot"]] == [(1, 3), (4, 3)]
    assert found["zero_shot"]["chance"] == pytest.approx(1 / 3)
    with open_encoder(clip) as encoder:
        data = open_data(photos)
        readable = [index for index in range(len(data)) if "broken" not in data.example(index).key]
        texts = encoder.encode_texts([f"a photo of a {label}" for label in data.labels])
        right = [
            int((encoder.encode_pictures([data.picture(index)]) @ texts.T).argmax()) == data.example(index).label
            for index in readable
        ]
    assert found["zero_shot"]["top1"] == pytest.approx(np.mean(right))
    shown = run(*arguments)
    assert "dog [brown]" in shown.stdout
    skipped = shown.stdout.splitlines().index(f"{photos}: 1 unreadable picture skipped:")
    assert "cat/broken.jpg: cannot be opened" in shown.stdout.splitlines()[skipped + 1]


def test_descriptions_stand_behind_the_labels(clip: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "cat" / "broken.jpg").unlink()
    plain, told = (
        evaluate(clip, photos, descriptions=descriptions)
        for descriptions in (None, write_descriptions(tmp_path, "cat", "dog [brown]", "old bicycle"))
    )
    assert told.sets[0].zero_shot != plain.sets[0].zero_shot


def test_captions_files_are_retrieved_and_long_captions_cut(clip: Path, photos: Path, tmp_path: Path) -> None:
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    captions = [(f"picture number {index}", "an old bicycle") for index in range(len(names))]
    captions[0] = ("a " * 100, "an old bicycle")
    content = {
        "images": [{"id": index, "file_name": name} for index, name in enumerate(names)],
        "annotations": [
            {"image_id": index, "caption": text} for index, several in enumerate(captions) for text in several
        ],
    }
    (tmp_path / "captions.json").write_text(json.dumps(content))
    (found,) = evaluate(clip, tmp_path / "captions.json", images=photos).sets
    assert found.zero_shot is None
    assert found.retrieval.pictures == 24
    assert found.retrieval.texts == 25
    # Every picture has the shared caption, and it has every picture.
    assert found.retrieval.text_to_image.chance[0] == pytest.approx((1 + 24 / 24) / 25)
    assert found.notes == (f"{clip}: 1 of 25 captions were cut to its 77 tokens",)


# Models without a text tower

LABELS = ("old bicycle", "cat", "dog [brown]")


@pytest.fixture(scope="module")
def labels_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student's folder with labels baked in, and not in the data's order."""
    config = VitConfig(image_size=32, patch_size=8, width=32, blocks=2, heads=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = StudentParts(
            image_tower=build_image_tower(config, 24),
            image_config=config,
            embedding_dim=24,
            logit_scale=10.0,
            text=FixedLabels(Labels(LABELS, ("{}",)), torch.nn.functional.normalize(torch.randn(3, 24))),
            image=square_pictures(32),
        )
    path = tmp_path_factory.mktemp("students") / "labels-only"
    student_folder.save(path, parts)
    return path


@pytest.mark.slow
def test_baked_labels_are_scored_where_they_are_the_datas(labels_only: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "cat" / "broken.jpg").unlink()
    bundle = edgevlm.convert(labels_only, target="coreml", recipe="fp32", out=tmp_path).path
    (by_model,) = evaluate(labels_only, photos).sets
    (by_bundle,) = evaluate(bundle, photos).sets
    assert by_model.zero_shot == by_bundle.zero_shot
    data = open_data(photos)
    with open_encoder(bundle) as encoder:
        scores = encoder.score_labels([data.picture(index) for index in range(len(data))])
    right = [LABELS[best] == data.labels[data.example(i).label] for i, best in enumerate(scores.argmax(1))]
    assert by_bundle.zero_shot.top1 == pytest.approx(np.mean(right))
    other = InMemory(["red", "blue"] * 4, ("cat", "zebra"), [0, 1] * 4)
    with pytest.raises(UnsupportedError, match="no text tower, and its baked labels lack 'zebra'"):
        evaluate(labels_only, other)
    # The embeddings can be probed on any classes.
    (probed,) = evaluate(labels_only, other, shots=[1], seeds=2).sets
    assert probed.zero_shot is None
    assert probed.few_shot[0].mean_per_class == 1.0
    assert any("no zero-shot" in note for note in probed.notes)
    # Of more labels than the data has, those of the data compete.
    (some,) = evaluate(labels_only, InMemory(["red", "blue"], ("cat", "old bicycle"), [0, 1])).sets
    assert some.zero_shot.classes == 2
    with pytest.raises(InputError, match="no text tower, so templates"):
        evaluate(labels_only, photos, templates=["a {}"])


def test_a_teacher_lends_its_text_tower(labels_only: Path, tmp_path: Path) -> None:
    teacher = write_clip_checkpoint(tmp_path / "teacher", projection_dim=24)
    data = InMemory(["red", "blue"] * 4, ("cat", "zebra"), [0, 1] * 4, [("a cat",), ("a zebra",)] * 4)
    (found,) = evaluate(labels_only, data, templates=["one {}"], teacher=teacher).sets
    with open_encoder(labels_only) as student, open_encoder(teacher) as guide:
        pictures = student.encode_pictures([data.picture(0), data.picture(1)])
        best = (pictures @ guide.encode_texts(["one cat", "one zebra"]).T).argmax(1)
        taught = guide.encode_pictures([data.picture(0), data.picture(1)])
        their_best = (taught @ guide.encode_texts(["one cat", "one zebra"]).T).argmax(1)
    assert found.zero_shot.top1 == np.mean(best == [0, 1])
    assert found.teacher_zero_shot.top1 == np.mean(their_best == [0, 1])
    assert found.retrieval.texts == 2
    assert found.diagnostics.inversions is not None
    assert found.notes == (f"{labels_only} has no text tower: texts are encoded by {teacher}",)


@pytest.mark.slow
def test_a_bundle_with_classify_alone_is_asked_for_its_labels(labels_only: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "cat" / "broken.jpg").unlink()
    bundle = edgevlm.convert(labels_only, target="coreml", recipe="fp32", image_only=True, out=tmp_path / "dist").path
    (found,) = evaluate(bundle, photos, shots=[1], teacher=labels_only).sets
    (expected,) = evaluate(labels_only, photos).sets
    assert found.zero_shot == expected.zero_shot
    assert (found.few_shot, found.retrieval, found.diagnostics) == ((), None, None)
    assert [note.partition(":")[0] for note in found.notes] == [
        "no few-shot probe",
        f"no comparison with {labels_only}",
    ]


# Errors


def test_what_cannot_be_measured_is_told_before_the_pictures_are_read(clip: Path) -> None:
    for data, options, error, message in (
        (InMemory([]), {}, DataError, "expected pictures to evaluate, got none"),
        (InMemory(["red"]), {}, DataError, "pictures without words"),
        (InMemory(["red"] * 3, ("a", "b"), [0, 1, 1]), {"shots": [1]}, DataError, "'a' has 1"),
        (InMemory(["red"] * 2, ("a" * 400, "b"), [0, 1]), {}, LabelError, "the context of"),
        (InMemory(["red"], ("a",), [0]), {"limit": 0}, InputError, "at least 1"),
    ):
        with pytest.raises(error, match=message):
            evaluate(clip, data, **options)
        assert data.read == []


BAD: dict[str, tuple[list[str], str]] = {
    "no data": (["{clip}"], "--data"),
    "missing data": (["{clip}", "--data", "gone/"], "gone"),
    "missing model": (["./gone", "--data", "scenes:train:4"], "gone"),
    "damaged bundle": (["{empty}", "--data", "scenes:train:4"], "this is not a bundle"),
    "shots that are no numbers": (
        ["{clip}", "--data", "scenes:train:4", "--shots", "1,many"],
        "expected whole numbers",
    ),
    "the same name twice": (["{clip}", "--data", "a=scenes:train:4", "--data", "a=scenes:train:5"], "given twice"),
    "too many unreadable": (["{clip}", "--data", "{photos}"], "more than 1.0% of the 25 pictures"),
    "too few for the shots": (["{clip}", "--data", "{photos}", "--shots", "8"], "'dog [brown]' has 8"),
    "a folder as report": (["{clip}", "--data", "scenes:train:4", "--out", "{photos}"], "expected a file"),
    "a report below a file": (["{clip}", "--data", "scenes:train:4", "--out", "{told}/a.json"], "expected a file"),
    "no descriptions": (["{clip}", "--data", "{photos}", "--descriptions", "gone.json"], "gone.json"),
    "a label without description": (["{clip}", "--data", "{photos}", "--descriptions", "{told}"], "old bicycle"),
    "a template without label": (["{clip}", "--data", "{photos}", "--template", "a photo"], "{}"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_exit_code_2_with_a_plain_message(
    case: str, clip: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.edgevlm").mkdir()
    told = write_descriptions(tmp_path, "cat", "dog [brown]")
    files = {"clip": clip, "photos": photos, "empty": "empty.edgevlm", "told": told}
    arguments, message = BAD[case]
    result = run("evaluate", *(part.format(**files) for part in arguments))
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stdout == ""
    assert isinstance(result.exception, SystemExit)


def test_the_function_of_the_packages_name_can_be_called_whatever_was_imported_before() -> None:
    import edgevlm.evaluation.zero_shot

    with pytest.raises(DataError, match="no such file"):
        edgevlm.evaluate("edgevlm-student", "gone/")


def test_components_of_other_names_are_asked_by_what_they_take_and_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = catalogue.load("edgevlm-student")
    names = {"encode_image": "see", "encode_text": "read"}
    original = Original(
        plain.original.network,
        {name: partial(plain.original.forward, component) for component, name in names.items()},
        {name: replace(plain.original.specs[component], name=name) for component, name in names.items()},
    )
    renamed = replace(plain, original=original)
    data = open_data(OBJECTS)
    scores = []
    for model in (plain, renamed):
        task = Task(model, data, pictures=6, progress=silent)
        scores.append(task.set_reference(model.original.answer(task.samples)))
    assert scores[0] == scores[1]
    pictures, texts = [data.picture(index) for index in range(2)], ["a red circle"]
    expected = plain.original.answer(make_rows(pictures, texts, plain.image, plain.tokenizer))
    monkeypatch.setattr(catalogue, "load", lambda name: renamed)
    with open_encoder("renamed") as encoder:
        np.testing.assert_array_equal(encoder.encode_pictures(pictures), expected["encode_image"]["embedding"])
        np.testing.assert_array_equal(encoder.encode_texts(texts), expected["encode_text"]["embedding"])
