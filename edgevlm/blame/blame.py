"""The first op of an artefact that does not compute what the model computed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgevlm.blame.matching import LEAST_SIZE, Match, Matcher, unmasked
from edgevlm.blame.reference import Expected, expected_values
from edgevlm.bundle.recipe import Recipe
from edgevlm.bundle.spec import F32, Array
from edgevlm.graphs.program import Program
from edgevlm.targets.runtime import TracedOp

_SUMS = re.compile(r"add|sub|concat|pack|stack|where|select", re.IGNORECASE)
"""Ops in which a small operand can drown beside a large one."""
_JOINERS = re.compile(r"concat|pack|stack", re.IGNORECASE)
"""Ops that lay results side by side."""
_FAMILIES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"gelu",
        r"soft_?max",
        r"embedding|gather",
        r"conv",
        r"linear|fully_?connected|addmm|matmul|batch_?matri|^b?mm",
    )
)
"""What backends and the model have alike: such an op is the model's own, and nothing excuses its being off."""
_MOVERS = re.compile(r"^(static_?)?(transpose(?!_conv)|permute|reshape|view|(un)?squeeze|expand_dims)", re.IGNORECASE)
"""Ops that change nothing but where a value is, and belong to whatever they move."""
_CARRIERS = re.compile(rf"pad|quantize|convert|cast|{_MOVERS.pattern}", re.IGNORECASE)
"""Ops that hand values on, which the model may have none of: what is wrong after one is the op that reads it."""
_PLAUSIBLE = 0.9
"""An error up to which the closest op of the model is taken for the one that was meant."""


@dataclass(frozen=True)
class Step:
    """One op of the artefact beside the float model.

    Attributes:
        op: The target's name of the op's result, and its kind.
        kind: The target's name of the op.
        layer: `component/module` of the float model that it belongs to; empty if nothing tells.
        like: ATen's name of the op of the float model that it is closest to; empty if it is like none.
        error: How far it is from that, |artefact - model| / |model - its mean|; None if it is like none.
        nan: How many elements are not a number.
    """

    op: str
    kind: str
    layer: str
    like: str
    error: float | None
    nan: int = 0


@dataclass(frozen=True)
class Blame:
    """Where one component first differs from its reference on one sample.

    Attributes:
        component: The component.
        sample: The number of the parity sample that was run.
        limit: The error from which on they differ.
        steps: Every op that ran, in order.
        first: The index in `steps` of the first op that differs; None if none does.
    """

    component: str
    sample: int
    limit: float
    steps: tuple[Step, ...]
    first: int | None

    @property
    def culprit(self) -> Step | None:
        """The first op that differs."""
        return None if self.first is None else self.steps[self.first]


def blame(
    program: Program, ops: Sequence[TracedOp], inputs: Mapping[str, Array], recipe: Recipe, *, sample: int = 0
) -> Blame:
    """Compares what an artefact's ops computed with what the model's ops compute.

    The op to blame is the first that is unlike every op of the model and for which nothing after it vouches. Backends
    have ops that the model has not (the pieces of a norm): such an op is vouched for by an op that reads it and is
    like one of the model's, or is vouched for itself; but what resembles an op of the model is not by a sum in which it
    is too small to be seen. Nothing vouches for an op that is of the same kind as the model's that it resembles, and is
    off.

    Args:
        program: The float model's component.
        ops: The artefact's, in order, as they ran on the same inputs.
        inputs: One sample by the names of the component's spec.
        recipe: The artefact's, from which the limit follows.
    """
    limit = usual_limit(recipe)
    expected = expected_values(program, inputs)
    matcher = Matcher(expected)
    matches = [matcher.closest(op.value) for op in ops]
    pairs = list(zip(ops, matches, strict=True))
    right = [match is not None and match.error <= limit for match in matches]
    readers = _readers(ops)
    near = [match is not None and match.error < _PLAUSIBLE for match in matches]
    for index in _joined(ops, right, near):
        right[index] = True
    off = [
        match is not None
        and limit < match.error < _PLAUSIBLE
        and _alike(op, match.expected)
        and not _shifted(op.value, match.expected.value, limit)
        for op, match in pairs
    ]
    vouched = _vouched(ops, readers, right, near, off, limit)
    # Of too few elements nothing can be told; and what nothing reads, such as a norm's spare results, does no harm,
    # unless it is what the component answers, behind which spare results may stand.
    sizes = {math.prod(each.shape) for each in program.spec.outputs}
    answers = [op for op, read in zip(ops, readers, strict=True) if not read and op.value.size in sizes]
    answer = next(reversed(answers or ops), None)
    told = [
        op.value.size >= LEAST_SIZE and not _CARRIERS.search(op.kind) and (bool(readers[i]) or op is answer)
        for i, op in enumerate(ops)
    ]
    first = next((index for index, fine in enumerate(vouched) if told[index] and not fine), None)
    layers = _layers(ops, matches, right, expected)
    steps = tuple(
        Step(
            op.name,
            op.kind,
            layer,
            match.expected.kind if match else "",
            match.error if match else None,
            int(np.isnan(op.value).sum()),
        )
        for (op, match), layer in zip(pairs, layers, strict=True)
    )
    return Blame(program.spec.name, sample, limit, steps, first)


def usual_limit(recipe: Recipe) -> float:
    """What rounding alone may come to in one op's result, by the precision of the recipe."""
    if recipe.quantises or recipe.weights.sparsity or recipe.weights.dtype != "float":
        return 0.2
    return 2e-2 if recipe.precision == "fp16" else 1e-5


