"""An index of pictures: what is embedded when, what its file holds, and what is found by it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
from pathlib import Path

import library
import numpy as np
import pytest
from click.testing import CliRunner, Result
from pictures import scene
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from edgevlm.cli import main
from edgevlm.errors import DataError, EdgeVLMError, MissingDependency
from edgevlm.inference import index as module
from edgevlm.inference.index import FORMS, Form, Indexed, load, write
from edgevlm.inputs.folders import find_pictures
from edgevlm.testing import FakeModel

PICTURES = Path(__file__).parent.parent / "examples" / "pictures"
HAS_USEARCH = importlib.util.find_spec("usearch") is not None


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Forty pictures, some of them further down."""
    folder = tmp_path / "album"
    (folder / "more").mkdir(parents=True)
    for number in range(40):
        scene(20, 24, seed=number).save(folder / ("more" if number % 4 == 0 else ".") / f"{number:02}.png")
    return folder


def _write(path: Path, album: Path, form: Form = "int8", model: FakeModel | None = None) -> Indexed:
    return write(path, album, find_pictures(album).pictures, model or FakeModel(), form)


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_is_found_by_its_own_embedding(form: Form, album: Path, tmp_path: Path) -> None:
    done = _write(tmp_path / "an.index", album, form)
    index = load(tmp_path / "an.index")
    assert (done.embedded, done.dropped, done.unreadable) == (40, 0, {})
    assert index.form == form
    assert index.names == tuple(sorted(index.names))
    assert index.codes.nbytes == 40 * {"float32": 256, "int8": 64, "binary": 8}[form]
    queries = FakeModel().encode_image([index.path(place) for place in range(40)])
    found = index.search(queries, 3)
    assert found.places.shape == (40, 3)
    assert (found.places[:, 0] == np.arange(40)).all()


def test_only_what_is_new_or_changed_is_embedded(album: Path, tmp_path: Path) -> None:
    path, model = tmp_path / "an.index", FakeModel()
    _write(path, album, model=model)
    before, whole = path.read_bytes(), load(path)
    model.session.calls.clear()
    assert _write(path, album, model=model).embedded == 0
    assert (path.read_bytes(), model.session.calls) == (before, [])
    (album / "01.png").unlink()
    scene(9, 9, seed=99).save(album / "02.png")
    scene(9, 9, seed=98).save(album / "another.png")
    done = _write(path, album, model=model)
    assert (done.embedded, done.dropped, len(model.session.calls)) == (2, 1, 2)
    index = load(path)
    assert "01.png" not in index.names
    kept = [name for name in index.names if name not in ("02.png", "another.png")]
    rows = [index.codes[index.names.index(name)] for name in kept]
    assert np.array_equal(rows, [whole.codes[whole.names.index(name)] for name in kept])
    fresh = _write(tmp_path / "fresh.index", album)
    assert np.array_equal(fresh.index.codes, index.codes)


def test_a_bad_picture_costs_no_other_and_is_tried_again(album: Path, tmp_path: Path) -> None:
    good = (album / "01.png").read_bytes()
    (album / "01.png").write_bytes(good[:60])
    done = _write(tmp_path / "an.index", album)
    assert (done.embedded, [*done.unreadable]) == (39, ["01.png"])
    (album / "01.png").write_bytes(good)
    assert _write(tmp_path / "an.index", album).embedded == 1


def test_an_index_that_was_stopped_goes_on(album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 8)
    monkeypatch.setattr(module, "_SAVE_SECONDS", 0.0)

    class Stopped(Exception):
        pass

    def stop(stage: str, share: float | None) -> None:
        if stage.startswith("embedding picture 20 of"):
            raise Stopped

    with pytest.raises(Stopped):
        write(tmp_path / "an.index", album, find_pictures(album).pictures, FakeModel(), "binary", stop)
    assert len(load(tmp_path / "an.index").names) == 16
    assert _write(tmp_path / "an.index", album, "binary").embedded == 24


