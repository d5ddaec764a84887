"""A report's content: results, grouped by device and put into words and tables, whatever the page is written in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edgevlm.bench.report.fronts import Point, Respect, best_known, fastest, front, points
from edgevlm.bench.report.summary import Summary, summarise
from edgevlm.bench.report.tables import Cell, Column, Row, Table, artefact_table, device_tables, row
from edgevlm.bench.report.wording import UNKNOWN, WORDS, Names, cosine, count, listed, megabytes, number, one_line
from edgevlm.bench.results import Artefact, Emulated, Measured, Result, evidence
from edgevlm.inference.embeddings import CENTRED_COSINE
from edgevlm.onboard.figures import System


@dataclass(frozen=True)
class Device:
    """What a report says of one device.

    Attributes:
        name: As it was asked for.
        title: What people call it; the name again where that is not known.
        where: What its figures come from, in a line; empty where nothing ran.
        machine: The same in full.
    """

    name: str
    title: str
    results: tuple[Result, ...]
    summary: Summary
    tables: tuple[Table, ...]
    where: str
    machine: Table | None


@dataclass(frozen=True)
class Report:
    """What a page says.

    Attributes:
        lead: How much there is, in a sentence.
        choices: For each component a table of artefacts against devices.
    """

    title: str
    lead: str
    names: Names
    devices: tuple[Device, ...]
    choices: tuple[Table, ...]
    artefacts: Table | None


def report(results: Sequence[Result], *, title: str, titles: Mapping[str, str] | None = None) -> Report:
    """Groups results, and puts them into words and tables.

    Args:
        results: In the order in which they are to be shown.
        title: Of the page.
        titles: What people call a device, by its name.
    """
    names = Names.of(each.artefact for each in results if each.artefact is not None)
    by_device = {
        name: tuple(each for each in results if each.device == name)
        for name in dict.fromkeys(each.device for each in results)
    }
    devices = tuple(
        Device(
            one_line(name),
            one_line((titles or {}).get(name, name)),
            own,
            summarise(own, names),
            (*_trade_offs(own, names), *device_tables(own, names)),
            _where(own),
            _machine(own),
        )
        for name, own in by_device.items()
    )
    artefacts = artefact_table(names) if names.artefacts else None
    choices = _choices(results, devices, names)
    return Report(one_line(title), _lead(results, devices, names), names, devices, choices, artefacts)


def _lead(results: Sequence[Result], devices: Sequence[Device], names: Names) -> str:
    if not results:
        return "There are no results."
    kinds = [(sum(evidence(each) == kind for each in results), word) for kind, word in WORDS.items()]
    told = listed([f"{several} {word}" for several, word in kinds if several])
    sizes = [(len(devices), "device"), (len(names.artefacts), "artefact")]
    what = listed([f"{several} {word}{'' if several == 1 else 's'}" for several, word in sizes if several])
    return f"{what}: {told} result{'' if len(results) == 1 else 's'}."


def _choices(results: Sequence[Result], devices: Sequence[Device], names: Names) -> tuple[Table, ...]:
    known = best_known(points(results))
    columns: tuple[Column, ...] = (
        Column("size", "MB"),
        Column("centred cosine"),
        *(Column(each.title, "ms") for each in devices),
    )
    tables = []
    for component in dict.fromkeys(each.component for each in known):
        own = [each for each in known if each.component == component]
        rows = tuple(
            row(
                None,
                artefact,
                names,
                megabytes(artefact.size_bytes),
                cosine(artefact.accuracy),
                *(_latency_cell(own, device.results[0].device, artefact) for device in devices),
            )
            for artefact in names.artefacts
            if any(each.artefact == artefact for each in own)
        )
        note = (
            "Median milliseconds of one inference at the thread count whose median is least; of an estimate, the "
            "middle and the band. Bold: the fastest of its model on that device, and what these figures cannot tell "
            f"from it, estimates aside where something was measured. {CENTRED_COSINE}"
        )
        tables.append(Table(one_line(component), note, columns, rows))
    return tuple(tables)


def _latency_cell(among: Sequence[Point], device: str, artefact: Artefact) -> Cell:
    there = [each for each in among if each.device == device and each.artefact.model == artefact.model]
    found = next((each for each in there if each.artefact == artefact), None)
    if found is None:
        return Cell(UNKNOWN)
    fair = [each for each in there if each.evidence == "measured"] or there
    best = fastest(fair)
    told_apart = len(fair) == 1 or len(best) < len(fair)
    return Cell(_told(found), evidence=found.evidence, best=told_apart and found in best)


def _told(point: Point) -> str:
    """Its milliseconds; an estimate's never without the band."""
    if point.evidence == "estimated":
        return f"{number(point.middle_ms)} ({number(point.low_ms)} to {number(point.high_ms)})"
    return number(point.middle_ms)


