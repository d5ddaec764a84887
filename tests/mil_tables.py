"""The tables in `runtimes/mlprogram`, as coremltools and these tests have them; run as a script, writes them anew."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.input_type import (
    ListInputType,
    StateInputType,
    TensorInputType,
    TupleInputType,
)
from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry
from evidence import Oracle, shown_by

FOLDER = Path(__file__).parent.parent / "runtimes" / "mlprogram"
_OTHER = {TupleInputType: "several", ListInputType: "list", StateInputType: "state"}

Table = Mapping[str, Any]


def mil_versions(kind: str) -> list[Any]:
    """The definitions of an op, the oldest first."""
    return list(dict.fromkeys(SSAOpRegistry.core_ops[kind].values()))


def mil_defaults(version: Any) -> dict[str, Any]:
    """What coremltools fills in for a 4-D fp32 input, straight from the definition of the op."""
    instance = version.__new__(version)
    instance.x = SimpleNamespace(rank=4, shape=(1, 2, 3, 4), dtype=types.fp32)
    instance.return_indices = None
    instance.box_indices, instance.boxes = None, SimpleNamespace(shape=(1, 4))
    instance.weight = SimpleNamespace(rank=2, shape=(3, 4), dtype=types.fp32)
    return dict(instance.default_inputs().items())


def opsets() -> dict[str, dict[str, dict[str, str]]]:
    """Every op of ML Programs, and for each opset that changed it what its arguments may be."""
    table = {kind: _versions(kind) for kind in sorted(SSAOpRegistry.core_ops) if kind[0] != "_" and kind != "const"}
    # The builder has one op, `coreml_update_state`, which becomes this one and `read_state` when it is written.
    update = SSAOpRegistry.dialect_ops["coreml_update_state"]
    held = _names(update.type_domains["T"])
    table["write_state"] = {"iOS18": {"input": "state", "data": "T", "T": held}}
    return dict(sorted(table.items()))


def text(table: Table) -> str:
    """JSON with a line a version, or an op, to be read and compared by people."""
    return "{\n" + ",\n".join(f"{json.dumps(kind)}: {_lines(of)}" for kind, of in table.items()) + "\n}\n"


def _lines(versions: Any) -> str:
    if not isinstance(versions, Mapping):
        return json.dumps(versions)
    lines = (f" {json.dumps(opset)}: {json.dumps(arguments)}" for opset, arguments in versions.items())
    return "{\n" + ",\n".join(lines) + "}"


def _versions(kind: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    since = {version: opset for opset, version in reversed(SSAOpRegistry.core_ops[kind].items())}
    known: set[str] = set()
    for version in mil_versions(kind):
        # ML Programs begin with iOS 15: what is older was there then.
        name = max(since[version].name, "iOS15")
        found[name] = dict(_arguments(version, known if found else None))
        known |= set(version.input_spec.input_types)
    return found


def _arguments(version: Any, known: set[str] | None) -> Iterator[tuple[str, str]]:
    """
    Args:
        known: Names of arguments that older definitions have, None for the oldest: what is new since then is given
            with its default, since a program that holds it needs no more than one without it.
    """
    defaults = mil_defaults(version) if known is not None else {}
    for name, argument in version.input_spec.input_types.items():
        if name[0] == "_":
            continue  # a nested block
        words = ["const"] if argument.const else []
        if not isinstance(argument, TensorInputType):
            words.append(_OTHER.get(type(argument), "any"))
        elif argument.type_domain_id is not None:
            words.append(argument.type_domain_id)
        else:
            words.append(_names(argument.type_domain))
        if version.__name__ == "cast" and name == "dtype":
            words.append("in T")
        default = defaults.get(name)
        if known is not None and name not in known and isinstance(default, bool | int | float | str):
            words.append(f"= {default}")
        yield f"{name}?" if argument.optional else name, " ".join(words)
    for domain, allowed in sorted(version.type_domains.items()):
        yield domain, _names(allowed)


def _names(allowed: Any) -> str:
    names = {types.builtin_to_string(each) for each in allowed}
    return " ".join(sorted({"str": "string"}.get(name, name) for name in names))


def oracles() -> dict[str, list[Oracle]]:
    """What each op that tests run is compared with: by its cases, and by tests of another form."""
    import test_mlprogram_control
    import test_mlprogram_ops
    from mlprogram_cases import CASES

    found = shown_by(test_mlprogram_control, test_mlprogram_ops)
    for case in CASES:
        found.setdefault(case.kind, set()).add(case.oracle)
        if not case.inferred_otherwise and case.inferred() is not None:
            found[case.kind].add("coremltools")
    return {kind: [each for each in get_args(Oracle) if each in found[kind]] for kind in sorted(found)}


TABLES: dict[str, Callable[[], Table]] = {"opsets.json": opsets, "oracles.json": oracles}

if __name__ == "__main__":
    for file, table in TABLES.items():
        (FOLDER / file).write_text(text(table()), encoding="utf-8")
