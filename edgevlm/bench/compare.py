"""Two runs beside each other: what has grown, and whether that is a regression.

Counts and sizes are exact but for what Python does around a `.tflite` file, a few instructions in a thousand: one that
has grown by more than the limit is a regression. Times never are; they are shown as ratios, with what the two runs' own
spreads make of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgevlm import schema
from edgevlm.bench import results
from edgevlm.bench.results import Emulated, Failed, Measured, Result
from edgevlm.errors import InputError

Verdict = Literal["same", "better", "regression", "within the spread", "slower", "faster", "gone", "new"]


@dataclass(frozen=True)
class Change:
    """One figure in both runs.

    Attributes:
        what: Such as `instructions`.
        old, new: None where that run has no such figure.
        unit: Of both.
        low, high: For times, the ratio's range from the two spreads, each from the least to the 90th percentile.
        verdict: `regression` is what the gate is about; `slower` and `faster` are times whose spreads are apart.
    """

    device: str
    artefact: str
    component: str
    what: str
    old: float | None
    new: float | None
    unit: str
    verdict: Verdict
    low: float | None = None
    high: float | None = None

    @property
    def said(self) -> str:
        """The change in words."""
        where = f"{self.device}: {self.artefact}: {self.component}"
        return f"{where}: {self.what} {self.old:,.0f} -> {self.new:,.0f} {self.unit}".rstrip()

    @property
    def ratio(self) -> float | None:
        """New over old."""
        return None if self.old is None or self.new is None or not self.old else self.new / self.old


@dataclass(frozen=True)
class Comparison:
    """All changes, and what has gone wrong."""

    changes: tuple[Change, ...]
    problems: tuple[str, ...]

    @property
    def regressions(self) -> tuple[str, ...]:
        """Everything that fails the gate, in words."""
        return (*(each.said for each in self.changes if each.verdict == "regression"), *self.problems)


def parse_limit(text: str) -> float:
    """`1%` or `0.01` as a share.

    Raises:
        InputError: it is neither.
    """
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share < 10:
        raise InputError(f"--limit: expected a share such as 1% or 0.01, got {text!r}")
    return share


def compare(old: Path, new: Path, limit: float) -> Comparison:
    """Compares two `results.jsonl`.

    Args:
        old, new: The files.
        limit: Share by which a count or a size may grow.

    Raises:
        InputError: one is not readable, or they have nothing in common.
    """
    before, after = _by_subject(results.read(old)), _by_subject(results.read(new))
    if not set(before) & set(after):
        raise InputError(
            f"{old} and {new} have no device, bundle and component in common",
            hint="compare two runs of the same edgevlm bench command",
        )
    changes: list[Change] = []
    problems: list[str] = []
    for key in dict.fromkeys((*before, *after)):
        earlier, later = before.get(key), after.get(key)
        if earlier is None or later is None:
            present = earlier or later
            if present is not None:
                changes.append(_lone(present, "gone" if later is None else "new"))
        else:
            changes += _changes(earlier, later, limit)
    for result in results.read(new):
        problems += _problems(result)
    return Comparison(tuple(_sizes(before, after, limit)) + tuple(changes), tuple(problems))


def _by_subject(found: Sequence[Result]) -> dict[tuple[object, ...], Measured | Emulated]:
    """What is compared: estimates follow from counts."""
    return {results.subject(each): each for each in found if isinstance(each, Measured | Emulated)}


def _lone(result: Measured | Emulated, verdict: Verdict) -> Change:
    return Change(result.device, result.artefact.name, result.component, "all", None, None, "", verdict)


def _sizes(
    before: Mapping[tuple[object, ...], Measured | Emulated],
    after: Mapping[tuple[object, ...], Measured | Emulated],
    limit: float,
) -> Iterator[Change]:
    """Each artefact once."""
    old = {each.artefact.name: each.artefact.size_bytes for each in before.values()}
    for name, size in {each.artefact.name: each.artefact.size_bytes for each in after.values()}.items():
        if name in old:
            yield Change("any", name, "all", "size", old[name], size, "bytes", _exact(old[name], size, limit))


def _changes(old: Measured | Emulated, new: Measured | Emulated, limit: float) -> Iterator[Change]:
    names = (new.device, new.artefact.name, new.component)
    if isinstance(old, Measured) and isinstance(new, Measured):
        was, now = old.times.engine_ms, new.times.engine_ms
        low, high = now.min / was.p90, now.p90 / was.min
        verdict: Verdict = "slower" if low > 1 else "faster" if high < 1 else "within the spread"
        threads = f"{new.threads} {'thread' if new.threads == 1 else 'threads'}"
        yield Change(*names, f"median, {threads}", was.median, now.median, "ms", verdict, low, high)
    elif isinstance(old, Emulated) and isinstance(new, Emulated) and old.counts and new.counts:
        for field, was_count in schema.write(old.counts).items():
            now_count = schema.write(new.counts)[field]
            gated = field == "instructions"
            yield Change(*names, field, was_count, now_count, "", _exact(was_count, now_count, limit, gated=gated))


def _exact(old: float, new: float, limit: float, *, gated: bool = True) -> Verdict:
    if new > old * (1 + limit):
        return "regression" if gated else "same"
    return "better" if new < old * (1 - limit) else "same"


def _problems(result: Result) -> Iterator[str]:
    if isinstance(result, Failed):
        names = (result.device, result.artefact.name if result.artefact else None, result.component)
        where = ": ".join(name for name in names if name)
        yield f"{where}: failed: {result.message}"
    elif isinstance(result, Emulated):
        where = f"{result.device}: {result.artefact.name}: {result.component}"
        yield from (f"{where}: {warning}" for warning in result.warnings)
        if result.fits is False:
            yield f"{where}: does not fit into the device's memory"


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Every change with its ratio, and the regressions in words."""
    changes = [{**schema.write(each), "ratio": each.ratio} for each in comparison.changes]
    return {"changes": changes, "regressions": list(comparison.regressions)}
