"""The tables of a report: every figure of the results as rows of text, from which all its pages are made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edgevlm.bench.report.answers import answers, estimated_answers, token_work
from edgevlm.bench.report.wording import (
    UNKNOWN,
    Names,
    banded,
    clean,
    cosine,
    count,
    megabytes,
    number,
    one_line,
    share,
)
from edgevlm.bench.results import (
    Artefact,
    Emulated,
    Estimated,
    Evidence,
    Failed,
    Measured,
    Result,
    evidence,
)
from edgevlm.inference.embeddings import CENTRED_COSINE
from edgevlm.onboard.figures import Counts, Memory, Spread


@dataclass(frozen=True)
class Column:
    """The heading of a column.

    Attributes:
        kind: `number`s stand at the right; `code` is to be copied as it is.
    """

    heading: str
    unit: str = ""
    kind: Literal["number", "words", "code"] = "number"


@dataclass(frozen=True)
class Cell:
    """One figure, or a few words.

    Attributes:
        full: What `text` is short for.
        evidence: How this very figure came about, where the row's others came about otherwise.
        best: Whether it is the best of its kind.
    """

    text: str
    full: str = ""
    evidence: Evidence | None = None
    best: bool = False


@dataclass(frozen=True)
class Row:
    """What is known of one artefact in one respect.

    Attributes:
        evidence: Of all its figures; None where they are of several kinds, or need none.
        name: The artefact.
        peer: Whether the artefact is another toolchain's.
    """

    evidence: Evidence | None
    name: Cell
    peer: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """Rows of one kind.

    Attributes:
        note: What the figures mean, in a sentence or two.
        subject: What each row is about: the heading of the names.
        folded: Whether a page may leave it closed until somebody asks.
    """

    title: str
    note: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    folded: bool = False
    subject: str = "artefact"


_COMPONENT = Column("component", kind="words")
_THREADS = Column("threads")
_FILLS = ("the fewest taken", "more taken", "the most taken")
"""Of a context's positions, when a token is asked for; a cell says how many."""


def device_tables(results: Sequence[Result], names: Names) -> tuple[Table, ...]:
    """All tables of one device that have rows; columns in which nothing is known are left out."""
    measured = [each for each in results if isinstance(each, Measured)]
    emulated = [each for each in results if isinstance(each, Emulated)]
    estimated = [each for each in results if isinstance(each, Estimated)]
    tables = (
        _answers(measured, names),
        _latency(measured, names),
        _estimated_answers(estimated, names),
        _estimates(estimated, names),
        _points(estimated, names),
        _stages(measured, names),
        _memory([each for each in results if isinstance(each, Measured | Emulated)], names),
        _token_work(emulated, names),
        _counts(emulated, names),
        _sustained([each for each in measured if each.sustained], names),
        _warnings(emulated, names),
        _failures([each for each in results if isinstance(each, Failed)], names),
        _commands([each for each in results if not isinstance(each, Failed)], names),
    )
    return tuple(_without_empty_columns(each) for each in tables if each.rows)


def artefact_table(names: Names) -> Table:
    """What ran: every artefact with its number in this report."""
    columns: tuple[Column, ...] = (Column("no."), *_words("file", "model", "target", "recipe"), Column("size", "MB"))
    columns += (Column("centred cosine"), Column("sha256", kind="code"))
    rows = tuple(
        row(
            None,
            each,
            names,
            str(names.number(each)),
            *(one_line(text) for text in (each.name, each.model, each.target, each.recipe)),
            Cell(megabytes(each.size_bytes), f"{count(each.size_bytes)} bytes"),
            cosine(each.accuracy),
            Cell(one_line(each.sha256)[:12], one_line(each.sha256)),
        )
        for each in names.artefacts
    )
    note = (
        f"Size is of the files that a runtime loads. {CENTRED_COSINE} It is the worse tower's, and compares recipes of "
        "one model, not models."
    )
    return Table("Artefacts", note, columns, rows)


def row(kind: Evidence | None, artefact: Artefact | None, names: Names, *cells: Cell | str) -> Row:
    """A row that begins with an artefact's name; with the whole device's where there is none."""
    made = tuple(each if isinstance(each, Cell) else Cell(each) for each in cells)
    if artefact is None:
        return Row(kind, Cell("the whole device"), False, made)
    full = f"{one_line(artefact.name)}, sha256 {one_line(artefact.sha256)}"
    return Row(kind, Cell(names.label(artefact), full), artefact.peer, made)


def _words(*headings: str) -> tuple[Column, ...]:
    return tuple(Column(each, kind="words") for each in headings)


