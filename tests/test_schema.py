"""JSON and YAML as plain values: what is refused before anybody looks at a key."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from edgevlm import schema
from edgevlm.errors import DataError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not readable as JSON: Expecting property name"),
        ("[" * 100_000 + "]" * 100_000, "not readable as JSON: nested too deep"),
        ('{"a": 1, "b": {"c": 1, "c": 1}}', "the key 'c' occurs twice in one object"),
        ('{"a": ["bird \\ud800."]}', "expected valid Unicode, got a lone surrogate"),
        ('{"\\udc00\\ud83d": 1}', "expected valid Unicode, got a lone surrogate"),
        ("1" + "0" * 400, "not readable as JSON: expected integers of 64 bits, got 1000"),
        ("9" * 5000, "not readable as JSON: expected integers of 64 bits"),
        ("9223372036854775808", "not readable as JSON: expected integers of 64 bits"),
        ("", "not readable as JSON"),
    ],
)
def test_texts_that_readers_differ_about_are_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"^here: {message}"):
        schema.parse_json(text, where="here", error=DataError)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=rf"a\.json: {message}"):
        schema.read_json(tmp_path / "a.json", error=DataError)


def test_plain_values_are_read_with_and_without_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('\ufeff{"a": [1, -9223372036854775808, 2.5, null, "é"]}', encoding="utf-8")
    assert schema.read_json(tmp_path / "a.json", error=DataError) == {"a": [1, -(1 << 63), 2.5, None, "é"]}


def test_what_is_no_file_of_text_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "latin").write_bytes(b'"\xe9"')
    (tmp_path / "large").write_text("[1, 2, 3]")
    for name, message in {
        "fifo": "expected a JSON file, got what is no file",
        "folder": "expected a JSON file, got what is no file",
        "gone": "cannot be read: No such file",
        "latin": "not readable as JSON: 'utf-8' codec",
    }.items():
        with pytest.raises(DataError, match=message):
            schema.read_json(tmp_path / name, error=DataError)
    monkeypatch.setattr(schema, "LARGEST_JSON_BYTES", 5)
    with pytest.raises(DataError, match="of at most 5 bytes, got 9"):
        schema.read_json(tmp_path / "large", error=DataError)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: {c: 1, c: 1}", "the key 'c' twice"),
        ("a: 1\n12: 1", "expected a text as the key, got '12'"),
        ("a: {1,5}", "expected a text as the key, got '1'"),
        ("? [a, b]\n: 1", "expected a text as the key"),
        ("a: " + "[" * 1_100 + "]" * 1_100, "nested too deep"),
        ("a: " + "{b: " * 1_100 + "}" * 1_100, "nested too deep"),
        ("a: 1" + "0" * 400, "expected integers of 64 bits, got 1000"),
        ("a: " + "9" * 5000, "expected integers of 64 bits"),
        ("a: 0x" + "f" * 5000, "expected integers of 64 bits"),
        ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: 1\n---\nb: 1", "expected a single document"),
        ("a:\n\t- b", "cannot start any token"),
        ("a: \x00", "unacceptable character"),
        ("- a", "expected a mapping of keys at the top"),
        ("", "expected a mapping of keys at the top"),
    ],
)
def test_yaml_that_cannot_be_meant_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"^here: (.|\n)*{re.escape(message)}"):
        schema.parse_yaml(text, where="here", error=DataError)
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(DataError, match=re.escape(message)):
        schema.read_yaml(tmp_path / "a.yaml", error=DataError)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        *(("no", "no"), ("on", "on"), ("12:30", "12:30"), ("2026-11-28", "2026-11-28"), ("1_0", "1_0"), ("0b1", "0b1")),
        *(("010", 10), ("0o10", 8), ("0x1F", 31), ("-7", -7), ("+7", 7), ("1e3", 1000.0), ("1.", 1.0), (".5", 0.5)),
        *(("-1.5e-3", -0.0015), ("true", True), ("FALSE", False), ("~", None), ("", None), ("null", None)),
        *(("'1e3'", "1e3"), ('"true"', "true"), ("nUll", "nUll")),
    ],
)
def test_plain_words_are_what_yaml_1_2_says(word: str, value: object) -> None:
    found = schema.parse_yaml(f"a: {word}", where="here", error=DataError)["a"]
    assert (found, type(found)) == (value, type(value))


def test_yaml_merges_and_repeats_what_has_a_name() -> None:
    text = "base: &base {a: 1, b: [x]}\nmine: {<<: *base, a: 2}\nsame: *base"
    assert schema.parse_yaml(text, where="here", error=DataError) == {
        "base": {"a": 1, "b": ["x"]},
        "mine": {"a": 2, "b": ["x"]},
        "same": {"a": 1, "b": ["x"]},
    }


def test_what_is_no_yaml_file_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "latin").write_bytes(b"a: \xe9")
    (tmp_path / "marked").write_bytes(b"\xef\xbb\xbfa: 1")
    for name, message in (("fifo", "what is no file"), ("latin", "not readable as YAML"), ("gone", "No such file")):
        with pytest.raises(DataError, match=message):
            schema.read_yaml(tmp_path / name, error=DataError)
    assert schema.read_yaml(tmp_path / "marked", error=DataError) == {"a": 1}
    monkeypatch.setattr(schema, "LARGEST_YAML_BYTES", 5)
    with pytest.raises(DataError, match="of at most 5 bytes, got 7"):
        schema.read_yaml(tmp_path / "marked", error=DataError)
