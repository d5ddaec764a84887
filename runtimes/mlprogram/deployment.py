"""What a package means for the app that ships it: the systems that it needs, and what Apple's hardware makes of it.

Nothing is run, and no torch is needed. What is checked, with the source of each claim, is in `facts`; from which system
on an op can be written, in `opsets`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from edgevlm.runtimes.mlprogram.conditions import boundary
from edgevlm.runtimes.mlprogram.facts import ARRAYS, CODE, COREMLTOOLS, GUIDE, MOST_WEIGHT_BYTES, OF_FUNCTIONS, OF_OPS
from edgevlm.runtimes.mlprogram.opsets import SYSTEMS, System, definitions, earliest, system
from edgevlm.runtimes.mlprogram.program import Function
from edgevlm.runtimes.mlprogram.uses import Use, uses
from edgevlm.targets.inspection import Advice

OPS = "https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html"
_CHUNKED = "https://github.com/apple/ml-stable-diffusion#converting-models-to-core-ml"


@dataclass(frozen=True)
class Need:
    """A system that something in a package needs, and who says so."""

    opset: str
    what: str
    source: str


@dataclass(frozen=True)
class Systems:
    """The systems of a package.

    Attributes:
        declared: What it says that it needs; None for a version that is not known here.
        needed: The oldest that have all that it uses.
        because: What needs that system; empty where the oldest system with ML Programs does.
    """

    declared: System | None
    needed: System
    because: tuple[Need, ...]


def advise(functions: Sequence[Function], specification_version: int, weight_bytes: int) -> tuple[Advice, ...]:
    """Everything known against a package, systems first.

    Args:
        functions: All of them.
        specification_version: What the package declares.
        weight_bytes: Size of its weight files.

    Raises:
        BundleError: a constant cannot be read.
    """
    found = [*_of_systems(systems(functions, specification_version))]
    for function in functions:
        place = f"{function.name}: " if len(functions) > 1 else ""
        found += _of_unknown(function, place)
        found += _of_function(function, place)
    if weight_bytes > MOST_WEIGHT_BYTES:
        message = (
            "for the Neural Engine of a phone Apple splits models into packages of less than 1 GB of weights: a recipe "
            "with fewer bits a weight may fit"
        )
        found.append(Advice("app", "neural engine", f"{weight_bytes / 1e9:.1f} GB of weights", message, _CHUNKED))
    return tuple(found)


def _of_unknown(function: Function, place: str) -> Iterator[Advice]:
    message = "no opset defines this op: Core ML does not load it, and the evaluator does not compute it"
    counts = Counter(each.kind for each in function.walk() if each.kind != "const" and each.kind not in definitions())
    for kind, count in counts.items():
        yield Advice("converter", "refused", f"{place}{count} {kind}", message, OPS)


def systems(functions: Sequence[Function], specification_version: int) -> Systems:
    """What a package declares that it needs, and what it does need."""
    needs = tuple(_needs(functions))
    order = [each.opset for each in SYSTEMS]
    newest = max((need.opset for need in needs), key=order.index, default=order[0])
    declared = next((each for each in SYSTEMS if each.specification_version == specification_version), None)
    because = tuple(need for need in needs if need.opset == newest and newest != order[0])
    return Systems(declared, system(newest), because)


def _needs(functions: Sequence[Function]) -> Iterator[Need]:
    if len(functions) > 1:
        yield Need("iOS18", f"{len(functions)} functions", f"{GUIDE}/multifunction-models.html")
    for function in functions:
        yield from _needs_of_boundary(function)
        opsets: dict[tuple[str, str], int] = {}
        for use in uses(function):
            opset = earliest(use.operation, use.known) or _as_declared(use, function.opset)
            if opset is not None:
                opsets[opset, use.kind] = opsets.get((opset, use.kind), 0) + 1
        yield from (Need(opset, f"{count} {kind}", OPS) for (opset, kind), count in opsets.items())


def _needs_of_boundary(function: Function) -> Iterator[Need]:
    if not function.inputs:
        yield Need("iOS18", "no inputs", f"{COREMLTOOLS}/issues/2578")
    for name, found in boundary(function):
        if found.kind == "state":
            yield Need("iOS18", f"the state {name}", f"{GUIDE}/stateful-models.html")
        elif found.kind == "tensor" and found.dtype == "int8":
            yield Need("iOS26", f"{name} in int8", f"{ARRAYS}/int8")
        elif found.kind == "tensor" and found.dtype == "fp16":
            yield Need("iOS16", f"{name} in fp16", f"{ARRAYS}/float16")
    enumerated = [name for name, about in function.described.items() if len(about.choices) > 1]
    if len(set(enumerated) & {each.name for each in function.inputs}) > 1:
        yield Need("iOS18", f"enumerated shapes of {', '.join(enumerated)}", f"{CODE}/converters/_converters_entry.py")


def _as_declared(use: Use, opset: str) -> str | None:
    """Of a call that fits no definition, as another converter may write it: the one that its function's opset has.

    Args:
        opset: As the program calls it.

    Returns:
        None for an op that no opset defines.
    """
    known = [each.opset for each in SYSTEMS]
    newest = next((each.opset for each in SYSTEMS if each.program_opset == opset), known[-1])
    versions = [
        each.opset for each in definitions().get(use.kind, ()) if known.index(each.opset) <= known.index(newest)
    ]
    return versions[-1] if versions else None


def _of_systems(found: Systems) -> Iterator[Advice]:
    if found.declared is None or found.declared == found.needed:
        return
    declared, needed = _named(found.declared), _named(found.needed)
    what = ", ".join(dict.fromkeys(need.what for need in found.because)) or "the package"
    source = found.because[0].source if found.because else OPS
    if SYSTEMS.index(found.needed) > SYSTEMS.index(found.declared):
        message = f"needs {needed}, and the package asks for {declared}: convert it for the former"
        yield Advice("converter", "system", what, message, source)
        return
    since = f"{needed}, for these" if found.because else f"{needed}, for anything in it"
    message = (
        f"the package asks for {declared}, and needs no more than {since}: convert it for older systems to reach them"
    )
    yield Advice("converter", "system", what, message, source)


def _named(needed: System) -> str:
    return ", ".join(f"{name} {least}" for name, least in needed.requires.items())


def _of_function(function: Function, place: str) -> Iterator[Advice]:
    all_uses = uses(function)
    for fact in OF_FUNCTIONS:
        if names := tuple(dict.fromkeys(fact.names(function))):
            yield Advice(fact.to, fact.kind, place + _listed(names), fact.message, fact.source)
    for known in OF_OPS:
        if shown := tuple(use for use in all_uses if known.holds(use)):
            yield Advice(known.to, known.kind, place + _counted(shown), known.message, known.source)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _counted(shown: Sequence[Use]) -> str:
    """`softplus 'x'`, or how many there are and the first."""
    first, kinds = shown[0], _in_order(use.kind for use in shown)
    if len(shown) == 1:
        return f"{first.kind} {first.operation.name!r}"
    return f"{len(shown)} {', '.join(kinds)}, the first being {first.operation.name!r}"


def _in_order(kinds: Iterable[str]) -> tuple[str, ...]:
    """Without repetitions, and no more than four of them."""
    found = tuple(dict.fromkeys(kinds))
    return (*found[:3], f"{len(found) - 3} other kinds") if len(found) > 4 else found
