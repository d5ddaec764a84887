"""What is in an .mlpackage, whoever wrote it: read and counted, not run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

from edgevlm.runtimes.mlprogram.conditions import returned
from edgevlm.runtimes.mlprogram.counts import count_ops
from edgevlm.runtimes.mlprogram.deployment import advise, systems
from edgevlm.runtimes.mlprogram.package import function_names, read_function, specification_version
from edgevlm.runtimes.mlprogram.program import Constant, Described, Function, Named
from edgevlm.targets.inspection import Advice, Package, PackageFunction, PackageValue

_SPECIFICATION = (".json", ".mlmodel")


def inspect_package(path: Path) -> Package:
    """Reads every function of a package.

    Raises:
        BundleError: the package is damaged, or is no ML Program.
        UnsupportedError: it has a picture or a constant of a kind that is not known here.
        MissingDependency: coremltools is not installed.
    """
    functions, version, files = _read(path)
    found = systems(functions, version)
    return Package(
        functions=tuple(PackageFunction(each.name, _values(each), count_ops(each)) for each in functions),
        declares=found.declared.requires if found.declared else {},
        needs=found.needed.requires,
        because=tuple(need.what for need in found.because),
        files=files,
        advice=advise(functions, version, _weight_bytes(files)),
    )


def advise_package(path: Path, names: Collection[str] | None = None) -> tuple[Advice, ...]:
    """What is known against a package, or those of its functions that have the names; see `inspect_package`."""
    functions, version, files = _read(path, names)
    return advise(functions, version, _weight_bytes(files))


def _read(path: Path, names: Collection[str] | None = None) -> tuple[tuple[Function, ...], int, dict[str, int]]:
    functions = tuple(read_function(path, name) for name in function_names(path) if names is None or name in names)
    for function in functions:
        _read_constants(function)
    files = {
        each.relative_to(path).as_posix(): each.stat().st_size for each in sorted(path.rglob("*")) if each.is_file()
    }
    return functions, specification_version(path), files


def _read_constants(function: Function) -> None:
    """Refuses a package whose weights are cut short or missing; most are mapped, and none is copied for it."""
    for operation in function.walk():
        for argument in operation.arguments.values():
            for each in argument:
                if isinstance(each, Constant):
                    each.read()


def _weight_bytes(files: Mapping[str, int]) -> int:
    return sum(size for name, size in files.items() if not name.endswith(_SPECIFICATION))


def _values(function: Function) -> tuple[PackageValue, ...]:
    return (
        *(
            _value(each, "state" if each.type.kind == "state" else "input", function.described)
            for each in function.inputs
        ),
        *(_value(each, "output", function.described) for each in returned(function)),
    )


def _value(named: Named, role: Literal["input", "state", "output"], described: Mapping[str, Described]) -> PackageValue:
    about = described.get(named.name, Described())
    return PackageValue(named.name, role, named.type.dtype, named.type.shape, about.image, about.sizes, about.choices)