def worst_row(expected: Mapping[str, F32], got: Mapping[str, F32]) -> int:
    """The sample at which an output of a component is farthest from the original's."""
    errors = [
        np.nan_to_num(np.abs(expected[output] - rows), nan=np.inf).reshape(len(rows), -1).max(axis=1)
        for output, rows in got.items()
    ]
    return int(np.argmax(np.max(errors, axis=0)))


def _readers(ops: Sequence[TracedOp]) -> list[list[int]]:
    """For each op those that read its result."""
    place = {op.name: index for index, op in enumerate(ops)}
    readers: list[list[int]] = [[] for _ in ops]
    for index, op in enumerate(ops):
        for name in op.reads:
            if name in place:
                readers[place[name]].append(index)
    return readers


def _shifted(found: F32, expected: F32, limit: float) -> bool:
    """Whether all rows are off by the same: by a bias that a file adds later, to another constant."""
    if found.ndim == 0 or found.shape[-1:] != expected.shape[-1:] or found.size < LEAST_SIZE * found.shape[-1]:
        return False
    rows, wanted = (each.reshape(-1, each.shape[-1]) for each in (found, expected))
    apart = rows - wanted
    spread = float(np.linalg.norm(wanted - wanted.mean()))
    return bool(np.linalg.norm(apart - apart.mean(0)) <= limit * spread)


def _joined(ops: Sequence[TracedOp], right: Sequence[bool], near: Sequence[bool]) -> Iterator[int]:
    """What lays results side by side that are right, where the model has nothing like it: a file hands them out so."""
    place = {op.name: index for index, op in enumerate(ops)}
    for index, op in enumerate(ops):
        joins = _JOINERS.search(op.kind) and op.reads and not near[index]
        if joins and all(name in place and right[place[name]] for name in op.reads):
            yield index


def _alike(op: TracedOp, expected: Expected) -> bool:
    """Whether both are of one kind that backends keep as it is."""
    return any(family.search(op.kind) and family.search(expected.kind) for family in _FAMILIES)


def _vouched(
    ops: Sequence[TracedOp],
    readers: Sequence[Sequence[int]],
    right: Sequence[bool],
    near: Sequence[bool],
    off: Sequence[bool],
    limit: float,
) -> list[bool]:
    """Whether each op is right, or needed for one that is.

    A sum does not vouch for an operand that drowns in it, where the model has something near enough to compare that
    with; the pieces of a norm, of which it has none, are small beside their sum by right.
    """
    vouched = list(right)
    for index in reversed(range(len(ops))):
        for reader in readers[index] if not off[index] else ():
            summed = near[index] and right[reader] and _SUMS.search(ops[reader].kind)
            unseen = summed and _drowns(ops[index], ops[reader], limit)
            vouched[index] = vouched[index] or (vouched[reader] and not unseen)
    return vouched


def _drowns(operand: TracedOp, total: TracedOp, limit: float) -> bool:
    """Whether a sum is right within the limit although this operand may be wrong by a third of itself, or more.

    What is smaller than the limit does no harm if it is wrong altogether.
    """
    spread = total.value.size / max(operand.value.size, 1)  # how often a broadcast operand occurs in it
    whole = max(float(np.linalg.norm(unmasked(total.value))), 1e-30)
    share = float(np.linalg.norm(unmasked(operand.value))) * spread**0.5 / whole
    return bool(limit < share <= 3 * limit)


def _layers(
    ops: Sequence[TracedOp], matches: Sequence[Match | None], right: Sequence[bool], expected: Sequence[Expected]
) -> list[str]:
    """The place of each op: that of what it is like; else what the file says, or what the model has instead.

    The last is an op that no other op of the artefact stands for, and that reads what this one reads, of its kind if
    there is one.
    """
    places = _Places(expected)
    place = {op.name: index for index, op in enumerate(ops)}
    stood_for = {match.expected.name for match, fine in zip(matches, right, strict=True) if match and fine}
    layers: list[str] = []
    after = ""
    for index, op in reversed(list(enumerate(ops))):
        match = matches[index]
        if match is not None and right[index]:
            after = match.expected.place
        else:
            sources = [matches[place[name]] for name in op.reads if name in place]
            reads = {source.expected.name for source in sources if source and source.error < _PLAUSIBLE}
            instead = [
                each
                for each in expected
                if each.value.size == op.value.size and each.name not in stood_for and reads & {*each.reads}
            ]
            instead.sort(key=lambda each: not _alike(op, each))
            near = match.expected.place if match and match.error < _PLAUSIBLE else ""
            after = places.named(op.origin) or near or next((each.place for each in instead), "") or after
        layers.append(after)
    layers.reverse()
    for index, op in enumerate(ops):
        if _MOVERS.search(op.kind) and not right[index] and op.reads and op.reads[0] in place:
            layers[index] = layers[place[op.reads[0]]]
    return layers


class _Places:
    """Which place of the model a file's words name, if they name one."""

    def __init__(self, expected: Sequence[Expected]) -> None:
        self._nodes = {each.name: each.place for each in expected}
        paths = {each.place: _words(each.place.partition("/")[2]) for each in expected}
        self._paths = {place: words for place, words in paths.items() if words}

    def named(self, origin: str) -> str:
        """The place of the node that the words begin with, or the longest module path among them; else empty."""
        words = origin
        while words:
            if words in self._nodes:
                return self._nodes[words]
            words = words.rpartition("_")[0]
        found = [place for place, path in self._paths.items() if path in _words(origin)]
        return max(found, key=len, default="")


def _words(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", text)
