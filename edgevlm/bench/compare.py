"""Two runs beside each other: what has grown, and whether that is a regression.

Regressions, which fail the gate: an instruction count or a size that has grown by more than the limit, both exact but
for what Python does around a `.tflite` file, a few instructions in a thousand; peak memory that has grown by more than
the limit and by `MEMORY_SHARE` and `MEMORY_BYTES` besides, since it is sampled; accuracy that has dropped by more than
`ACCURACY_DROP`; a result that is gone; a failure, a warning or a "does not fit" that was not there before; and a median
time of which `edgevlm.bench.ratios` knows that it has grown by more than a limit of its own. Where that is not known,
nor that it has not, the answer is that nobody can tell, which is neither. Estimates follow from counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgevlm import schema
from edgevlm.bench import results
from edgevlm.bench.ratios import Ratio, ratio
from edgevlm.bench.results import Emulated, Failed, Measured, Result, evidence
from edgevlm.errors import InputError

Verdict = Literal["same", "better", "regression", "cannot tell", "slower", "faster", "new"]
TIME_LIMIT = 0.05
MEMORY_SHARE, MEMORY_BYTES = 0.05, 1_000_000
ACCURACY_DROP = 0.001


@dataclass(frozen=True)
class Change:
    """One figure in both runs.

    Attributes:
        what: Such as `instructions`.
        old, new: None where that run has no such figure.
        unit: Of both.
        verdict: `regression` is what the gate is about; `slower` and `faster` are times that differ within the limit.
        time: Of a time, where the ratio lies.
    """

    device: str
    artefact: str
    component: str
    what: str
    old: float | None
    new: float | None
    unit: str
    verdict: Verdict
    time: Ratio | None = None

    @property
    def said(self) -> str:
        """The change in words."""
        where = f"{self.device}: {self.artefact}: {self.component}"
        figures = " -> ".join(map(self.figure, (self.old, self.new)))
        time = "" if self.time is None else "; ".join((f": {self.interval}", *self.time.caveats))
        return f"{where}: {self.what} {figures} {self.unit}".rstrip() + time

    def figure(self, value: float | None) -> str:
        """One of the two in digits; a count and a size to the last one."""
        if value is None:
            return ""
        return f"{value:.4g}" if self.time else f"{value:,.0f}" if value > 1 else f"{value:.6f}"

    @property
    def interval(self) -> str:
        """Where a time's ratio lies."""
        return "" if self.time is None else f"{self.time.low:.3g}x to {self.time.high:.3g}x"

    @property
    def ratio(self) -> float | None:
        """New over old."""
        if self.time is not None:
            return self.time.middle
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

    @property
    def unknown(self) -> tuple[str, ...]:
        """Times of which nobody can tell whether they are regressions, in words."""
        return tuple(each.said for each in self.changes if each.verdict == "cannot tell")

    @property
    def answer(self) -> Literal["regression", "cannot tell", "no regression"]:
        """What the gate says."""
        return "regression" if self.regressions else "cannot tell" if self.unknown else "no regression"


def compare(old: Path, new: Path, limit: float, time_limit: float = TIME_LIMIT) -> Comparison:
    """Compares two `results.jsonl`.

    Args:
        old, new: The files.
        limit: Share by which a count or a size may grow.
        time_limit: Share by which a median time may grow.

    Raises:
        InputError: one is not readable, or they have nothing in common.
    """
    earlier, later = results.read(old), results.read(new)
    before, after = _by_subject(earlier), _by_subject(later)
    if not set(before) & set(after):
        raise InputError(
            f"{old} and {new} have no device, bundle and component in common",
            hint="compare two runs of the same edgevlm bench command",
        )
    changes = [*_artefacts(before, after, limit)]
    known = {problem for result in earlier for problem in _problems(result)}
    problems = [problem for result in later for problem in _problems(result) if problem not in known]
    for key, was in before.items():
        now = after.get(key)
        if now is None:
            problems.append(f"{was.device}: {was.artefact.name}: {was.component}: {evidence(was)} before, and gone")
        else:
            changes += _changes(was, now, limit, time_limit)
            problems += _gone(was, now)
    changes += [_new(now) for key, now in after.items() if key not in before]
    return Comparison(tuple(changes), tuple(problems))