def _milliseconds(*headings: str) -> tuple[Column, ...]:
    return tuple(Column(each, "ms") for each in headings)


def _answers(results: Sequence[Measured], names: Names) -> Table:
    """Of models that talk: what their parts come to."""
    columns: tuple[Column, ...] = (_THREADS, *_milliseconds("picture", "prompt", "first token"), Column("positions"))
    columns += tuple(Column(f"tokens a second, {fill}") for fill in _FILLS)
    rows = []
    for each in answers(results):
        picture = None if each.picture is None else each.picture.engine_ms.median
        times = (number(ms) for ms in (picture, each.prompt.engine_ms.median, each.first_token_ms))
        rates = _at_fills({fill: number(times.per_second) for fill, times in each.tokens.items()})
        cells = (str(each.threads or UNKNOWN), *times, count(each.prompt.positions), *rates)
        rows.append(row("measured", each.artefact, names, *cells))
    note = (
        "A question about a picture of 1280 x 960 pixels: all its tiles are encoded, then prompt and picture are put "
        "into the context, at which the first token is known. Whether each further one takes longer as the context "
        "fills depends on how the artefact looks back. The prompt's memory, below, has the picture's and the state's."
    )
    return Table("Answers", note, columns, tuple(rows))


def _estimated_answers(results: Sequence[Estimated], names: Names) -> Table:
    """Of models that talk: what their parts' estimates come to."""
    columns: tuple[Column, ...] = (_THREADS, *_milliseconds("first token"))
    columns += tuple(Column(f"tokens a second, {fill}") for fill in _FILLS)
    rows = []
    for each in estimated_answers(results):
        rates = _at_fills({fill: banded(band) for fill, band in each.tokens_per_second.items()})
        cells = (str(each.threads or UNKNOWN), banded(each.first_token_ms), *rates)
        rows.append(row("estimated", each.artefact, names, *cells))
    note = (
        "Nobody ran these; in brackets from where to where the device's figure is expected. A token reads weights and "
        "state from memory once, which is slower than computing with them on most devices; a picture is computed."
    )
    return Table("Estimated answers", note, columns, tuple(rows))


def _at_fills(figures: Mapping[int, str]) -> list[str]:
    """A cell for each of `_FILLS`, which says of how many positions it is."""
    said = [f"{figure} at {fill:,}" for fill, figure in figures.items()]
    return [*said, *[UNKNOWN] * len(_FILLS)][: len(_FILLS)]


def _token_work(results: Sequence[Emulated], names: Names) -> Table:
    """Of models that talk: what a token executes, as a line in the position."""
    columns = tuple(Column(f"instructions, {fill}", "million") for fill in _FILLS)
    columns += (Column("more, a thousand positions", "million"), Column("read", "MB"))
    rows = []
    for each in token_work(results):
        counted = _at_fills({fill: number(known / 1e6, 4) for fill, known in each.instructions.items()})
        slope = each.instructions_a_position
        more = UNKNOWN if slope is None else number(slope * 1e3 / 1e6)
        rows.append(row("emulated", each.artefact, names, *counted, more, megabytes(each.reads_bytes)))
    note = (
        "What one token makes one thread execute as the context fills: near zero more where the artefact looks at all "
        "places of its state, taken or not. Read are weights and state, from memory if they do not fit a cache."
    )
    return Table("A token", note, columns, tuple(rows))


def _latency(results: Sequence[Measured], names: Names) -> Table:
    columns: tuple[Column, ...] = (_COMPONENT, _THREADS)
    columns += _milliseconds("cold load", "first", "median", "p90", "p95", "min", "max")
    columns += (Column("a second"), Column("positions"), Column("runs"), Column("in page cache", "%"))
    rows = []
    for each in results:
        times, engine = each.times, each.times.engine_ms
        figures = (times.cold_load_ms, times.first_ms, engine.median, engine.p90, engine.p95, engine.min, engine.max)
        cells = [one_line(each.component), str(each.threads or UNKNOWN), *map(number, figures)]
        cells += [number(times.per_second) if engine.median else UNKNOWN, count(times.positions), count(engine.runs)]
        rows.append(row("measured", each.artefact, names, *cells, share(times.page_cache_share)))
    note = (
        "Cold load opens the artefact in a fresh process; the first inference packs weights; the rest is of the "
        "inferences after it, of several processes the middle one's. Threads are the CPU's."
    )
    return Table("Latency", note, columns, tuple(rows))


