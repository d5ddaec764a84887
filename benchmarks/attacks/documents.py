"""Mutants of a small document: values that no reader expects, keys that are gone or twice, bytes that are damaged."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, Literal

Form = Literal["json", "yaml", "lines", "tensors", "text", "bytes"]
"""`lines` are JSON texts, one a line; `tensors` a safetensors file."""
_RAW = "\ue000"
"""Begins a text that stands for JSON as it is written, which no writer of JSON would write."""
_HEADER_BYTES = 8


def mutants(content: bytes, form: Form, seed: object) -> Iterator[bytes]:
    """Mutants of a document without end; the same seed gives the same ones."""
    rng = random.Random(f"{seed}")
    while True:
        yield _mutated(content, form, rng)


def _mutated(content: bytes, form: Form, rng: random.Random) -> bytes:
    if form in ("text", "bytes") or rng.random() < 0.3:
        return _damaged(content, rng)
    if form == "tensors":
        length = int.from_bytes(content[:_HEADER_BYTES], "little")
        header = _edited(content[_HEADER_BYTES : _HEADER_BYTES + length], rng)
        return len(header).to_bytes(_HEADER_BYTES, "little") + header + content[_HEADER_BYTES + length :]
    if form == "lines":
        lines = content.splitlines()
        place = rng.randrange(len(lines))
        lines[place] = _edited(lines[place], rng)
        return b"\n".join(lines) + b"\n"
    if form == "yaml" and rng.random() < 0.3:  # JSON is YAML; this is not JSON
        return content + b"\nmore: " + rng.choice(_YAML).encode()
    return _edited(content, rng)


# Values


def _edited(content: bytes, rng: random.Random) -> bytes:
    """A JSON text in which one to three places are otherwise."""
    value = json.loads(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        value = _edit(value, rng)
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    raw = re.sub(r'"(?:\ue000|\\ue000)(\d+)"', lambda found: _RAWS[int(found[1])], text)
    return raw.encode("utf-8", "surrogatepass")


def _edit(value: Any, rng: random.Random) -> Any:
    """Changes the value itself or, more often, something within it."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        change = rng.random()
        if change < 0.1:
            return {name: item for name, item in value.items() if name != key}
        if change < 0.2:
            return {**value, rng.choice(_TEXTS): rng.choice((value[key], _odd(rng)))}
        if change < 0.25:
            return {(rng.choice(_TEXTS) if name == key else name): item for name, item in value.items()}
        return {**value, key: _edit(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        place = rng.randrange(len(value))
        change = rng.random()
        if change < 0.1:
            return value[:place] + value[place + 1 :]
        if change < 0.2:
            return value[:place] + [value[place]] * rng.choice((2, 2, 100)) + value[place:]
        return [*value[:place], _edit(value[place], rng), *value[place + 1 :]]
    if isinstance(value, int | float) and rng.random() < 0.5:
        return rng.choice((-value, value + 1, value * 1000, value / 2, float(value), str(value), bool(value), [value]))
    if isinstance(value, str) and rng.random() < 0.5:
        return rng.choice((value * 1000, value.upper(), value + "\0", f"../{value}", [value], {value: value}, ""))
    return _odd(rng)


def _odd(rng: random.Random) -> Any:
    kind = rng.random()
    if kind < 0.3:
        return f"{_RAW}{rng.randrange(len(_RAWS))}"
    if kind < 0.6:
        return rng.choice(_TEXTS)
    return rng.choice(_VALUES)


_VALUES: tuple[object, ...] = (
    *(None, True, False, 0, -1, 1 << 31, 1 << 40, -(1 << 63), 0.5, 1e-300, 1e300),
    *([], {}, [[]], [None]),
)
_TEXTS = (
    *("", " ", "a", "\0", "\n", "\x1b[31m", "[/b]", "\ud800", "\u202e", "\U0001f600", "nan", "1e999", "9" * 400),
    *("..", "../a", "/dev/zero", "/", "C:\\a", "http://a/", "a" * 300, "a/" * 3000, "{}" * 50, "{" * 5000),
    *("é" * 5000, "a" * 200_000),
)
_RAWS = (
    *("NaN", "-Infinity", "1e999", "-0", "9" * 400, "-" + "9" * 400, "1" + "0" * 5000 + ".5", "1e-999", "0.1e+400"),
    *("[" * 5_000 + "]" * 5_000, '{"a":' * 5_000 + "1" + "}" * 5_000, '{"a": 1, "a": 2}', '{"a": 1, "\\u0061": 2}'),
    *('"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', "[" + "[0]," * 1000 + "0]", '{"": {}}', "9223372036854775807"),
)
_LAUGHS = "1\na: &a {k: 1}" + "".join(
    f"\n{new}: &{new} {{<<: [{', '.join([f'*{old}'] * 9)}]}}" for old, new in pairwise("abcdefgh")
)
_YAML = (
    *("&a [*a]", "*gone", "!!python/object/apply:os.system ['true']", "!!binary a", "2026-11-28", "12:30:45", ".nan"),
    *("0x" + "f" * 500, "0o" + "7" * 500, "? [a]\n: b", "{<<: 1}", "{<<: [{a: 1}, 2]}", "|\n " + "a" * 5000, "@a"),
    *('"\\ud800"', '"\\x00"', "[" * 3000, "{a: " * 3000, "\n---\nb: 1", "%YAML 9.9", "!<tag:yaml.org,2002:str> 1"),
    "[&a [x, x, x, x, x, x, x, x], &b [*a, *a, *a, *a, *a, *a], &c [*b, *b, *b, *b, *b, *b], [*c, *c, *c, *c, *c, *c]]",
    _LAUGHS,
)
"""The last two are short, and would be long if every name in them were written out."""


# Bytes


def _damaged(content: bytes, rng: random.Random) -> bytes:
    return rng.choice(_DAMAGE)(content, rng)


def _insert(content: bytes, rng: random.Random, new: bytes) -> bytes:
    place = rng.randrange(len(content) + 1)
    return content[:place] + new + content[place:]


def _replace(content: bytes, rng: random.Random, new: bytes) -> bytes:
    place = rng.randrange(len(content) + 1)
    return content[:place] + new + content[place + len(new) :]


_DAMAGE: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    lambda content, rng: content[: rng.randrange(len(content) + 1)],
    lambda content, rng: content[rng.randrange(len(content) + 1) :],
    lambda content, rng: _insert(content, rng, rng.randbytes(rng.choice((1, 2, 8, 100)))),
    lambda content, rng: _replace(content, rng, rng.randbytes(rng.choice((1, 1, 1, 4, 8)))),
    lambda content, rng: _replace(content, rng, rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * rng.choice((1, 4, 8))),
    lambda content, rng: _insert(content, rng, b"\0" * rng.choice((1, 1000))),
    lambda content, rng: _insert(content, rng, "\u2028\u0085\ufeff".encode()),
    lambda content, rng: b"\xef\xbb\xbf" * rng.choice((1, 2)) + content,
    lambda content, rng: content.decode("latin-1").encode(rng.choice(("utf-16", "utf-32-be", "utf-7"))),
    lambda content, rng: content * rng.choice((0, 2, 3)),
    lambda content, rng: content.replace(b"\n", rng.choice((b"\r", b"\r\n", b"\n\n"))),
    lambda content, rng: content + rng.choice((b",", b"}", b'"', b"\n", b"\x1a", b"\xc3")),
    lambda content, rng: rng.randbytes(rng.choice((1, 10, 1000))),
    lambda content, rng: rng.choice((b"[", b"{", b'"', b"(", b"'", b"|\n")) * 5_000,
)