_RESPECTS: Mapping[str, tuple[Respect, ...]] = {
    "latency and size": ("latency", "size"),
    "latency and accuracy": ("latency", "accuracy"),
    "all three": ("latency", "size", "accuracy"),
}


def _trade_offs(results: Sequence[Result], names: Names) -> tuple[Table, ...]:
    known = best_known(points(results))
    if len(known) < 2:
        return ()
    fronts = {said: front(known, respects) for said, respects in _RESPECTS.items()}
    columns: tuple[Column, ...] = (
        Column("no."),
        Column("component", kind="words"),
        Column("latency", "ms"),
        Column("size", "MB"),
    )
    columns += (Column("centred cosine"), Column("unbeaten in", kind="words"))
    rows = tuple(
        row(
            each.evidence,
            each.artefact,
            names,
            str(names.number(each.artefact)),
            one_line(each.component),
            _told(each),
            megabytes(each.artefact.size_bytes),
            cosine(each.artefact.accuracy),
            ", ".join(said for said, kept in fronts.items() if each in kept) or UNKNOWN,
        )
        for each in known
    )
    note = (
        "Unbeaten: no other artefact of the same model here is at least as good in these respects and better in one by "
        f"more than the error. The numbers are those in the plots. {CENTRED_COSINE}"
    )
    return (Table("Trade-offs", note, columns, rows),)


def _where(results: Sequence[Result]) -> str:
    """Each machine in a few words."""
    systems = [each.system for each in results if isinstance(each, Measured | Emulated)]
    said = dict.fromkeys(
        ", ".join(
            word
            for word in map(
                one_line, (each.model, each.processor, f"{each.cores} cores", each.system, each.emulator or "")
            )
            if word
        )
        for each in systems
    )
    return "; ".join(said)


def _machine(results: Sequence[Result]) -> Table | None:
    """The machines that a device's figures come from, a column each: those that differ in more than load and heat."""
    found: dict[str, list[System]] = {}
    for each in results:
        if isinstance(each, Measured | Emulated):
            steady = replace(each.system, load=0.0, clock_mhz=None, temperature_c=None)
            key = f"{steady} {sorted(steady.versions.items())}"
            found.setdefault(key, []).append(each.system)
    if not found:
        return None
    described = [_describe(systems) for systems in found.values()]
    rows = tuple(
        Row(None, Cell(what), False, tuple(Cell(each.get(what, UNKNOWN)) for each in described))
        for what in dict.fromkeys(what for each in described for what in each)
        if any(each.get(what, UNKNOWN) != UNKNOWN for each in described)
    )
    one = len(described) == 1
    columns = tuple(
        Column("machine" if one else f"machine {index}", kind="words") for index in range(1, len(described) + 1)
    )
    return Table("Machine and versions", "", columns, rows, folded=True, subject="what")


def _describe(systems: Sequence[System]) -> dict[str, str]:
    one = systems[0]
    versions = sorted(one.versions.items())
    return {
        "model": one_line(one.model) or UNKNOWN,
        "processor": one_line(one.processor) or UNKNOWN,
        "architecture": one_line(one.architecture) or UNKNOWN,
        "cores": count(one.cores),
        "memory": f"{megabytes(one.memory_bytes)} MB",
        "system": one_line(one.system) or UNKNOWN,
        "Python": one_line(one.python) or UNKNOWN,
        "emulator": one_line(one.emulator or "") or UNKNOWN,
        "clock governor": one_line(one.governor or "") or UNKNOWN,
        "clock at most": UNKNOWN if one.most_clock_mhz is None else f"{number(one.most_clock_mhz)} MHz",
        "clock": _range([each.clock_mhz for each in systems], "MHz"),
        "temperature": _range([each.temperature_c for each in systems], "°C"),
        "busy processes": _range([each.load for each in systems], ""),
        **{f"{one_line(package)} (version)": one_line(version) for package, version in versions},
    }


def _range(values: Sequence[float | None], unit: str) -> str:
    known = [each for each in values if each is not None]
    if not known:
        return UNKNOWN
    ends = dict.fromkeys((number(min(known)), number(max(known))))
    return f"{' to '.join(ends)} {unit}".strip()