def _estimates(results: Sequence[Estimated], names: Names) -> Table:
    columns: tuple[Column, ...] = (_COMPONENT, _THREADS, *_milliseconds("low", "middle", "high"), *_words("bound by"))
    columns += (Column("left-one-out error", "%"), *_words("calibration points"))
    rows = []
    for each in results:
        band = map(number, (each.low_ms, each.middle_ms, each.high_ms))
        cells = [one_line(each.component), str(each.threads) if each.threads else each.unit.upper(), *band]
        points = _points_called(results)[each.calibration]
        rows.append(row("estimated", each.artefact, names, *cells, each.bound_by, share(each.error), points))
    note = (
        "Nobody ran these: the device's figure is expected between low and high. The error is the largest one when a "
        "calibration point was predicted from the others. Threads are the CPU's."
    )
    return Table("Estimated latency", note, columns, tuple(rows))


def _points(results: Sequence[Estimated], names: Names) -> Table:
    rows = tuple(
        row("estimated", None, names, called, one_line(point))
        for calibration, called in _points_called(results).items()
        for point in calibration
    )
    note = "Latencies that others measured and published, to which the estimates are fitted."
    return Table("Calibration points", note, _words("set", "point"), rows)


def _points_called(results: Sequence[Estimated]) -> dict[tuple[str, ...], str]:
    """A letter for each set of calibration points."""
    different = dict.fromkeys(each.calibration for each in results)
    return {each: chr(ord("A") + index) if each else "none" for index, each in enumerate(different)}


def _stages(results: Sequence[Measured], names: Names) -> Table:
    stages = ("decode", "resize", "tokenise", "model", "compare")
    columns: tuple[Column, ...] = (_COMPONENT, _THREADS)
    columns += _milliseconds(*(f"{stage}, {what}" for stage in stages for what in ("median", "p90")), "all medians")
    rows = []
    for each in results:
        found = each.times.stages
        if len(found) < 2:
            continue
        cells = [cell for stage in stages for cell in _stage(found.get(stage))]
        whole = number(sum(spread.median for spread in found.values()))
        rows.append(row("measured", each.artefact, names, one_line(each.component), str(each.threads), *cells, whole))
    note = (
        "From a JPEG of 1280 x 960 pixels, which is decoded and resized, or a text of a dozen words, which is "
        "tokenised, to the embedding's cosines with a hundred labels. All but the model is timed by itself, for 0.2 s "
        "in the first of the artefact's processes: Pillow, tokenizers and NumPy, with one thread."
    )
    return Table("Where the time goes", note, columns, tuple(rows))


def _stage(spread: Spread | None) -> tuple[Cell, Cell]:
    if spread is None:
        return Cell(UNKNOWN), Cell(UNKNOWN)
    full = f"p95 {number(spread.p95)}, min {number(spread.min)}, max {number(spread.max)}, {spread.runs} runs"
    return Cell(number(spread.median), full), Cell(number(spread.p90), full)


def _memory(results: Sequence[Measured | Emulated], names: Names) -> Table:
    columns: tuple[Column, ...] = (_COMPONENT, _THREADS)
    columns += tuple(Column(each, "MB") for each in ("own", "Python's", "both", "anonymous", "file-mapped"))
    columns += (*_words("fits"), Column("of memory", "MB"))
    rows = []
    for each in results:
        limit = each.memory_limit_bytes if isinstance(each, Emulated) else None
        fits = each.fits if isinstance(each, Emulated) else None
        if each.memory is None and fits is None:
            continue
        threads = str(each.threads) if isinstance(each, Measured) else "1"
        said = {True: "yes", False: "no", None: UNKNOWN}[fits]
        cells: tuple[Cell | str, ...] = (
            one_line(each.component),
            threads,
            *_memory_cells(each.memory),
            said,
            megabytes(limit),
        )
        rows.append(row(evidence(each), each.artefact, names, *cells))
    note = (
        "Peaks of a process with the one artefact. Its own is what opening and running it added, which an app has to "
        "find room for; in brackets what Python and its libraries had taken before. Of both together, anonymous memory "
        "cannot be dropped and counts against an app; mapped files the system may drop and read again."
    )
    return Table("Memory", note, columns, tuple(rows))


def _memory_cells(memory: Memory | None) -> tuple[Cell, ...]:
    if memory is None:
        return (Cell(UNKNOWN),) * 5
    own, both, anonymous, mapped = (
        Cell(megabytes(each), f"{count(each)} bytes")
        for each in (memory.own_bytes, memory.resident_bytes, memory.anonymous_bytes, memory.file_mapped_bytes)
    )
    before = memory.before_bytes
    python = Cell(f"({megabytes(before)})", f"{count(before)} bytes") if before else Cell(UNKNOWN)
    return own, python, both, anonymous, mapped