def test_another_space_or_form_embeds_all_again_and_says_so(
    album: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _write(tmp_path / "an.index", album)
    assert _write(tmp_path / "an.index", album, "binary").embedded == 40
    assert "all pictures are embedded again" in caplog.text


def test_both_can_be_moved(album: Path, tmp_path: Path) -> None:
    _write(tmp_path / "an.index", album)
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    tmp_path.rename(moved)
    assert load(moved / "an.index").path(0).is_file()
    assert _write(moved / "an.index", moved / "album").embedded == 0


def test_names_are_kept_as_they_are(tmp_path: Path) -> None:
    for name in ("caf\udce9.png", "two\nlines.png", "猫.png"):
        scene(9, 9).save(tmp_path / "1.png")
        (tmp_path / "1.png").rename(tmp_path / name)
    done = _write(tmp_path / "an.index", tmp_path)
    assert {*load(tmp_path / "an.index").names} == {*done.index.names} == {"caf\udce9.png", "two\nlines.png", "猫.png"}


def test_the_index_of_another_folder_and_what_is_none_are_not_replaced(album: Path, tmp_path: Path) -> None:
    _write(tmp_path / "an.index", album)
    with pytest.raises(DataError, match=r"indexes .*album, not"):
        _write(tmp_path / "an.index", album / "more")
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match="expected an index"):
        _write(tmp_path / "letter.txt", album)
    assert (tmp_path / "letter.txt").read_text() == "dear"


def test_a_folder_whose_name_cannot_be_written_down_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "caf\udce9").mkdir()
    scene(9, 9).save(tmp_path / "1.png")
    (tmp_path / "1.png").rename(tmp_path / "caf\udce9" / "1.png")
    model = FakeModel()
    with pytest.raises(DataError, match="not in UTF-8"):
        _write(tmp_path / "an.index", tmp_path / "caf\udce9", model=model)
    assert model.session.calls == []


@pytest.mark.parametrize("key", ["folder", "bundle", "embedding_space_id", "graph", "edgevlm_index"])
@pytest.mark.parametrize("value", [None, "a\0b", "../" * 5000, ""])
def test_metadata_that_says_nothing_sensible_is_no_traceback(
    key: str, value: str | None, album: Path, tmp_path: Path
) -> None:
    path = tmp_path / "an.index"
    _write(path, album)
    with safe_open(path, framework="numpy") as file:
        about = {**file.metadata(), key: value}
    save_file(load_file(path), path, {name: text for name, text in about.items() if text is not None})
    with contextlib.suppress(EdgeVLMError):
        load(path)


@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "/etc/passwd"])
def test_names_do_not_lead_out_of_the_folder(name: str, album: Path, tmp_path: Path) -> None:
    path = tmp_path / "an.index"
    _write(path, album)
    with safe_open(path, framework="numpy") as file:
        about = file.metadata()
    tensors = load_file(path)
    first, *others = tensors["names"].tobytes().split(b"\0")
    assert first
    tensors["names"] = np.frombuffer(b"\0".join([name.encode(), *others]), np.uint8)
    save_file(tensors, path, about)
    with pytest.raises(DataError, match="damaged"):
        load(path)


@pytest.mark.parametrize(("form", "value"), [("int8", 0), ("float32", 0), ("float32", np.nan), ("float32", np.inf)])
def test_codes_that_stand_for_no_vector_are_damage(form: Form, value: float, album: Path, tmp_path: Path) -> None:
    path = tmp_path / "an.index"
    _write(path, album, form)
    with safe_open(path, framework="numpy") as file:
        about = file.metadata()
    tensors = load_file(path)
    tensors["codes"][1] = value
    save_file(tensors, path, about)
    with pytest.raises(DataError, match="damaged"):
        load(path)


def test_no_damage_ends_in_a_traceback(album: Path, tmp_path: Path) -> None:
    path = tmp_path / "an.index"
    _write(path, album, "binary")
    whole = path.read_bytes()
    draws = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[draws.integers(0, 700)] = draws.integers(0, 256)
        path.write_bytes(bytes(damaged[: draws.integers(1, len(whole) + 1)] if draws.random() < 0.3 else damaged))
        with contextlib.suppress(EdgeVLMError):
            load(path).search(np.eye(1, 64, dtype=np.float32), 3)


