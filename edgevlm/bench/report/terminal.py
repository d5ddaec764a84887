"""What a run found out, as a table in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgevlm.bench.compare import Comparison
from edgevlm.bench.report.answers import answers, estimated_answers
from edgevlm.bench.report.wording import banded, count, listed, number, own_memory, threads
from edgevlm.bench.results import Emulated, Estimated, Failed, Measured, Result, evidence
from edgevlm.inference.embeddings import CENTRED_COSINE
from edgevlm.onboard.figures import Times
from edgevlm.process import terminal

_BUSY_SHARE = 0.75
_COLOURS = {"measured": "green", "emulated": "cyan", "estimated": "yellow"}


def print_table(found: Sequence[Result]) -> None:
    """A row a result on stdout; failures and warnings in words on stderr."""
    order = list(dict.fromkeys(each.device for each in found))
    sorted_by_device = sorted(found, key=lambda each: order.index(each.device))
    rows = [_row(each) for each in sorted_by_device if not isinstance(each, Failed)]
    if rows:
        heads = ("device", "artefact", "component", ">threads", "evidence", "latency", "memory", "")
        terminal.table(None, heads, rows)
    for said in answers_in_words([each for each in sorted_by_device if isinstance(each, Measured)]):
        terminal.say(said)
    for said in estimates_in_words([each for each in sorted_by_device if isinstance(each, Estimated)]):
        terminal.say(said)
    for device, said in busy(found).items():
        terminal.say(f"{device}: {said}", err=True)
    for each in found:
        if isinstance(each, Failed):
            what = ": ".join(
                part for part in (each.device, each.artefact and each.artefact.name, each.component) if part
            )
            terminal.say(f"{what}: {each.message}", err=True)
            if each.hint:
                terminal.say(f"  try: {each.hint}", err=True)
        elif isinstance(each, Emulated):
            for warning in each.warnings:
                terminal.say(f"{each.device}: {each.artefact.name}: {each.component}: FAILED: {warning}", err=True)


def answers_in_words(found: Sequence[Measured]) -> Iterator[str]:
    """Of each model that talks, when its first token comes, and how many a second after it."""
    for each in answers(found):
        said = [f"a prompt of {positions(each.prompt)} takes {number(each.prompt.engine_ms.median)} ms"]
        if each.first_token_ms is not None:
            said.insert(0, f"the first token comes after {number(each.first_token_ms)} ms")
        rates = [f"{number(times.per_second)} at {fill:,}" for fill, times in each.tokens.items()]
        said += [f"tokens a second by how many there are: {listed(rates)}"] if rates else []
        yield f"{each.device}: {each.artefact.name}, {threads(each.threads)}: {'; '.join(said)}"


def estimates_in_words(found: Sequence[Estimated]) -> Iterator[str]:
    """The same of what is estimated, and from where to where it is expected."""
    for each in estimated_answers(found):
        said = []
        if each.first_token_ms is not None:
            band = each.first_token_ms
            said = [f"the first token after {number(band.middle)} ms ({number(band.low)} to {number(band.high)})"]
        rates = [f"{banded(band)} at {fill:,}" for fill, band in each.tokens_per_second.items()]
        said += [f"tokens a second by how many there are: {listed(rates)}"] if rates else []
        if said:
            yield f"{each.device}: {each.artefact.name}, {threads(each.threads)}, estimated: {'; '.join(said)}"


def positions(times: Times) -> str:
    """How many one inference puts into a context."""
    return f"{count(times.positions)} {'position' if times.positions == 1 else 'positions'}"


def busy(found: Sequence[Result]) -> dict[str, str]:
    """Devices that did other work in the minute before they were measured."""
    systems = {each.device: each.system for each in reversed(found) if isinstance(each, Measured)}
    return {
        device: f"it was busy before it was measured ({system.load:.1f} processes on {system.cores} cores): times are "
        "longer and vary more than on an idle one"
        for device, system in systems.items()
        if system.load > _BUSY_SHARE * system.cores
    }


def print_comparison(comparison: Comparison) -> None:
    """What has changed as a table on stdout, and the answer; regressions and what cannot be told on stderr."""
    colours = {"regression": "red", "cannot tell": "yellow", "slower": "yellow", "better": "green", "faster": "green"}
    rows: list[tuple[str | terminal.Cell, ...]] = []
    for each in comparison.changes:
        if each.verdict == "same" and each.time is None:
            continue
        ratio = "" if each.ratio is None else f"{each.ratio:.3f}x"
        if each.time is not None:
            ratio += f" ({each.interval})"
        verdict = terminal.Cell(each.verdict, colours.get(each.verdict, ""))
        figures = (f"{each.figure(value)} {each.unit}".strip() for value in (each.old, each.new))
        rows.append((each.device, each.artefact, each.component, each.what, *figures, ratio, verdict))
    if rows:
        terminal.table(None, ("device", "artefact", "component", "", ">old", ">new", "ratio", ""), rows)
    if any(each.what == "centred cosine" and each.verdict != "same" for each in comparison.changes):
        terminal.say(CENTRED_COSINE)
    for said in comparison.regressions:
        terminal.say(f"REGRESSION: {said}", err=True)
    for said in comparison.unknown:
        terminal.say(f"CANNOT TELL: {said}", err=True)
    same = sum(each.verdict == "same" for each in comparison.changes)
    terminal.say(f"{same} of {len(comparison.changes)} figures are the same; {_answer(comparison)}")


def _answer(comparison: Comparison) -> str:
    regressions, unknown = len(comparison.regressions), len(comparison.unknown)
    if not regressions and not unknown:
        return "no regressions"
    found = [f"{regressions} regression{'' if regressions == 1 else 's'}"] if regressions else []
    found += [f"cannot tell of {unknown} time{'' if unknown == 1 else 's'}"] if unknown else []
    return ", ".join(found)


def _row(result: Measured | Emulated | Estimated) -> tuple[str | terminal.Cell, ...]:
    kind = evidence(result)
    threads = "1" if isinstance(result, Emulated) else str(result.threads or "")
    names = (result.device, result.artefact.name, result.component)
    return (*names, threads, terminal.Cell(kind, _COLOURS[kind]), *_figures(result))


def _figures(result: Measured | Emulated | Estimated) -> tuple[str, str, str]:
    """Latency, memory, and what else there is to say."""
    if isinstance(result, Measured):
        times, memory = result.times, result.memory
        latency = f"{times.engine_ms.median:.3g} ms (p95 {times.engine_ms.p95:.3g})"
        said = f"cold load {times.cold_load_ms:.3g} ms, first {times.first_ms:.3g} ms"
        if result.sustained:
            said += f", {result.sustained.slowdown:.2f}x at the end of the sustained run"
        if times.positions:
            said += f", {positions(times)}, {number(times.positions * times.per_second)} a second"
        around = [f"{name} {each.median:.3g}" for name, each in times.stages.items() if name != "model"]
        said += f"; around it {', '.join(around)} ms" if around else ""
        return latency, "" if memory is None else own_memory(memory), said
    if isinstance(result, Estimated):
        return (
            f"{result.middle_ms:.3g} ms ({result.low_ms:.3g} to {result.high_ms:.3g})",
            "",
            f"bound by {result.bound_by}",
        )
    memory = result.memory
    peak = "" if memory is None else own_memory(memory)
    facts = []
    if result.counts:
        facts.append(f"{result.counts.instructions / 1e6:.4g} M instructions")
    if result.fits is not None and result.memory_limit_bytes is not None:
        facts.append(f"{'fits' if result.fits else 'does NOT fit'} in {result.memory_limit_bytes / 1e6:,.0f} MB")
    return "", peak, ", ".join(facts)
