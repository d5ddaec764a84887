"""In which opset each op of ML Programs appeared, and from which on a call of it can be written.

An op may have several definitions: each newer one takes more arguments or more element types. What a call needs is the
oldest definition that it fits. `opsets.json` holds all of them as coremltools' registry defines them; a test compares
the two. Ops: https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np

from edgevlm.runtimes.mlprogram.program import Constant, Literals, Operation

_UNTYPED = ("several", "list", "state", "any")


@dataclass(frozen=True)
class System:
    """The systems that brought an opset.

    Attributes:
        opset: Its name, after iOS.
        program_opset: What a program calls it, after Core ML.
        specification_version: What a package says that needs it.
        requires: The least version of each platform.
    """

    opset: str
    program_opset: str
    specification_version: int
    requires: Mapping[str, str]


SYSTEMS = (
    System("iOS15", "CoreML5", 6, {"iOS": "15", "macOS": "12"}),
    System("iOS16", "CoreML6", 7, {"iOS": "16", "macOS": "13"}),
    System("iOS17", "CoreML7", 8, {"iOS": "17", "macOS": "14"}),
    System("iOS18", "CoreML8", 9, {"iOS": "18", "macOS": "15"}),
    System("iOS26", "CoreML9", 10, {"iOS": "26", "macOS": "26"}),
)
"""The oldest first; versions as in coremltools/__init__.py."""


@dataclass(frozen=True)
class Argument:
    """What a definition says of one argument.

    Attributes:
        types: Element types that it may have; None for what is no tensor.
        domain: Arguments with the same domain have the same type; empty for none.
        constant: Whether it must be known before the program runs.
        named: Whether it is the name of a type, which then is one of `types`.
        required: Whether a call must have it.
        default: As text, where older definitions lack the argument: with this value a call needs no newer one.
    """

    types: frozenset[str] | None
    domain: str
    constant: bool
    named: bool
    required: bool
    default: str | None


@dataclass(frozen=True)
class Definition:
    """An op as one opset defines it."""

    opset: str
    arguments: Mapping[str, Argument]


@dataclass(frozen=True)
class Known:
    """What is known of an argument of a call.

    Attributes:
        dtype: Element type.
        constant: Whether it is a constant, or made of constants as a compressed weight is.
        value: Reads it where it is written in the program; None elsewhere.
    """

    dtype: str
    constant: bool
    value: Callable[[], Literals] | None = None


def system(opset: str) -> System:
    """The systems of an opset."""
    return next(each for each in SYSTEMS if each.opset == opset)


@cache
def definitions() -> Mapping[str, tuple[Definition, ...]]:
    """Every op's definitions, the oldest first."""
    table = json.loads((files("edgevlm.runtimes.mlprogram") / "opsets.json").read_text(encoding="utf-8"))
    return {kind: tuple(_definition(*each) for each in versions.items()) for kind, versions in table.items()}


def earliest(operation: Operation, known: Callable[[str | Constant], Known | None]) -> str | None:
    """The opset of the oldest definition that a call fits.

    Args:
        known: What is known of an argument's source; None where it is not known.

    Returns:
        None for an op, or a call, that no opset defines.
    """
    versions = definitions().get(operation.kind, ())
    defaults = {name: each.default for version in versions for name, each in version.arguments.items() if each.default}
    fitting = (version.opset for version in versions if _fits(operation, version, defaults, known))
    return next(fitting, None)


def _fits(
    operation: Operation,
    definition: Definition,
    defaults: Mapping[str, str],
    known: Callable[[str | Constant], Known | None],
) -> bool:
    if any(each.required and name not in operation.arguments for name, each in definition.arguments.items()):
        return False
    bound: dict[str, str] = {}
    for name, sources in operation.arguments.items():
        argument, given = definition.arguments.get(name), [known(source) for source in sources]
        if argument is None:
            if name not in defaults or not given or _text(given[0]) != defaults[name]:
                return False
        elif not all(each is None or _allowed(each, argument, bound) for each in given):
            return False
    return True


def _allowed(given: Known, argument: Argument, bound: dict[str, str]) -> bool:
    """Whether an argument may be given so.

    Args:
        bound: The type of each domain so far; the argument's is added.
    """
    if argument.constant and not given.constant:
        return False
    if argument.types is None:
        return True
    if argument.named:
        return _text(given) in argument.types
    if argument.domain and bound.setdefault(argument.domain, given.dtype) != given.dtype:
        return False
    return given.dtype in argument.types


def _text(given: Known | None) -> str | None:
    """A text, or a single number as Python writes it."""
    value = given.value() if given is not None and given.value is not None else None
    if isinstance(value, np.ndarray) and value.size == 1:
        return str(value.item())
    return value if isinstance(value, str) else None


def _definition(opset: str, table: Mapping[str, str]) -> Definition:
    domains = {name: frozenset(types.split()) for name, types in table.items() if name[0].isupper()}
    return Definition(
        opset,
        {name.rstrip("?"): _argument(name, text, domains) for name, text in table.items() if name not in domains},
    )


def _argument(name: str, text: str, domains: Mapping[str, frozenset[str]]) -> Argument:
    """Reads entries such as `const T = 0.0`."""
    words, _, default = text.partition(" = ")
    constant = words.startswith("const ")
    words, _, of = words.removeprefix("const ").partition(" in ")
    types = domains.get(of or words, frozenset(words.split()))
    return Argument(
        types=None if words in _UNTYPED else types,
        domain=words if words in domains else "",
        constant=constant,
        named=bool(of),
        required=not name.endswith("?"),
        default=default or None,
    )
