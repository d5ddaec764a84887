"""Every form of data: what the example script writes is read back, and damage is named before training starts."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from pictures import encode, oriented, scene
from PIL import Image

from edgevlm.data.captions import caption, vocabulary
from edgevlm.data.dataset import Dataset, Example
from edgevlm.data.rendered import HELD_OUT_START
from edgevlm.data.scene import is_held_out
from edgevlm.data.scenes import Scenes
from edgevlm.data.sources import open_data
from edgevlm.data.subsets import few_shot, limit
from edgevlm.errors import DataError, ImageError
from edgevlm.inputs.pictures import SUFFIXES

SCRIPT = Path(__file__).parent.parent / "examples" / "write_scenes.py"
OBJECTS = "objects:train:60"
PNG = encode(scene(8, 8))


def _write(out: Path, form: str, *options: str, data: str = OBJECTS) -> Path:
    command = [sys.executable, str(SCRIPT), str(out), "--form", form, "--data", data, *options]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return out


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("written")
    _write(out / "folder", "folder")
    _write(out / "shards", "shards", "--per-shard", "25")
    _write(out / "coco", "coco")
    return out


def _folder(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PNG)
    return root


def _examples(data: Dataset) -> list[Example]:
    return [data.example(index) for index in range(len(data))]


def _pixels(data: Dataset, index: int) -> np.ndarray:
    return np.asarray(data.picture(index))


# Rendered


def test_scenes_are_those_of_the_renderer() -> None:
    data = open_data("scenes:train:20:3")
    batch = Scenes(3).batch(0, 20)
    assert len(data) == 20
    assert data.labels == ()
    assert [example.captions[0] for example in _examples(data)] == [caption(scene) for scene in batch.scenes]
    assert np.array_equal(_pixels(data, 17), batch.pixels[17])
    assert np.array_equal(_pixels(open_data("scenes:styles:20"), 17), Scenes(0, "styles")[17][1])


def test_words_of_rendered_pictures_do_not_change_between_releases() -> None:
    # A change here needs another RENDERER_VERSION, since teachers' answers are kept under the fingerprint.
    assert open_data("scenes:train:3").example(0).captions == (
        "a small glossy dotted white circle at the bottom",
        "a small circle , glossy",
        "a glossy white disc at the bottom",
        "a small glossy dotted white round shape at the bottom",
    )
    objects = open_data("objects:train:3")
    assert objects.example(1) == Example(
        "train-0-1",
        objects.labels.index("matte black striped cross"),
        (
            "two small matte striped black crosses",
            "an image of two dull crosses , black and small and stripy",
            "2 little stripy black plus signs",
            "a drawing of 2 small matte striped black crosses",
        ),
    )


def test_the_first_caption_is_canonical_and_the_others_are_worded() -> None:
    data = open_data("scenes:train:200")
    captions = [example.captions for example in _examples(data)]
    assert all(1 <= len(texts) <= 4 and len(set(texts)) == len(texts) for texts in captions)
    assert sum(len(texts) == 4 for texts in captions) > 180
    assert any(len(texts[-1].split()) < len(texts[0].split()) - 2 for texts in captions)
    known = set(" ".join(vocabulary()).split())
    assert all(set(text.split()) <= known for texts in captions for text in texts)


def test_objects_show_every_label_equally_often() -> None:
    data = open_data("objects:combinations:444")
    assert data.labels == tuple(sorted(data.labels))
    counts = Counter(example.label for example in _examples(data))
    assert counts == dict.fromkeys(range(len(data.labels)), 444 // len(data.labels))
    for example in _examples(data)[:50]:
        assert example.label is not None
        finish, colour, texture, shape = data.labels[example.label].split()
        assert all(word in example.captions[0] for word in (finish, colour, texture, shape))
        assert is_held_out(shape, colour, texture, finish)


def test_held_out_classes_are_none_that_training_shows() -> None:
    seen, unseen, styles = (
        set(open_data(f"objects:{split}:1").labels) for split in ("train", "combinations", "styles")
    )
    assert len(seen | unseen) == 1080
    assert not seen & unseen
    assert seen == styles


@pytest.mark.parametrize("form", ["scenes", "objects"])
def test_rendered_pictures_depend_on_split_seed_and_number_alone(form: str) -> None:
    data = open_data(f"{form}:train:50")
    longer = open_data(f"{form}:train:5000:0")
    assert longer.example(49) == data.example(49)
    assert np.array_equal(_pixels(longer, 49), _pixels(data, 49))
    others = [open_data(f"{form}:{rest}") for rest in ("train:50:1", "styles:50", "train:50:held-out")]
    assert len({data.fingerprint, longer.fingerprint, *(other.fingerprint for other in others)}) == 5
    assert not any(np.array_equal(_pixels(other, 49), _pixels(data, 49)) for other in others)


def test_held_out_pictures_are_the_far_out_ones() -> None:
    data = open_data("scenes:train:4:held-out")
    assert np.array_equal(_pixels(data, 3), Scenes(0)[HELD_OUT_START + 3][1])


def test_pictures_past_the_end_are_refused() -> None:
    data = open_data("scenes:train:3")
    with pytest.raises(IndexError):
        data.example(3)
    with pytest.raises(IndexError):
        data.picture(3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("scenes:", "expected scenes:SPLIT:COUNT"),
        ("scenes:train", "expected scenes:SPLIT:COUNT"),
        ("scenes:train:held-out", "expected scenes:SPLIT:COUNT"),
        ("objects:train:1:2:3", "expected objects:SPLIT:COUNT"),
        ("objects:test:1", "splits train, combinations, styles, got 'test'"),
        ("scenes:train:0", "from 1 to 999999999 as the count, got '0'"),
        ("scenes:train:many", "as the count, got 'many'"),
        ("scenes:train:²", "as the count"),
        ("scenes:train:5:-1", "from 0 to 999999999 as the seed, got '-1'"),
        ("scenes:train:" + "9" * 5000, "as the count"),
    ],
)
def test_misspelt_rendered_specs_are_explained(spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message.replace("(", r"\(")):
        open_data(spec)


# What the example writes


def test_a_written_image_folder_has_the_same_labels_and_pixels(written: Path) -> None:
    original, data = open_data(OBJECTS), open_data(written / "folder")
    assert len(data) == 60
    named = {int(Path(example.key).stem): index for index, example in enumerate(_examples(data))}
    for number, example in enumerate(_examples(original)):
        index = named[number]
        found = data.example(index)
        assert found.captions == ()
        assert found.label is not None
        assert example.label is not None
        assert data.labels[found.label] == original.labels[example.label]
        assert np.array_equal(_pixels(data, index), _pixels(original, number))


@pytest.mark.parametrize("spec", ["shards", "shards/shards-{000000..000002}.tar"])
def test_written_shards_have_the_same_words_and_pixels(written: Path, spec: str) -> None:
    original, data = open_data(OBJECTS), open_data(written / spec)
    assert len(data) == 60
    assert data.example(26).key == "shards-000001.tar/000026"
    for index in (59, 0, 26, 25, 24):  # in no order
        found, example = data.example(index), original.example(index)
        assert found.captions == example.captions
        assert found.label is not None
        assert example.label is not None
        assert data.labels[found.label] == original.labels[example.label]
        assert np.array_equal(_pixels(data, index), _pixels(original, index))


def test_written_coco_captions_have_the_same_words_and_pixels(written: Path) -> None:
    original, data = open_data(OBJECTS), open_data(written / "coco" / "captions.json")
    assert data.labels == ()
    assert [example.captions for example in _examples(data)] == [example.captions for example in _examples(original)]
    assert all(np.array_equal(_pixels(data, index), _pixels(original, index)) for index in range(60))


def test_one_shard_alone_is_a_dataset(written: Path) -> None:
    data = open_data(str(written / "shards" / "shards-000002.tar"))
    assert len(data) == 10
    assert data.example(0).key == "shards-000002.tar/000050"


def test_the_example_writes_the_same_shards_every_time(written: Path, tmp_path: Path) -> None:
    again = _write(tmp_path / "again", "shards", "--per-shard", "25")
    files = {path.name: path.read_bytes() for path in again.iterdir()}
    assert len(files) == 3
    assert files == {path.name: path.read_bytes() for path in (written / "shards").iterdir()}


@pytest.mark.parametrize(
    ("form", "data", "message"),
    [
        ("folder", "scenes:train:2", "has no label: write --form coco or shards"),
        ("coco", "nowhere", "no such file or folder"),
        ("shards", "scenes:train:2", "exists already and is not empty"),
        ("a file above it", "scenes:train:2", "cannot be written"),
    ],
)
def test_the_example_says_what_it_cannot_write(form: str, data: str, message: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if form == "shards":
        _folder(out, "mine.png")
    if form == "a file above it":
        (tmp_path / "file").write_text("")
        out, form = tmp_path / "file" / "out", "coco"
    command = [sys.executable, str(SCRIPT), str(out), "--form", form, "--data", data]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


# All forms


FORMS = ["folder", "shards", "coco/captions.json", "scenes:train:60", OBJECTS]


def _open(written: Path, form: str) -> Dataset:
    return open_data(form if ":" in form else written / form)


@pytest.mark.parametrize("form", FORMS)
def test_a_dataset_goes_to_another_process_and_gives_the_same(written: Path, form: str) -> None:
    data = _open(written, form)
    before = _pixels(data, 7)
    copy: Dataset = pickle.loads(pickle.dumps(data))
    assert (copy.name, copy.labels, copy.fingerprint, len(copy)) == (data.name, data.labels, data.fingerprint, 60)
    assert _examples(copy) == _examples(data)
    assert np.array_equal(_pixels(copy, 7), before)


@pytest.mark.parametrize("form", FORMS)
def test_threads_read_what_one_reads(written: Path, form: str) -> None:
    data = _open(written, form)
    order = np.random.default_rng(0).permutation(60).tolist()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda index: _pixels(data, index), order))
    assert all(np.array_equal(pixels, _pixels(data, index)) for index, pixels in zip(order, found, strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_the_same_data_have_the_same_fingerprint(written: Path, form: str) -> None:
    assert _open(written, form).fingerprint == _open(written, form).fingerprint


@pytest.mark.parametrize("form", FORMS)
def test_keys_name_one_picture_each(written: Path, form: str) -> None:
    assert len({example.key for example in _examples(_open(written, form))}) == 60


@pytest.mark.parametrize(
    "spec", ["https://host/a.tar", "s3://bucket/{00..10}.tar", "pipe:cat a.tar", Path("http://host/photos")]
)
def test_urls_are_refused(spec: str | Path) -> None:
    with pytest.raises(DataError, match="is a URL") as caught:
        open_data(spec)
    assert caught.value.hint == "download it first"


@pytest.mark.parametrize(("spec", "message"), [("nowhere", "no such file or folder"), (__file__, "is no form of data")])
def test_unknown_forms_are_answered_with_those_there_are(spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        open_data(spec)
    for example in ("scenes:train:2000", "objects:train:2000", "photos/", "captions.json", "shards-{000..009}.tar"):
        assert example in caught.value.message


def test_images_go_with_captions_alone(written: Path) -> None:
    with pytest.raises(DataError, match="has its own pictures"):
        open_data(written / "folder", images=written)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_folder_that_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    _folder(tmp_path, "cat/1.png", "cat/more/2.png")
    (tmp_path / "cat" / "more").chmod(0)
    with pytest.raises(DataError, match="cannot be read"):
        open_data(tmp_path)


# Image folders


def test_an_image_folder_is_read_at_any_depth_without_hidden_and_other_files(tmp_path: Path) -> None:
    _folder(tmp_path, "cat/1.JPG", "cat/deep/er/2.png", "a dog/x.WebP", "a dog/.hidden.png", "a dog/.cache/3.png")
    _folder(tmp_path, "a dog/notes.txt", ".git/4.png", "loose.png", "102flowers.tgz")
    data = open_data(tmp_path)
    assert data.labels == ("a dog", "cat")
    assert _examples(data) == [Example("a dog/x.WebP", 0), Example("cat/1.JPG", 1), Example("cat/deep/er/2.png", 1)]
    assert _pixels(data, 2).shape == (8, 8, 3)


def _notes(caplog: pytest.LogCaptureFixture) -> str:
    """What was said since the test began."""
    return "\n".join(record.getMessage() for record in caplog.records if record.name == "edgevlm")


def test_what_is_passed_over_is_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _folder(tmp_path, "cat/1.jpg", "dog/2.jpg", "__MACOSX/cat/._1.jpg", "cat/._1.jpg", "dog/.x.png", "3.jpg", "4.PNG")
    _folder(tmp_path, *(f"dog/{number}.txt" for number in range(1000)), "dog/a\nb.mov", "dog/Thumbs.db")
    (tmp_path / "dog" / "more").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "dog" / "pipe.jpg")
    assert [example.key for example in _examples(open_data(tmp_path))] == ["cat/1.jpg", "dog/2.jpg"]
    said = _notes(caplog)
    for part in (
        "2 of no class, beside the class folders (3.jpg, 4.PNG)",
        "3 left by the system (__MACOSX/, dog/Thumbs.db, cat/._1.jpg)",
        "1 hidden (dog/.x.png)",
        "1,001 without a picture's ending (dog/0.txt, dog/1.txt, dog/10.txt, …)",
        "1 linked from elsewhere (dog/more/)",
        "1 of a special kind, such as pipes (dog/pipe.jpg)",
    ):
        assert part in said


def test_nothing_is_said_where_nothing_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _folder(tmp_path, "cat/1.jpg", "dog/2.jpg")
    open_data(tmp_path)
    assert _notes(caplog) == ""


def test_pictures_have_every_ending_that_pillow_knows_of_their_formats(tmp_path: Path) -> None:
    known = Image.registered_extensions()
    formats = {known[suffix] for suffix in SUFFIXES if suffix in known}
    rare = {".pfm", ".icb", ".vda", ".vst"}  # 32-bit floats, and names of other programs' files as well
    assert {suffix for suffix, kind in known.items() if kind in formats} - rare <= {*SUFFIXES}
    assert not formats & {"EPS", "PDF", "WMF", "MPEG", "HDF5", "PSD"}
    names = [f"cat/{number}{suffix.upper()}" for number, suffix in enumerate(SUFFIXES)]
    _folder(tmp_path, *names)
    assert {example.key for example in _examples(open_data(tmp_path))} == {*names}


@pytest.mark.parametrize("suffix", [".jfif", ".JPE", ".ppm", ".pgm", ".tga", ".avifs", ".bmp", ".gif", ".jp2"])
def test_pictures_of_every_format_are_read(suffix: str, tmp_path: Path) -> None:
    _folder(tmp_path, "cat/1.png")
    path = tmp_path / "cat" / f"2{suffix}"
    kind = Image.registered_extensions()[suffix.lower()]
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow has no {kind}")
    Image.new("RGB", (9, 7), "red").save(path, kind)
    data = open_data(tmp_path)
    assert data.picture(1).size == (9, 7)


@pytest.mark.parametrize(
    ("files", "given"),
    [
        (("train/cat/1.png", "train/dog/1.png", "meta/logo.png"), "train"),
        (("Test/cat/1.png", "cat/1.png"), "Test"),
        (("train2017/1.png", "val2017/1.png", "logos/1.png"), "train2017"),
    ],
)
def test_a_folder_that_holds_classes_is_not_taken_for_one(files: tuple[str, ...], given: str, tmp_path: Path) -> None:
    _folder(tmp_path, *files)
    with pytest.raises(DataError, match="expected a sub-folder for each class, found") as caught:
        open_data(tmp_path)
    assert f"such as {tmp_path / given}," in str(caught.value.hint)


def test_trains_are_a_class_beside_others_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _folder(tmp_path, "bus/1.png", "train/1.png", "tram/1.png")
    assert open_data(tmp_path).labels == ("bus", "train", "tram")
    assert "the folder train is taken for a class of that name, beside 2 others" in _notes(caplog)


def test_a_folder_of_loose_pictures_will_do_where_labels_do_not_count(tmp_path: Path) -> None:
    _folder(tmp_path, "1.png", "2.JFIF", "._1.png", "notes.txt")
    data = open_data(tmp_path, unlabelled=True)
    assert [example.key for example in _examples(data)] == ["1.png", "2.JFIF"]
    assert data.labels == ()


def test_links_that_lead_nowhere_or_in_circles_are_met_or_named(tmp_path: Path) -> None:
    _folder(tmp_path, "cat/1.png")
    (tmp_path / "cat" / "round.png").symlink_to(tmp_path / "cat" / "round.png")
    (tmp_path / "cat" / "gone.png").symlink_to(tmp_path / "nowhere")
    data = open_data(tmp_path)
    assert [example.key for example in _examples(data)] == ["cat/1.png", "cat/gone.png", "cat/round.png"]
    for index in (1, 2):
        with pytest.raises(ImageError, match=re.escape(data.example(index).key)):
            data.picture(index)


def test_a_class_folder_may_be_a_link(tmp_path: Path) -> None:
    _folder(tmp_path, "real/1.png", "data/cat/2.png")
    (tmp_path / "data" / "dog").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "back").symlink_to(tmp_path)
    data = open_data(tmp_path / "data")
    assert [example.key for example in _examples(data)] == ["cat/2.png", "dog/1.png"]
    assert data.picture(1).size == (8, 8)


def test_pictures_come_upright(tmp_path: Path) -> None:
    _folder(tmp_path, "cat/1.jpg")
    (tmp_path / "cat" / "1.jpg").write_bytes(oriented(6))
    assert open_data(tmp_path).picture(0).size == (20, 30)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "expected a sub-folder for each class, found no sub-folders"),
        (("1.png", "2.png"), "found 2 pictures of no class"),
        (("cat/1.png", "dog/notes.txt", "owl/.hidden.png"), "no pictures in 2 of 3 class folders: dog, owl"),
        (("train/cat/1.png", "val/cat/1.png"), "found train, val"),
        (("cat/1.png", "shard.tar"), "found both: shard.tar and cat/"),
    ],
)
def test_folders_that_are_none_are_explained(tmp_path: Path, files: tuple[str, ...], message: str) -> None:
    _folder(tmp_path, *files)
    with pytest.raises(DataError, match=message):
        open_data(tmp_path)


def test_a_name_that_is_not_utf_8_is_an_error(tmp_path: Path) -> None:
    _folder(tmp_path, "cat/1.png", "cat/caf\udce9.png")
    with pytest.raises(DataError, match="not in UTF-8"):
        open_data(tmp_path)


def test_an_unreadable_picture_is_met_when_it_is_read(tmp_path: Path) -> None:
    _folder(tmp_path, "cat/1.png", "cat/2.png", "cat/3.png")
    (tmp_path / "cat" / "1.png").write_bytes(PNG[:60])
    (tmp_path / "cat" / "2.png").unlink()
    (tmp_path / "cat" / "2.png").symlink_to(tmp_path / "gone.png")
    data = open_data(tmp_path)
    assert len(_examples(data)) == 3
    for index, name in ((0, r"cat/1\.png"), (1, r"cat/2\.png: no such file")):
        with pytest.raises(ImageError, match=name):
            data.picture(index)
    assert data.picture(2).size == (8, 8)


def test_pictures_of_phones_are_not_passed_over(tmp_path: Path) -> None:
    _folder(tmp_path, "cat/1.png")
    (tmp_path / "cat" / "2.heic").write_bytes(b"\0\0\0\x18ftypheic")
    data = open_data(tmp_path)
    assert [example.key for example in _examples(data)] == ["cat/1.png", "cat/2.heic"]
    with pytest.raises(ImageError, match=r"2\.heic: not a picture in a format that Pillow reads"):
        data.picture(1)


def test_objects_are_written_by_one_attribute(tmp_path: Path) -> None:
    _write(tmp_path / "by-shape", "folder", "--label", "shape")
    data, objects = open_data(tmp_path / "by-shape"), open_data(OBJECTS)
    for index, example in enumerate(_examples(data)):
        whole = int(Path(example.key).stem)
        assert data.labels[example.label] == objects.labels[objects.example(whole).label].split()[-1]
        assert np.array_equal(_pixels(data, index), _pixels(objects, whole))
    words = [str(tmp_path / "x"), "--form", "folder", "--data", "scenes:train:3", "--label", "shape"]
    refused = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "has no labels" in refused.stderr


@pytest.mark.parametrize(("size", "fits"), [((1, 200), True), ((201, 1), False)])
def test_a_strip_is_no_picture(size: tuple[int, int], fits: bool, tmp_path: Path) -> None:
    _folder(tmp_path, "cat/1.png", "cat/2.png")
    Image.new("RGB", size).save(tmp_path / "cat" / "1.png")
    with nullcontext() if fits else pytest.raises(ImageError, match=r"1\.png: a strip of 1 x 201 pixels"):
        open_data(tmp_path).picture(0)


def test_a_changed_file_changes_the_fingerprint_and_a_moved_folder_does_not(tmp_path: Path) -> None:
    _folder(tmp_path / "old", "cat/1.png", "dog/1.png")
    before = open_data(tmp_path / "old").fingerprint
    (tmp_path / "old").rename(tmp_path / "new")
    moved = open_data(tmp_path / "new")
    assert moved.fingerprint == before
    (tmp_path / "new" / "cat" / "1.png").write_bytes(encode(scene(9, 9)))
    assert open_data(tmp_path / "new").fingerprint != before
    (tmp_path / "new" / "dog").rename(tmp_path / "new" / "fox")
    assert open_data(tmp_path / "new").fingerprint not in (before, moved.fingerprint)


# COCO captions


def _coco(folder: Path, data: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "captions.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


IMAGES = [{"id": 7, "file_name": "a.png"}, {"id": "x", "file_name": "deep/b.png"}]
SAID = [
    {"image_id": "x", "id": 1, "caption": " a café \n"},
    {"image_id": 7, "id": 2, "caption": "a cat"},
    {"image_id": "x", "id": 3, "caption": "two dogs"},
    {"image_id": "x", "id": 4, "caption": "two dogs"},
]


def test_coco_captions_by_hand(tmp_path: Path) -> None:
    file = _coco(tmp_path / "json", {"info": {}, "licenses": [], "images": IMAGES, "annotations": SAID})
    _folder(tmp_path / "pictures", "a.png", "deep/b.png")
    data = open_data(file, images=tmp_path / "pictures")
    assert _examples(data) == [
        Example("a.png", captions=("a cat",)),
        Example("deep/b.png", captions=("a café", "two dogs")),
    ]
    assert data.picture(1).size == (8, 8)
    with pytest.raises(DataError, match=r"none of its 2 pictures is in .*json, such as a\.png") as caught:
        open_data(file)
    assert "--images" in str(caught.value.hint)


def test_captions_are_in_utf_8_with_or_without_a_mark(tmp_path: Path) -> None:
    _folder(tmp_path, "a.png", "deep/b.png")
    text = json.dumps({"images": IMAGES, "annotations": SAID}, ensure_ascii=False)
    file = tmp_path / "captions.json"
    file.write_text(text, encoding="utf-8-sig")
    assert _examples(open_data(file))[1].captions == ("a café", "two dogs")
    file.write_text(text, encoding="utf-16")
    with pytest.raises(DataError, match="not readable as JSON"):
        open_data(file)
    for other in ("captions.jsonl", "captions.csv"):
        (tmp_path / other).write_text("image,caption\n")
        with pytest.raises(DataError, match="is no form of data"):
            open_data(tmp_path / other)


def test_one_missing_picture_is_met_when_it_is_read(tmp_path: Path) -> None:
    file = _coco(tmp_path, {"images": IMAGES, "annotations": SAID})
    data = open_data(_folder(tmp_path, "deep/b.png") / file.name)
    with pytest.raises(ImageError, match="no such file"):
        data.picture(0)
    assert data.picture(1).size == (8, 8)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "not readable as JSON"),
        ("[" * 100_000, "not readable as JSON"),
        ([1], "got a list"),
        ({"images": IMAGES}, "expected a list of objects under 'annotations'"),
        ({"images": [], "annotations": SAID}, "expected a list of objects under 'images'"),
        ({"images": [{"id": 1}], "annotations": SAID}, r'images\[0\]: expected an "id" and a "file_name"'),
        ({"images": [*IMAGES, {"id": 7, "file_name": "c"}], "annotations": SAID}, r"images\[2\]: repeats the id 7"),
        ({"images": [*IMAGES, {"id": 8, "file_name": "a.png"}], "annotations": SAID}, "1 pictures have more than one"),
        ({"images": IMAGES, "annotations": [{"image_id": 7, "category_id": 3}]}, r"annotations\[0\]: expected"),
        ({"images": IMAGES, "annotations": SAID[1:2]}, r"1 of 2 images have no caption, such as deep/b\.png"),
        ({"images": IMAGES, "annotations": [*SAID[:2], {"image_id": 7, "caption": " "}]}, "none of its 2 pictures"),
        ({"images": IMAGES, "annotations": [{"image_id": n, "caption": "c"} for n in (7, "x", "7")]}, "1 of 3 annot"),
        ({"images": IMAGES[:1], "annotations": [{"image_id": 7, "caption": "\ud800"}]}, "got a lone surrogate"),
    ],
)
def test_captions_files_that_are_none_are_explained(tmp_path: Path, data: object, message: str) -> None:
    file = _coco(tmp_path, data)
    if "UTF-8" in message:
        _folder(tmp_path, "a.png")
    with pytest.raises(DataError, match=message):
        open_data(file)


# Parts of a dataset


def test_few_shot_draws_so_many_of_each_class() -> None:
    data = open_data("objects:combinations:888")
    few = few_shot(data, 2, seed=0)
    assert Counter(example.label for example in _examples(few)) == dict.fromkeys(range(len(data.labels)), 2)
    assert len({example.key for example in _examples(few)}) == len(few)
    assert few.labels == data.labels
    keys = [example.key for example in _examples(data)]
    place = keys.index(few.example(5).key)
    assert np.array_equal(_pixels(few, 5), _pixels(data, place))


def test_few_shot_depends_on_the_seed_alone() -> None:
    data = open_data("objects:combinations:888")
    drawn = [few_shot(data, 2, seed) for seed in (0, 0, 1)]
    assert _examples(drawn[0]) == _examples(drawn[1])
    assert drawn[0].fingerprint == drawn[1].fingerprint != drawn[2].fingerprint
    assert _examples(drawn[0]) != _examples(drawn[2])
    assert few_shot(data, 3, 0).fingerprint != drawn[0].fingerprint != data.fingerprint


def test_a_class_with_too_few_pictures_is_named(tmp_path: Path) -> None:
    data = open_data(_folder(tmp_path, "cat/1.png", "cat/2.png", "dog/1.png"))
    assert len(few_shot(data, 1, 0)) == 2
    with pytest.raises(DataError, match=r"expected 2 pictures of each class, 1 of 2 classes have fewer: dog \(1\)"):
        few_shot(data, 2, 0)


def test_few_shot_without_labels_is_refused() -> None:
    with pytest.raises(DataError, match="has no labels"):
        few_shot(open_data("scenes:train:10"), 1, 0)


def test_limit_draws_from_everywhere_and_keeps_the_order(written: Path) -> None:
    data = open_data(written / "folder")
    some = limit(data, 12)
    keys = [example.key for example in _examples(some)]
    assert len(some) == 12
    assert keys == sorted(keys)
    assert keys[-1] > data.example(30).key
    assert _examples(limit(data, 12)) == _examples(some)
    assert _examples(limit(data, 12, seed=1)) != _examples(some)
    assert limit(data, 60) is data


def test_a_part_goes_to_another_process(written: Path) -> None:
    some = limit(open_data(written / "shards"), 9)
    copy: Dataset = pickle.loads(pickle.dumps(some))
    assert _examples(copy) == _examples(some)
    assert np.array_equal(_pixels(copy, 8), _pixels(some, 8))
