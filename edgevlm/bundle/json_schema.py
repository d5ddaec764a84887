"""JSON Schema of the bundle's files, from the dataclasses that read them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from edgevlm import schema

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean"}
FIRST_VERSION = "1.0"


@dataclass(frozen=True)
class Field:
    """One key of an object, as its dataclass describes it.

    Attributes:
        name: The key.
        kind: Its type.
        meaning: What the docstring says of it, on one line.
        since: Version of the format that brought it; None where it is as old as its object.
        required: Whether a reader refuses an object without it.
        default: What it is where it is not required and absent, in plain values.
    """

    name: str
    kind: Any
    meaning: str
    since: str | None
    required: bool
    default: Any


def fields(kind: Any) -> tuple[Field, ...]:
    """The keys of a dataclass, in the order of its file.

    Raises:
        ValueError: a field without a line under `Attributes:`, unless it is an object, whose own docstring will do.
    """
    described = schema.attributes(kind)
    hints = get_type_hints(kind, include_extras=True)
    found = []
    for field in dataclasses.fields(kind):
        own = hints[field.name]
        meaning = described.get(field.name) or (schema.introduction(own) if _is_object(own) else "")
        if not meaning:
            raise ValueError(f"{kind.__name__}.{field.name}: expected a line about it under Attributes:, got none")
        found.append(
            Field(
                name=field.name,
                kind=own,
                meaning=re.sub(r"\bNone\b", "null", meaning),  # what JSON calls it
                since=field.metadata.get("since"),
                required=schema.is_required(field),
                default=None if schema.is_required(field) else schema.write(schema.default(field)),
            )
        )
    return tuple(found)


def json_schema(kind: Any) -> dict[str, Any]:
    """A JSON Schema (2020-12) that holds for exactly what `schema.read` takes, but for numbers such as `4.0`.

    Args:
        kind: A dataclass; the ones within it become `$defs`.
    """
    inner = [each for each in objects(kind) if each is not kind]
    definitions = {each.__name__: _object(each) for each in sorted(inner, key=lambda each: str(each.__name__))}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": kind.__name__,
        **_object(kind),
        **({"$defs": definitions} if definitions else {}),
    }


def objects(kind: Any, since: str = FIRST_VERSION) -> dict[Any, str]:
    """The dataclass and all within it, in the order in which they are met, each with the version that brought it."""
    found = {kind: since}
    for field in fields(kind):
        for inner in _dataclasses(field.kind):
            for each, version in objects(inner, field.since or since).items():
                found.setdefault(each, version)
    return found


def _object(kind: Any) -> dict[str, Any]:
    found = fields(kind)
    return {
        "description": schema.introduction(kind),
        "type": "object",
        "properties": {
            field.name: {
                **_value(field.kind),
                "description": field.meaning,
                **({} if field.required else {"default": field.default}),
                **({"x-since": field.since} if field.since else {}),
            }
            for field in found
        },
        "required": [field.name for field in found if field.required],
        "additionalProperties": False,
    }


def _value(kind: Any) -> dict[str, Any]:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return {**_value(arguments[0]), **_bounds(arguments[1])}
    if origin in (Union, UnionType):
        (some,) = (argument for argument in arguments if argument is not NoneType)
        return {"anyOf": [_value(some), {"type": "null"}]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return _array(arguments)
    if origin is not None and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _value(arguments[1])}
    if _is_object(kind):
        return {"$ref": f"#/$defs/{kind.__name__}"}
    return {"type": _PLAIN[kind]}


def _array(arguments: tuple[Any, ...]) -> dict[str, Any]:
    if arguments[-1] is Ellipsis:
        return {"type": "array", "items": _value(arguments[0])}
    each, *others = map(_value, arguments)
    if any(other != each for other in others):
        raise ValueError(f"expected a tuple of equal types, got {arguments}")
    return {"type": "array", "items": each, "minItems": len(arguments), "maxItems": len(arguments)}


def _bounds(quantity: schema.Quantity) -> dict[str, Any]:
    return {
        **({"minimum": quantity.least} if quantity.least is not None else {}),
        **({"exclusiveMinimum": quantity.above} if quantity.above is not None else {}),
        **({"x-unit": quantity.unit} if quantity.unit else {}),
    }


def _is_object(kind: Any) -> bool:
    """Whether a type is a dataclass. (A `Quantity` in a type is an object of one.)"""
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def _dataclasses(kind: Any) -> Iterator[Any]:
    """Those that a type names, whatever they are in."""
    if _is_object(kind):
        yield kind
    for argument in get_args(kind):
        yield from _dataclasses(argument)