def _counts(results: Sequence[Emulated], names: Names) -> Table:
    columns: tuple[Column, ...] = (_COMPONENT, *_words("of", "CPU that was emulated"))
    millions = ("instructions", "float multiply-adds", "integer multiply-adds", "dot products", "matrix products")
    columns += tuple(Column(each, "million") for each in millions)
    columns += (Column("loaded", "MB"), Column("stored", "MB"))
    rows = []
    for each in results:
        cpu = one_line(each.cpu_model) + (f" for {one_line(each.stands_for)}" if each.stands_for else "")
        for what, counts in (("one inference", each.counts), ("opening and the first", each.load_counts)):
            if counts is not None:
                cells: tuple[Cell | str, ...] = (one_line(each.component), what, cpu, *_count_cells(counts))
                rows.append(row("emulated", each.artefact, names, *cells))
    note = (
        "What one thread executes, exactly. A multiply-add is counted for each lane of a vector; integer ones include "
        "those of dot and matrix products. Bytes are those of loads and stores, whichever cache they hit."
    )
    return Table("Counts", note, columns, tuple(rows))


def _count_cells(counts: Counts) -> tuple[Cell, ...]:
    millions = (
        counts.instructions,
        counts.float_multiply_adds,
        counts.integer_multiply_adds,
        counts.dot_products,
        counts.matrix_products,
    )
    sizes = (counts.bytes_loaded, counts.bytes_stored)
    cells = [Cell(number(each / 1e6, 4), count(each)) for each in millions]
    return (*cells, *(Cell(megabytes(each), f"{count(each)} bytes") for each in sizes))


def _sustained(results: Sequence[Measured], names: Names) -> Table:
    columns: tuple[Column, ...] = (
        _COMPONENT,
        _THREADS,
        Column("lasted", "s"),
        *_milliseconds("median at first", "median at last"),
    )
    columns += (Column("slower by", "%"), Column("hottest", "°C"), Column("lowest clock", "MHz"), *_words("throttled"))
    rows = []
    for each in results:
        sustained = each.sustained
        if sustained is None or not sustained.windows:
            continue
        windows = sustained.windows
        heat = [one.temperature_c for one in windows if one.temperature_c is not None]
        clock = [one.clock_mhz for one in windows if one.clock_mhz is not None]
        cells = [one_line(each.component), str(each.threads), number(windows[-1].at_seconds)]
        cells += [number(windows[0].median_ms), number(windows[-1].median_ms), share(sustained.slowdown - 1)]
        cells += [number(max(heat, default=None)), number(min(clock, default=None))]
        rows.append(row("measured", each.artefact, names, *cells, one_line(sustained.throttled or UNKNOWN)))
    note = "Inference without a pause; slower by compares the last tenth of the run with the first."
    return Table("Sustained", note, columns, tuple(rows))


def _warnings(results: Sequence[Emulated], names: Names) -> Table:
    rows = tuple(
        row("emulated", each.artefact, names, one_line(each.component), clean(warning))
        for each in results
        for warning in each.warnings
    )
    return Table("Warnings", "What is wrong with what was seen.", _words("component", "warning"), rows)


def _failures(results: Sequence[Failed], names: Names) -> Table:
    rows = tuple(
        row("none", each.artefact, names, one_line(each.component or UNKNOWN), clean(each.message), _hint(each))
        for each in results
    )
    return Table("Failures", "What gave no figure, and why.", _words("component", "message", "what to do"), rows)


def _hint(failed: Failed) -> str:
    return clean(failed.hint) if failed.hint else UNKNOWN


def _commands(results: Iterable[Measured | Emulated | Estimated], names: Names) -> Table:
    columns: tuple[Column, ...] = (
        _COMPONENT,
        _THREADS,
        Column("bundle's sha256", kind="code"),
        Column("command", kind="code"),
    )
    rows = []
    for each in results:
        threads = "1" if isinstance(each, Emulated) else str(each.threads or UNKNOWN)
        sha256 = one_line(each.artefact.sha256)
        cells = (one_line(each.component), threads, Cell(sha256[:12], sha256), clean(each.reproduce))
        rows.append(row(evidence(each), each.artefact, names, *cells))
    return Table("How to reproduce each row", "", columns, tuple(rows), folded=True)


def _without_empty_columns(table: Table) -> Table:
    kept = [
        index
        for index in range(len(table.columns))
        if any(each.cells[index].text not in (UNKNOWN, "") for each in table.rows)
    ]
    return replace(
        table,
        columns=tuple(table.columns[index] for index in kept),
        rows=tuple(replace(each, cells=tuple(each.cells[index] for index in kept)) for each in table.rows),
    )
