"""Reads plain JSON or YAML values into frozen dataclasses, strictly: every key known, every type as declared.

And writes them: as plain values, or as a YAML file that people edit, with what a key means above it.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from edgevlm.errors import EdgeVLMError

T = TypeVar("T")
_WIDTH = 110
_EXPONENT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")


def read(kind: type[T], data: Any, *, where: str, error: type[EdgeVLMError]) -> T:
    """The dataclass that `data` describes.

    Args:
        kind: A dataclass of plain values, nested dataclasses, tuples, dicts with text keys, literals and unions.
        data: What `json.load` or `read_yaml` gave.
        where: Path that messages start with, such as a file's name.
        error: Raised for an unknown or missing key or a value of the wrong type; its message names the path.
    """
    value: T = _read(kind, data, where, error)
    return value


def read_yaml(text: str, *, where: str, error: type[EdgeVLMError]) -> dict[str, Any]:
    """The mapping that a YAML file holds. `1e-3` is a number, as YAML 1.2 has it; PyYAML alone reads a text.

    Raises:
        EdgeVLMError: `error`, for what is no YAML, or no mapping.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """PyYAML's, to add a rule to."""

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("+-.0123456789"))
    try:
        data = yaml.load(text, Loader)
    except yaml.YAMLError as problem:
        raise error(f"{where}: not a readable YAML file: {problem}") from problem
    if not isinstance(data, Mapping):
        raise error(f"{where}: expected a mapping of keys at the top, got {data!r}")
    return dict(data)


def write(value: Any) -> Any:
    """Plain values that `read` turns back into `value`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: write(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: write(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [write(item) for item in value]
    return value


def to_yaml(value: Any, comments: Mapping[str, str], *, changed_only: bool = False) -> str:
    """The YAML file that `read_yaml` and `read` turn back into a dataclass. The same value gives the same text.

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
    hints, own = get_type_hints(kind), _attributes(kind)
    found: dict[str, str] = {}
    for field in dataclasses.fields(kind):
        hint, key = hints[field.name], path + field.name
        (item, *_) = get_args(hint) or (hint,)
        said = [own.get(field.name, "")]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            said.insert(0, _introduction(hint))
            found |= meanings(hint, f"{key}.")
        elif get_origin(hint) is Literal:
            said.append(f"One of {', '.join(map(str, get_args(hint)))}.")
        lines = [" ".join(filter(None, said))]
        if isinstance(item, type) and dataclasses.is_dataclass(item) and item is not hint:
            lines += [f"  {name}: {text}" for name, text in _attributes(item).items()]
        found[key] = re.sub(r"\bNone\b", "null", "\n".join(lines))
    return found


def _introduction(kind: type) -> str:
    """A docstring down to its sections, without examples, as one paragraph."""
    text = re.split(r"^\w+:$", inspect.getdoc(kind) or "", flags=re.MULTILINE)[0]
    return " ".join(re.split(r"^>>>", text, flags=re.MULTILINE)[0].split())


def _attributes(kind: type) -> dict[str, str]:
    """The section `Attributes:` of a docstring; `a, b: text` is said of both."""
    _, _, section = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    entries = re.findall(r"^    (\w[\w, ]*): ((?:.|\n     +)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}


def _yaml_lines(value: Any, comments: Mapping[str, str], changed_only: bool, path: str, margin: str) -> Iterator[str]:
    for field in dataclasses.fields(value):
        item, key = getattr(value, field.name), path + field.name
        if changed_only and item == _default(field):
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


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _inline(value: Any) -> str:
    """A value on one line, as YAML 1.1 and 1.2 both read it."""
    import yaml

    text: str = yaml.safe_dump(
        write(value), default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf")
    )
    return text.removesuffix("...\n").strip()


def _read(kind: Any, data: Any, where: str, error: type[EdgeVLMError]) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _read_union(arguments, data, where, error)
    if origin is Literal:
        if data not in arguments:
            raise error(f"{where}: expected one of {', '.join(map(repr, arguments))}, got {data!r}")
        return data
    if origin is tuple:
        return _read_tuple(arguments, data, where, error)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
            raise error(f"{where}: expected a mapping, got {data!r}")
        return {key: _read(arguments[1], item, f"{where}.{key}", error) for key, item in data.items()}
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, data, where, error)
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if not isinstance(data, kind) or (isinstance(data, bool) and kind is not bool):
        raise error(f"{where}: expected {kind.__name__}, got {data!r}")
    return data


def _read_dataclass(kind: Any, data: Any, where: str, error: type[EdgeVLMError]) -> Any:
    if not isinstance(data, Mapping):
        raise error(f"{where}: expected a mapping, got {data!r}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in data:
        if key not in fields:
            raise error(f"{where}: unknown key {key!r}: expected {', '.join(sorted(fields))}")
    for name, field in fields.items():
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if name not in data and not optional:
            raise error(f"{where}: the key {name!r} is missing")
    hints = get_type_hints(kind)
    return kind(**{name: _read(hints[name], item, f"{where}.{name}", error) for name, item in data.items()})


def _read_tuple(arguments: tuple[Any, ...], data: Any, where: str, error: type[EdgeVLMError]) -> tuple[Any, ...]:
    if not isinstance(data, list | tuple):
        raise error(f"{where}: expected a list, got {data!r}")
    kinds = (arguments[0],) * len(data) if arguments[-1] is Ellipsis else arguments
    if len(kinds) != len(data):
        raise error(f"{where}: expected {len(kinds)} values, got {len(data)}")
    return tuple(
        _read(kind, item, f"{where}[{i}]", error) for i, (kind, item) in enumerate(zip(kinds, data, strict=True))
    )


def _read_union(arguments: tuple[Any, ...], data: Any, where: str, error: type[EdgeVLMError]) -> Any:
    if data is None and NoneType in arguments:
        return None
    (kind,) = (argument for argument in arguments if argument is not NoneType)
    return _read(kind, data, where, error)
