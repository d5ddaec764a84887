"""What a run found out, as a table in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

import click

from edgevlm import report
from edgevlm.bench.compare import Comparison
from edgevlm.bench.results import Emulated, Estimated, Failed, Measured, Result, evidence

_COLOURS = {"measured": "green", "emulated": "cyan", "estimated": "yellow"}


def print_table(found: Sequence[Result]) -> None:
    """A row a result on stdout; failures and warnings in words on stderr."""
    rows = [_row(each) for each in found if not isinstance(each, Failed)]
    if rows:
        heads = ("device", "artefact", "component", ">threads", "evidence", "latency", "memory", "")
        report.table(None, heads, rows)
    for each in found:
        if isinstance(each, Failed):
            what = ": ".join(
                part for part in (each.device, each.artefact and each.artefact.name, each.component) if part
            )
            click.echo(f"{what}: {each.message}", err=True)
            if each.hint:
                click.echo(f"  try: {each.hint}", err=True)
        elif isinstance(each, Emulated):
            for warning in each.warnings:
                click.echo(f"{each.device}: {each.artefact.name}: {each.component}: FAILED: {warning}", err=True)


def print_comparison(comparison: Comparison) -> None:
    """The changes as a table on stdout, the regressions on stderr."""
    from rich.markup import escape

    colours = {"regression": "red", "slower": "yellow", "better": "green", "faster": "green"}
    rows = []
    for each in comparison.changes:
        ratio = "" if each.ratio is None else f"{each.ratio:.3f}x"
        if each.low is not None and each.high is not None:
            ratio += f" ({each.low:.2f} to {each.high:.2f})"
        figures = ["" if value is None else f"{value:,.4g} {each.unit}".strip() for value in (each.old, each.new)]
        verdict = f"[{colours[each.verdict]}]{each.verdict}[/]" if each.verdict in colours else each.verdict
        names = map(escape, (each.device, each.artefact, each.component, each.what))
        rows.append((*names, *figures, ratio, verdict))
    report.table(None, ("device", "artefact", "component", "", ">old", ">new", "ratio", ""), rows)
    for regression in comparison.regressions:
        click.echo(f"REGRESSION: {regression}", err=True)


def _row(result: Measured | Emulated | Estimated) -> tuple[str, ...]:
    from rich.markup import escape

    kind = evidence(result)
    threads = "1" if isinstance(result, Emulated) else str(result.threads)
    names = tuple(map(escape, (result.device, result.artefact.name, result.component)))
    return (*names, threads, f"[{_COLOURS[kind]}]{kind}[/]", *_figures(result))


def _figures(result: Measured | Emulated | Estimated) -> tuple[str, str, str]:
    """Latency, memory, and what else there is to say."""
    if isinstance(result, Measured):
        times, memory = result.times, result.memory
        latency = f"{times.engine_ms.median:.3g} ms (p95 {times.engine_ms.p95:.3g})"
        said = f"cold load {times.cold_load_ms:.3g} ms, first {times.first_ms:.3g} ms"
        if result.sustained:
            said += f", {result.sustained.slowdown:.2f}x at the end of the sustained run"
        return latency, "" if memory is None else _memory(memory.anonymous_bytes, memory.file_mapped_bytes), said
    if isinstance(result, Estimated):
        return (
            f"{result.middle_ms:.3g} ms ({result.low_ms:.3g} to {result.high_ms:.3g})",
            "",
            f"bound by {result.bound_by}",
        )
    memory = result.memory
    peak = "" if memory is None else _memory(memory.anonymous_bytes, memory.file_mapped_bytes)
    facts = []
    if result.counts:
        facts.append(f"{result.counts.instructions / 1e6:.4g} M instructions")
    if result.fits is not None and result.memory_limit_bytes is not None:
        facts.append(f"{'fits' if result.fits else 'does NOT fit'} in {result.memory_limit_bytes / 2**20:.0f} MiB")
    return "", peak, ", ".join(facts)


def _memory(anonymous_bytes: int, file_mapped_bytes: int) -> str:
    return f"{anonymous_bytes / 1e6:.1f} MB + {file_mapped_bytes / 1e6:.1f} mapped"