def _by_subject(found: Sequence[Result]) -> dict[tuple[object, ...], Measured | Emulated]:
    """What is compared: estimates follow from counts."""
    return {results.subject(each): each for each in found if isinstance(each, Measured | Emulated)}


def _new(result: Measured | Emulated) -> Change:
    return Change(result.device, result.artefact.name, result.component, "all", None, None, "", "new")


def _artefacts(
    before: Mapping[tuple[object, ...], Measured | Emulated],
    after: Mapping[tuple[object, ...], Measured | Emulated],
    limit: float,
) -> Iterator[Change]:
    """Size and accuracy of each artefact, once a device."""
    old = {(each.device, each.artefact.name): each.artefact for each in before.values()}
    for (device, name), now in {(each.device, each.artefact.name): each.artefact for each in after.values()}.items():
        was = old.get((device, name))
        if was is None:
            continue
        verdict = _exact(was.size_bytes, now.size_bytes, limit)
        yield Change(device, name, "all", "size", was.size_bytes, now.size_bytes, "bytes", verdict)
        if was.accuracy is not None and now.accuracy is not None:
            drop = was.accuracy - now.accuracy
            verdict = "regression" if drop > ACCURACY_DROP else "better" if drop < -ACCURACY_DROP else "same"
            yield Change(device, name, "all", "centred cosine", was.accuracy, now.accuracy, "", verdict)


def _changes(old: Measured | Emulated, new: Measured | Emulated, limit: float, time_limit: float) -> Iterator[Change]:
    names = (new.device, new.artefact.name, new.component)
    if isinstance(old, Measured) and isinstance(new, Measured):
        time = ratio(old, new)
        threads = f"median, {new.threads} {'thread' if new.threads == 1 else 'threads'}"
        was, now = old.times.engine_ms.median, new.times.engine_ms.median
        yield Change(*names, threads, was, now, "ms", time.verdict(time_limit), time)
    if old.memory is not None and new.memory is not None:
        was_bytes, now_bytes = old.memory.anonymous_bytes, new.memory.anonymous_bytes
        share = max(limit, MEMORY_SHARE)
        grown = now_bytes > was_bytes * (1 + share) and now_bytes - was_bytes > MEMORY_BYTES
        verdict = "regression" if grown else _exact(was_bytes, now_bytes, share, gated=False)
        yield Change(*names, "anonymous memory", was_bytes, now_bytes, "bytes", verdict)
    if isinstance(old, Emulated) and isinstance(new, Emulated) and old.counts and new.counts:
        for field, was_count in schema.write(old.counts).items():
            now_count = schema.write(new.counts)[field]
            gated = field == "instructions"
            yield Change(*names, field, was_count, now_count, "", _exact(was_count, now_count, limit, gated=gated))


def _gone(old: Measured | Emulated, new: Measured | Emulated) -> Iterator[str]:
    """Figures that there were, and are no more: of those nothing can be told, which must not pass for the same."""
    had, has = _figures(old), _figures(new)
    for figure, value in had.items():
        if value is not None and has.get(figure) is None:
            yield f"{old.device}: {old.artefact.name}: {old.component}: {figure} before, and gone"


def _figures(result: Measured | Emulated) -> dict[str, object]:
    """What a result may have, or not."""
    found: dict[str, object] = {"centred cosine": result.artefact.accuracy, "memory": result.memory}
    if isinstance(result, Emulated):
        found |= {"counts of opening": result.load_counts, "whether it fits": result.fits}
    return found


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
    """The answer, every change with its ratio, and in words the regressions and the times that are unknown."""
    return {
        "answer": comparison.answer,
        "changes": [{**schema.write(each), "ratio": each.ratio} for each in comparison.changes],
        "regressions": list(comparison.regressions),
        "cannot_tell": list(comparison.unknown),
    }
