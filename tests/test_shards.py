"""WebDataset shards by hand: every field, every kind of damage."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections import Counter
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import encode, scene

from edgevlm.data.braces import expand
from edgevlm.data.dataset import Dataset, Example
from edgevlm.data.sources import open_data
from edgevlm.data.tar_index import split_name
from edgevlm.errors import DataError, ImageError

PNG = encode(scene(8, 8))


def _tar(path: Path, files: dict[str, bytes] | list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as shard:
        for name, content in files.items() if isinstance(files, dict) else files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            shard.addfile(entry, io.BytesIO(content))
    return path


def _examples(data: Dataset) -> list[Example]:
    return [data.example(index) for index in range(len(data))]


def test_a_shard_by_hand_with_every_kind_of_words(tmp_path: Path) -> None:
    path = _tar(
        tmp_path / "a.tar",
        {
            "./dir/": b"",
            "__index__": b"anything",
            "x/1.png": PNG,
            "x/1.cls": b"3\n",
            "x/1.txt": "a café\r\n\n  two\u2028lines \na café".encode(),
            "x/2.seg.png": b"no picture",
            "x/2.JPG": encode(scene(6, 9), "JPEG"),
            "x/2.json": json.dumps({"caption": "one", "captions": ["two", "one"], "label": "cat", "url": "u"}).encode(),
            "x/._3.png": b"what macOS leaves",
            "x/3.webp": encode(scene(5, 5), "WEBP"),
            "x/3.json": b'{"caption": null, "label": 10}',
            "x/4.jpeg": b"not a jpeg",
            "x/4.json": b'{"label": "cat"}',
            "x/4.cls": b"cat",
            "y/1.png": PNG,
            "a" * 200 + "/z.png": PNG,
        },
    )
    data = open_data(path)
    assert data.labels == ("10", "3", "cat")
    assert _examples(data) == [
        Example("a.tar/x/1", 1, ("a café", "two\u2028lines")),
        Example("a.tar/x/2", 2, ("one", "two")),
        Example("a.tar/x/3", 0),
        Example("a.tar/x/4", 2),
        Example("a.tar/y/1"),
        Example("a.tar/" + "a" * 200 + "/z"),
    ]
    assert [data.picture(index).size for index in (0, 1, 2, 4, 5)] == [(8, 8), (9, 6), (5, 5), (8, 8), (8, 8)]
    with pytest.raises(ImageError, match=r"a\.tar/x/4: "):
        data.picture(3)


def test_what_belongs_to_no_sample_is_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _tar(tmp_path / "a.tar", {"1.avif": PNG, "._1.avif": b"what macOS leaves", "__index__": b"", "2.JPE": PNG})
    (tmp_path / "stats.json").write_text("{}")
    (tmp_path / "._a.tar").write_bytes(b"what macOS leaves")
    assert len(open_data(tmp_path)) == 2
    (said,) = caplog.messages
    assert "passed over 2 left by the system (._a.tar, ._1.avif); 1 beside the shards (stats.json)" in said
    assert "1 of no sample (__index__)" in said


def test_shards_in_several_folders_have_keys_of_their_own(tmp_path: Path) -> None:
    for name in ("part-1", "part-2"):
        (tmp_path / name).mkdir()
        _tar(tmp_path / name / "0.tar", {"000.png": PNG})
    data = open_data(f"{tmp_path}/part-{{1..2}}/0.tar")
    assert [example.key for example in _examples(data)] == ["part-1/0.tar/000", "part-2/0.tar/000"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("1.txt", b"words")], r"a\.tar: the sample 1 has no picture: expected one .*, got \.txt"),
        ([("1.png", PNG), ("1.jpg", PNG)], "the sample 1 has several pictures"),
        ([("1.png", PNG), ("1.png", PNG)], r"the sample 1 has \.png twice"),
        ([("1.png", PNG), ("2.png", PNG), ("1.txt", b"w")], "the sample 1 comes twice"),
        ([("1.png", PNG), ("1.txt", b"\xff\xfe")], r"the sample 1: expected \.txt in UTF-8"),
        ([("1.png", PNG), ("1.json", b"{")], r"the sample 1: \.json: not readable as JSON"),
        ([("1.png", PNG), ("1.json", b"[]")], "got a list"),
        ([("1.png", PNG), ("1.json", b'{"captions": "one"}')], "to be a text"),
        ([("1.png", PNG), ("1.json", b'{"captions": [1]}')], "to be a text"),
        ([("1.png", PNG), ("1.json", b'{"label": true}')], "expected a name or a number as the label"),
        ([("1.png", PNG), ("1.cls", b" \n")], "expected a name or a number as the label"),
        ([("1.png", PNG), ("1.cls", b"cat"), ("1.json", b'{"label": "dog"}')], "expected one label, got cat and dog"),
        ([("notes", b"no sample")], "expected samples, got none"),
        ([("caf\udce9.png", PNG)], "not in UTF-8"),
    ],
)
def test_samples_that_are_none_are_named(tmp_path: Path, files: list[tuple[str, bytes]], message: str) -> None:
    _tar(tmp_path / "a.tar", files, tarfile.GNU_FORMAT)
    with pytest.raises(DataError, match=message):
        open_data(tmp_path)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar"])
def test_compressed_shards_are_refused(tmp_path: Path, name: str) -> None:
    plain = _tar(tmp_path / "plain", {"1.png": PNG})
    with tarfile.open(tmp_path / name, "w:gz") as shard:
        shard.add(plain, "1.png")
    plain.unlink()
    for spec in (tmp_path, tmp_path / name):
        with pytest.raises(DataError, match="compressed with gzip") as caught:
            open_data(spec)
        assert "gunzip" in str(caught.value.hint)


def test_a_shard_cut_short_at_any_place_is_found_when_it_is_opened(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar", {"1.png": PNG, "1.txt": b"words", "2.png": PNG, "2.cls": b"cat"})
    whole = path.read_bytes()
    with tarfile.open(path) as shard:
        end = max(member.offset_data for member in shard.getmembers()) + 512
    for length in (*range(0, end, 37), *range(512, end + 1, 512), end + 100):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"a\.tar: (cut short|no tar file)"):
            open_data(path)
    path.write_bytes(whole[: 512 + 20])
    with pytest.raises(DataError, match=r"cut short inside 1\.png, which would end at byte"):
        open_data(path)
    path.write_bytes(whole[: end + 512])
    assert len(open_data(path)) == 2


def test_a_damaged_header_is_found_when_the_shard_is_opened(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar", {"1.png": PNG, "2.png": PNG})
    content = bytearray(path.read_bytes())
    second = content.index(b"2.png")
    content[second] = ord("3")
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged after 1\.png"):
        open_data(path)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 5 * 512), value=st.integers(0, 255))
def test_no_damage_to_a_shard_ends_in_a_traceback(tmp_path: Path, place: int, value: int) -> None:
    path = _tar(tmp_path / "a.tar", {"1.png": PNG[:100], "1.txt": b"words"})
    content = bytearray(path.read_bytes())
    content[place] = value
    path.write_bytes(content)
    try:
        data = open_data(path)
    except DataError:
        return
    with pytest.raises(ImageError):
        data.picture(0)


def test_a_shard_that_changes_under_a_run_is_an_unreadable_picture(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar", {"1.png": PNG})
    data = open_data(path)
    path.write_bytes(path.read_bytes()[:540])
    with pytest.raises(ImageError, match=r"a\.tar/1: "):
        data.picture(0)
    path.unlink()
    with pytest.raises(ImageError, match=r"a\.tar/1: cannot be read"):
        data.picture(0)


def test_missing_shards_of_a_pattern_are_counted(tmp_path: Path) -> None:
    _tar(tmp_path / "s-00.tar", {"1.png": PNG})
    with pytest.raises(DataError, match=r"2 of 3 shards do not exist, such as .*s-01\.tar"):
        open_data(f"{tmp_path}/s-{{00..02}}.tar")


def test_an_existing_file_with_braces_in_its_name_is_itself(tmp_path: Path) -> None:
    assert len(open_data(_tar(tmp_path / "s-{0..9}.tar", {"1.png": PNG}))) == 1


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("s-{008..010}.tar", ["s-008.tar", "s-009.tar", "s-010.tar"]),
        ("{0..1}/{00..01}", ["0/00", "0/01", "1/00", "1/01"]),
        ("{a..b}", ["{a..b}"]),
    ],
)
def test_braces_expand_as_in_a_shell(pattern: str, names: list[str]) -> None:
    assert expand(pattern) == names


def test_a_range_that_counts_down_is_refused() -> None:
    with pytest.raises(DataError, match=r"counts up, got \{9\.\.0\}"):
        expand("a{9..0}")


@settings(deadline=None, max_examples=25)
@given(first=st.integers(0, 1200), count=st.integers(1, 30), width=st.integers(0, 6))
def test_braces_expand_as_in_bash(first: int, count: int, width: int) -> None:
    pattern = f"a-{{{first:0{width}d}..{first + count - 1:0{width}d}}}.tar"
    said = subprocess.run(["bash", "-c", f"echo {pattern}"], capture_output=True, text=True, check=True).stdout.split()
    assert expand(pattern) == said


@pytest.mark.parametrize("pattern", ["s-{0..999999999}.tar", "{0..99999}{0..99999}/{0..9}.tar"])
def test_braces_that_stand_for_too_many_names_are_refused_before_they_are_written_out(pattern: str) -> None:
    with pytest.raises(DataError, match="expected a pattern of at most 100,000 names, got one of 1"):
        expand(pattern)


FILE_NAMES = st.from_regex(r"\A(d\.1/|e/)?[a-c]{0,2}(\.[A-Za-z]{1,3}){0,2}\Z")


@given(name=FILE_NAMES)
def test_a_name_is_split_at_the_first_dot_after_its_folder(name: str) -> None:
    found = split_name(name)
    base = name.rsplit("/", 1)[-1]
    if found is None:
        assert base.startswith(".") or "." not in base
    else:
        key, field = found
        assert f"{key}.{field}" == name[: len(key)] + name[len(key) :].lower()
        assert "." not in key.rsplit("/", 1)[-1]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=st.lists(st.sampled_from(["a", "b", "c/d", "e.f/g"]), min_size=1, max_size=7))
def test_a_sample_is_the_files_that_follow_one_another(tmp_path: Path, keys: list[str]) -> None:
    files = [(f"{key}.{'png' if place == 0 else f'x{place}'}", PNG) for key, place in _numbered(keys)]
    runs = [key for key, _ in groupby(keys)]
    path = _tar(tmp_path / "a.tar", files)
    if len(set(runs)) < len(runs):
        with pytest.raises(DataError, match="comes twice"):
            open_data(path)
    else:
        assert [example.key for example in _examples(open_data(path))] == [f"a.tar/{key}" for key in runs]


def _numbered(keys: list[str]) -> list[tuple[str, int]]:
    counts: Counter[str] = Counter()
    found = []
    for key in keys:
        found.append((key, counts[key]))
        counts[key] += 1
    return found