def test_a_long_index_takes_usearch(album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONG", 30)
    monkeypatch.setattr("edgevlm.inference.graph.find_spec", lambda name: None)
    model = FakeModel()
    with pytest.raises(MissingDependency) as caught:
        _write(tmp_path / "an.index", album, model=model)
    assert "edgevlm[search]" in str(caught.value.hint)
    assert model.session.calls == []


@pytest.mark.skipif(not HAS_USEARCH, reason="usearch is not installed")
@pytest.mark.parametrize("form", FORMS)
def test_a_graph_finds_what_comparing_each_finds(
    form: Form, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "an.index"
    one_by_one = _write(tmp_path / "short.index", album, form).index
    monkeypatch.setattr(module, "LONG", 30)
    monkeypatch.setattr("edgevlm.inference.graph.SHORTLIST", 5)
    _write(path, album, form)
    index = load(path)
    assert index.graph == tmp_path / "an.index.usearch"
    queries = FakeModel().encode_text([f"text {number}" for number in range(20)])
    kept = index.search(queries, 3).places == one_by_one.search(queries, 3).places
    assert kept.mean() > 0.5
    assert _write(path, album, form).embedded == 0
    (tmp_path / "an.index.usearch").write_bytes(b"another's")
    assert load(path).graph is None
    assert "every picture is compared" in caplog.text
    _write(path, album, form)
    assert load(path).graph is not None
    for name in os.listdir(album)[:20]:
        (album / name).unlink(missing_ok=True) if name.endswith(".png") else None
    _write(path, album, form)
    assert load(path).graph is None
    assert not (tmp_path / "an.index.usearch").exists()


# The commands


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_pictures_are_found_by_words_and_by_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, path = library.student("tflite", "int8").path, tmp_path / "made" / "an.index"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "album" / "more").mkdir(parents=True)
    for place, picture in enumerate(sorted(PICTURES.glob("*.png"))):
        (tmp_path / "album" / ("more" if place else ".") / picture.name).write_bytes(picture.read_bytes())
    (tmp_path / "album" / "cut.png").write_bytes((PICTURES / "yellow-star.png").read_bytes()[:90])
    (tmp_path / "album" / "notes.txt").write_text("")
    made = run("index", "album", "--bundle", bundle, "--out", path, "--json")
    assert made.exit_code == 2
    told = json.loads(made.stdout)
    assert (told["pictures"], told["embedded"], told["codes"]) == (3, 3, "int8")
    assert [each["image"] for each in told["unreadable"]] == ["album/cut.png"]
    assert told["passed_over"][0]["such_as"] == ["notes.txt"]
    assert "album/cut.png: damaged" in made.stderr
    assert sorted(each.name for each in (tmp_path / "made").iterdir()) == ["an.index"]
    by_words = json.loads(run("search", path, "two green triangles", "--json").stdout)
    assert by_words["images"][0]["image"] == "album/more/two-triangles.png"
    by_picture = run("search", path, "--picture", PICTURES / "yellow-star.png", "--count", "1")
    assert "album/more/yellow-star.png" in by_picture.stdout
    assert "two-triangles.png" not in by_picture.stdout
    assert by_words["changed"] == []
    assert by_picture.stderr == ""
    (tmp_path / "album" / "more" / "two-triangles.png").unlink()
    stale = run("search", path, "two green triangles")
    assert stale.exit_code == 0
    assert "gone, or changed since they were embedded: album/more/two-triangles.png; edgevlm index" in stale.stderr
    assert json.loads(run("search", path, "a", "--json").stdout)["changed"] == ["album/more/two-triangles.png"]


BAD = {
    "no index": (["search", "gone.index", "a cat"], "gone.index: expected an index, found nothing"),
    "another file": (["search", "{file}", "a cat"], "expected an index"),
    "nothing asked": (["search", "{index}"], "expected TEXT or --picture, got neither"),
    "both asked": (["search", "{index}", "a cat", "--picture", "a.png"], "got both"),
    "its bundle is gone": (["search", "{index}", "a cat"], "fake.edgevlm is not there"),
    "another space": (["search", "{index}", "a cat", "--bundle", "{bundle}"], "expected a bundle of its embedding"),
    "no folder": (["index", "gone", "--bundle", "{bundle}", "--out", "x"], "gone: expected a folder of pictures"),
    "no pictures": (["index", "{empty}", "--bundle", "{bundle}", "--out", "x"], "expected pictures, found none"),
    "no place": (["index", "{album}", "--bundle", "{bundle}", "--out", "{album}"], "expected a file that can be"),
    "over a file": (["index", "{album}", "--bundle", "{bundle}", "--out", "{file}"], "expected an index"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_exit_code_2_with_a_plain_message(
    case: str, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _write(tmp_path / "an.index", album)
    (tmp_path / "file").write_text("no index")
    (tmp_path / "empty").mkdir()
    words = {"index": "an.index", "file": "file", "album": album, "empty": "empty"}
    words["bundle"] = library.student("tflite", "int8").path
    arguments, message = BAD[case]
    result = run(*(argument.format(**words) for argument in arguments))
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert message in result.stderr
    assert result.stdout == ""
