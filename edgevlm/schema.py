"""Reads plain JSON or YAML values into frozen dataclasses, strictly: every key known, every type as declared.

And writes them: as plain values, or as a YAML file that people edit, with what a key means above it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import io
import json
import math
import re
import reprlib
import stat
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from edgevlm.errors import EdgeVLMError

T = TypeVar("T")
LARGEST_JSON_BYTES = 1 << 30
LARGEST_YAML_BYTES = 1 << 17
"""What PyYAML takes some seconds for; of what people write by hand, the largest has a fifth of it."""
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""Of a character beyond the first 65,536, as JSON writes it: half of a pair, or what stands alone."""
_LONGEST_INTEGER = len("-9223372036854775808")
_WIDTH = 110
_CORE_SCHEMA = (
    ("null", r"(?:~|null|Null|NULL|)$", [*"~nN", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)$", [*"tTfF"]),
    ("int", r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", [*"-+0123456789"]),
    ("float", r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?)$", [*"-+.0123456789"]),
    ("float", r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", [*"-+."]),
    ("merge", r"<<$", ["<"]),
)
"""What a plain word of YAML 1.2 is (https://yaml.org/spec/1.2.2/#103-core-schema), and the first letters of each kind;
merging is 1.1's, and in use."""


@dataclass(frozen=True)
class Quantity:
    """What a number counts and how far it may go: part of a type, `Annotated[int, Quantity("pixels", least=1)]`.

    Attributes:
        unit: In the plural; empty for a number without one.
        least: Smallest value that is read.
        above: Value that it has to exceed.
        finite: Whether NaN and infinity are refused, as they are of numbers without a quantity.
    """

    unit: str = ""
    least: float | None = None
    above: float | None = None
    finite: bool = True

    @property
    def range(self) -> str:
        """The values that are read, in words; empty where all are."""
        if self.least is not None:
            return f"{self.least:g} or more"
        return "" if self.above is None else f"more than {self.above:g}"

    def holds(self, value: float) -> bool:
        """Whether the value is one that is read. NaN is not: it is no number."""
        return (self.least is None or value >= self.least) and (self.above is None or value > self.above)


def read(kind: type[T], data: Any, *, where: str, error: type[EdgeVLMError], ignored: list[str] | None = None) -> T:
    """The dataclass that `data` describes.

    Args:
        kind: A dataclass of plain values, nested dataclasses, tuples, dicts with text keys, literals, unions and
            numbers with a `Quantity`.
        data: What `read_json` or `read_yaml` gave.
        where: Path that messages start with, such as a file's name.
        error: Raised for an unknown or missing key or a value of the wrong type; its message names the path.
        ignored: Where given, unknown keys are no error: what they were is added to this list, as `image.key`.
    """
    value: T = _Reader(where, error, ignored).read(kind, data, "")
    return value


def read_json(path: Path, *, error: type[EdgeVLMError], hint: str | None = None, encoding: str = "utf-8-sig") -> Any:
    """The plain values in a JSON file.

    Args:
        path: The file.
        encoding: `utf-8-sig` takes a byte order mark or none, `utf-8` none.
        error: Raised for what `parse_json` refuses, and for a file that is none, is larger than `LARGEST_JSON_BYTES` or
            cannot be read.
        hint: What to do about it.
    """
    text = read_text(path, "JSON", error=error, hint=hint, encoding=encoding, most_bytes=LARGEST_JSON_BYTES)
    return parse_json(text, where=str(path), error=error, hint=hint)


def read_text(
    path: Path,
    kind: str,
    *,
    error: type[EdgeVLMError],
    hint: str | None = None,
    encoding: str = "utf-8-sig",
    most_bytes: int = LARGEST_JSON_BYTES,
) -> str:
    """The text in a file, its lines ended by a newline alone.

    Args:
        path: The file.
        kind: What it is called in messages, such as `JSON`.
        error: Raised for what `read_bytes` refuses, and for what is not in UTF-8.
        hint: What to do about it.
        encoding: `utf-8-sig` takes a byte order mark or none, `utf-8` none.
        most_bytes: The largest file that is read.
    """
    content = read_bytes(path, kind, error=error, hint=hint, most_bytes=most_bytes)
    try:
        return io.IncrementalNewlineDecoder(None, translate=True).decode(content.decode(encoding))
    except UnicodeDecodeError as problem:
        raise error(f"{path}: not readable as {kind}: {problem}", hint=hint) from problem


def read_bytes(
    path: Path,
    kind: str,
    *,
    error: type[EdgeVLMError],
    hint: str | None = None,
    most_bytes: int = LARGEST_JSON_BYTES,
) -> bytes:
    """What is in a file: of a pipe or a device, which never ends, nothing is read.

    Args:
        path: The file.
        kind: What it is called in messages, such as `JSON`.
        error: Raised for what is no file, is larger than `most_bytes`, or cannot be read.
        hint: What to do about it.
        most_bytes: The largest file that is read.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise error(f"{path}: expected a {kind} file, got what is no file", hint=hint)
        if found.st_size > most_bytes:
            raise error(f"{path}: expected a {kind} file of at most {most_bytes:,} bytes, got {found.st_size:,}")
        return path.read_bytes()
    except OSError as problem:
        raise error(f"{path}: cannot be read: {problem.strerror or problem}", hint=hint) from problem


def parse_json(text: str, *, where: str, error: type[EdgeVLMError], hint: str | None = None) -> Any:
    """The plain values of a JSON text.

    Args:
        text: The text.
        where: What messages start with, such as a file's name.
        error: Raised for what is no JSON, is nested too deep for Python, has an integer beyond 64 bits, half a
            character (a lone surrogate, which nothing can write), or a key twice in one object, of which readers take
            one or the other.
        hint: What to do about it.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise error(f"{where}: the key {twice!r} occurs twice in one object", hint="keep one of the two")
        return found

    try:
        value = json.loads(text, object_pairs_hook=unique, parse_int=_integer)
        if _HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError as problem:
        half = problem.object[problem.start]
        raise error(f"{where}: expected valid Unicode, got a lone surrogate, {half!r}", hint=hint) from problem
    except (ValueError, RecursionError) as problem:
        said = "nested too deep" if isinstance(problem, RecursionError) else str(problem)
        raise error(f"{where}: not readable as JSON: {said}", hint=hint) from problem


def _integer(digits: str) -> int:
    """An integer of 64 bits; Python's own grow without bound, and take minutes over a million digits."""
    if len(digits.lstrip("-+0")) > _LONGEST_INTEGER or not -(1 << 63) <= int(digits) < 1 << 63:
        raise ValueError(f"expected integers of 64 bits, got {digits[:40]}")
    return int(digits)


def read_yaml(path: Path, *, error: type[EdgeVLMError], hint: str | None = None) -> dict[str, Any]:
    """The mapping that a YAML file holds, in UTF-8 with or without a byte order mark.

    Args:
        path: The file.
        error: Raised for what `parse_yaml` refuses, and for a file that is none, is larger than `LARGEST_YAML_BYTES` or
            cannot be read.
        hint: What to do about it.
    """
    text = read_text(path, "YAML", error=error, hint=hint, most_bytes=LARGEST_YAML_BYTES)
    return parse_yaml(text, where=str(path), error=error)


def parse_yaml(text: str, *, where: str, error: type[EdgeVLMError]) -> dict[str, Any]:
    """The mapping of a YAML text, whose plain words are what YAML 1.2's core schema says.

    `1e-3` is a number, and `no`, `12:30` and `2024-01-01` are texts; to YAML 1.1, which PyYAML reads, they are a text,
    a truth value, a number and a date.

    Args:
        text: The text.
        where: What messages start with, such as a file's name.
        error: Raised for what is no YAML, no mapping, has a key twice, or one that is no text, is nested too deep for
            Python, or has an integer beyond 64 bits.
    """
    import yaml

    if len(text) > LARGEST_YAML_BYTES:
        raise error(f"{where}: expected YAML of at most {LARGEST_YAML_BYTES:,} letters, got {len(text):,}")

    class Loader(yaml.SafeLoader):
        """PyYAML's, with the words of YAML 1.2."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen: set[str] = set()
            for key, _ in node.value:
                if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                    raise yaml.MarkedYAMLError(
                        problem=f"expected a text as the key, got {_shown(key.value)}", problem_mark=key.start_mark
                    )
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} twice", problem_mark=key.start_mark)
                seen.add(key.value)
            found: dict[Any, Any] = super().construct_mapping(node, deep)
            return found

    Loader.yaml_implicit_resolvers = {}
    for kind, words, first_letters in _CORE_SCHEMA:
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(words), first_letters)
    Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: _yaml_integer(node.value))
    try:
        data = yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        said = "nested too deep" if isinstance(problem, RecursionError) else str(problem)
        raise error(f"{where}: not a readable YAML file: {said}") from problem
    if not isinstance(data, Mapping):
        raise error(f"{where}: expected a mapping of keys at the top, got {_shown(data)}")
    return dict(data)


def _yaml_integer(word: str) -> int:
    return _integer(str(int(word, 0)) if word.startswith(("0o", "0x")) and len(word) < _LONGEST_INTEGER else word)


def write(value: Any) -> Any:
    """Plain values that `read` turns back into `value`, without fields at their default that are marked `omitted`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [(field, getattr(value, field.name)) for field in dataclasses.fields(value)]
        return {
            field.name: write(found)
            for field, found in fields
            if not field.metadata.get("omitted") or found != default(field)
        }
    if isinstance(value, Mapping):
        return {key: write(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [write(item) for item in value]
    return value


def to_yaml(value: Any, comments: Mapping[str, str], *, changed_only: bool = False) -> str:
    """The YAML text that `parse_yaml` and `read` turn back into a dataclass. The same value gives the same text.

    Args:
        value: A dataclass of plain values, such as a recipe.
        comments: What stands above a key, by its path, such as `weights.dtype`; `meanings` gives one for each.
        changed_only: Whether keys that have their default are left out.
    """
    return "".join(f"{line}\n" for line in _yaml_lines(value, comments, changed_only, "", ""))


def meanings(kind: type, path: str = "") -> dict[str, str]:
    """What the docstrings of a dataclass, and of those nested in it, say of each key, by its path.

    Where a key takes one of a few words, these are named as well. A line that begins with two spaces is about a key of
    a list's items.
    """
    hints, own = get_type_hints(kind), attributes(kind)
    found: dict[str, str] = {}
    for field in dataclasses.fields(kind):
        hint, key = hints[field.name], path + field.name
        (item, *_) = get_args(hint) or (hint,)
        said = [own.get(field.name, "")]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            said.insert(0, introduction(hint))
            found |= meanings(hint, f"{key}.")
        elif get_origin(hint) is Literal:
            said.append(f"One of {', '.join(map(str, get_args(hint)))}.")
        lines = [" ".join(filter(None, said))]
        if isinstance(item, type) and dataclasses.is_dataclass(item) and item is not hint:
            lines += [f"  {name}: {text}" for name, text in attributes(item).items()]
        found[key] = re.sub(r"\bNone\b", "null", "\n".join(lines))
    return found


def introduction(kind: type) -> str:
    """A docstring down to its sections, without examples, as one paragraph."""
    text = re.split(r"^\w+:$", inspect.getdoc(kind) or "", flags=re.MULTILINE)[0]
    return " ".join(re.split(r"^>>>", text, flags=re.MULTILINE)[0].split())


def attributes(kind: type) -> dict[str, str]:
    """The section `Attributes:` of a docstring; `a, b: text` is said of both."""
    _, _, section = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    entries = re.findall(r"^    (\w[\w, ]*): ((?:.|\n     +)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}


def _yaml_lines(value: Any, comments: Mapping[str, str], changed_only: bool, path: str, margin: str) -> Iterator[str]:
    for field in dataclasses.fields(value):
        item, key = getattr(value, field.name), path + field.name
        if changed_only and item == default(field):
            continue
        nested = None
        if dataclasses.is_dataclass(item):
            nested = list(_yaml_lines(item, comments, changed_only, f"{key}.", f"{margin}  "))
        elif isinstance(item, tuple) and item and not isinstance(item[0], int | float):
            nested = [f"{margin}  - {_inline(each)}" for each in item]
        if nested == []:
            continue
        for line in comments.get(key, "").splitlines():
            indent = f"{margin}# " + " " * (len(line) - len(line.lstrip()))
            yield from textwrap.wrap(
                line.strip(), _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
            )
        if nested is None:
            yield f"{margin}{field.name}: {_inline(item)}"
        else:
            yield f"{margin}{field.name}:"
            yield from nested


def default(field: dataclasses.Field[Any]) -> Any:
    """What a field is where its key is left out; MISSING where it must not be."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _inline(value: Any) -> str:
    """A value on one line, as YAML 1.1 and 1.2 both read it."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """PyYAML's, which leaves a text without its quotes where YAML 1.1 alone would read it as one."""

    for kind, words, first_letters in _CORE_SCHEMA:
        Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(words), first_letters)
    text: str = yaml.dump(
        write(value), Dumper=Dumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf")
    )
    return text.removesuffix("...\n").strip()


def is_required(field: dataclasses.Field[Any]) -> bool:
    """Whether `read` refuses data without this key."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _shown(data: Any) -> str:
    """A value in a message: whole where it is short."""
    return _Shown().repr(data)


class _Shown(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 120
        self.maxlist = self.maxdict = 10


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """The types of a dataclass's fields; finding out takes longer than reading a value."""
    return get_type_hints(kind, include_extras=True)


@dataclass(frozen=True)
class _Reader:
    """One call of `read`. A path, such as `.image.mean[0]`, says where in the file a value stands."""

    where: str
    error: type[EdgeVLMError]
    ignored: list[str] | None

    def read(self, kind: Any, data: Any, path: str) -> Any:
        origin, arguments = get_origin(kind), get_args(kind)
        if origin is Annotated:
            kind, quantity = arguments
            return self._read_quantity(kind, quantity, data, path)
        if origin in (Union, UnionType):
            return self._read_union(arguments, data, path)
        if origin is Literal:
            if data not in arguments:
                raise self._wrong(path, f"expected one of {', '.join(map(repr, arguments))}, got {_shown(data)}")
            return data
        if origin is tuple:
            return self._read_tuple(arguments, data, path)
        if origin is not None and issubclass(origin, Mapping):
            if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
                raise self._wrong(path, f"expected a mapping, got {_shown(data)}")
            return {key: self.read(arguments[1], item, f"{path}.{key}") for key, item in data.items()}
        if dataclasses.is_dataclass(kind):
            return self._read_dataclass(kind, data, path)
        if kind is float and isinstance(data, int | float) and not isinstance(data, bool):
            return self._read_float(data, path)
        if not isinstance(data, kind) or (isinstance(data, bool) and kind is not bool):
            raise self._wrong(path, f"expected {kind.__name__}, got {_shown(data)}")
        return data

    def _read_dataclass(self, kind: Any, data: Any, path: str) -> Any:
        if not isinstance(data, Mapping):
            raise self._wrong(path, f"expected a mapping, got {_shown(data)}")
        fields = {field.name: field for field in dataclasses.fields(kind)}
        unknown = [key for key in data if key not in fields]
        if unknown and self.ignored is None:
            raise self._wrong(path, f"unknown key {unknown[0]!r}: expected {', '.join(sorted(fields))}")
        if self.ignored is not None:
            self.ignored.extend(f"{path}.{key}".removeprefix(".") for key in unknown)
        for name, field in fields.items():
            if name not in data and is_required(field):
                raise self._wrong(path, f"the key {name!r} is missing")
        hints = _hints(kind)
        return kind(**{name: self.read(hints[name], data[name], f"{path}.{name}") for name in fields if name in data})

    def _read_tuple(self, arguments: tuple[Any, ...], data: Any, path: str) -> tuple[Any, ...]:
        if not isinstance(data, list | tuple):
            raise self._wrong(path, f"expected a list, got {_shown(data)}")
        kinds = (arguments[0],) * len(data) if arguments[-1] is Ellipsis else arguments
        if len(kinds) != len(data):
            raise self._wrong(path, f"expected {len(kinds)} values, got {len(data)}")
        return tuple(
            self.read(kind, item, f"{path}[{i}]") for i, (kind, item) in enumerate(zip(kinds, data, strict=True))
        )

    def _read_union(self, arguments: tuple[Any, ...], data: Any, path: str) -> Any:
        if data is None and NoneType in arguments:
            return None
        (kind,) = (argument for argument in arguments if argument is not NoneType)
        return self.read(kind, data, path)

    def _read_float(self, data: float, path: str) -> float:
        with contextlib.suppress(OverflowError):
            if math.isfinite(value := float(data)):
                return value
        raise self._wrong(path, f"expected a finite number, got {str(data)[:40]}")

    def _read_quantity(self, kind: Any, quantity: Quantity, data: Any, path: str) -> Any:
        if not quantity.finite and isinstance(data, float):
            return data
        value = self.read(kind, data, path)
        if not quantity.holds(value):
            raise self._wrong(path, f"expected {quantity.range} {quantity.unit}".rstrip() + f", got {_shown(data)}")
        return value

    def _wrong(self, path: str, problem: str) -> EdgeVLMError:
        return self.error(f"{self.where}{path}: {problem}")
