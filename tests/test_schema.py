"""JSON and YAML as plain values: what is refused before anybody looks at a key."""

from __future__ import annotations

import os
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
        ("1" + "0" * 400, "expected integers of 64 bits, got 1000"),
        ("9" * 5000, "expected integers of 64 bits"),
        ("9223372036854775808", "expected integers of 64 bits"),
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
