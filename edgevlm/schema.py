"""Reads plain JSON or YAML values into frozen dataclasses, strictly: every key known, every type as declared."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from edgevlm.errors import EdgeVLMError

T = TypeVar("T")
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
