"""Benchmark pages say everything that the results say, and only that."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import bench_results
import pytest

from edgevlm.bench.report import curves
from edgevlm.bench.report.charts import memory_chart
from edgevlm.bench.report.content import report
from edgevlm.bench.report.fronts import fastest as fastest_of
from edgevlm.bench.report.fronts import front, points, ranked
from edgevlm.bench.report.markdown import write_markdown
from edgevlm.bench.report.page import write_page
from edgevlm.bench.report.svg import scale
from edgevlm.bench.report.wording import GLYPHS, MEANINGS, WORDS, Names, clean, cosine, megabytes, number
from edgevlm.bench.results import Emulated, Estimated, Failed, Measured, Process, Result, evidence
from edgevlm.inference.embeddings import CENTRED_COSINE

CASES = bench_results.CASES


class Parsed(HTMLParser):
    """What an HTML page holds: its tags, its table rows with their evidence, its text and its text alternatives."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[tuple[str | None, list[str]]] = []
        self.text = ""
        self.open: list[str] = []
        self._cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "line", "rect", "circle", "path", "polygon", "polyline"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append((dict(attrs).get("data-evidence"), []))
        if tag in ("td", "th"):
            self.rows[-1][1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            assert self.open.pop() == tag, f"</{tag}> closes something else"
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._cell:
            self.rows[-1][1][-1] += data


def html(results: Sequence[Result], folder: Path) -> str:
    return shown(write_page, results, folder / "page.html")


def markdown(results: Sequence[Result], folder: Path) -> str:
    return shown(write_markdown, results, folder / "page.md")


_shown: dict[tuple[Any, int], tuple[Sequence[Result], str]] = {}
"""By what wrote a page, and the identity of the results, which are kept so that no others get it."""


def shown(write: Callable[..., None], results: Sequence[Result], path: Path) -> str:
    """The page, which is written once for each of `CASES`."""
    if (write, id(results)) not in _shown:
        write(results, path, title="Figures of devices")
        _shown[write, id(results)] = results, path.read_text(encoding="utf-8")
    return _shown[write, id(results)][1]


def figures(result: Result) -> list[str]:
    """What a page must say of a result."""
    if isinstance(result, Measured):
        times, engine = result.times, result.times.engine_ms
        shown = [times.cold_load_ms, times.first_ms, engine.median, engine.p90, engine.p95, engine.min, engine.max]
        shown += [each.median for each in times.stages.values()]
        said = [number(each) for each in (*shown, times.per_second)]
    elif isinstance(result, Estimated):
        said = [number(each) for each in (result.low_ms, result.middle_ms, result.high_ms)]
        said += [result.bound_by, f"{result.error:.0%}"[:-1]]
    elif isinstance(result, Emulated):
        counts = [each for each in (result.counts, result.load_counts) if each]
        said = [number(each.instructions / 1e6, 4) for each in counts]
        said += [number(each.float_multiply_adds / 1e6, 4) for each in counts]
        said += [megabytes(each.bytes_loaded) for each in counts] + [*result.warnings]
        said.append(f"{result.cpu_model} for {result.stands_for}")
    else:
        return [result.message.split("\n")[0], *([result.hint] if result.hint else [])]
    if not isinstance(result, Estimated) and result.memory:
        memory = result.memory
        sizes = (memory.own_bytes, memory.resident_bytes, memory.anonymous_bytes, memory.file_mapped_bytes)
        said += [*map(megabytes, sizes), f"({megabytes(memory.before_bytes)})"]
    return [*said, result.reproduce, result.artefact.sha256[:12]]


def section(page: str, device: str) -> str:
    """What the Markdown page says of one device."""
    return next(each for each in page.split("\n## ") if each.startswith(f"{device}\n"))


@pytest.mark.parametrize("case", ["realistic", "many"])
def test_every_figure_of_every_result_is_in_both_pages(case: str, tmp_path: Path) -> None:
    results = CASES[case]
    names = Names.of(each.artefact for each in results if each.artefact)
    _, *parts = re.split(r'<section id="device-\d+">', html(results, tmp_path))
    words = markdown(results, tmp_path)
    for device, part in zip(dict.fromkeys(each.device for each in results), parts, strict=True):
        rows = Parsed(part).rows
        lines = section(words, device).split("\n")
        for result in (each for each in results if each.device == device):
            name = names.label(result.artefact) if result.artefact else "the whole device"
            word = WORDS[evidence(result)]
            own = [cells for kind, cells in rows if kind == word and cells[0] in (name + word, f"{name} peer{word}")]
            own = [cells for cells in own if result.component in (None, *cells)]
            told = " | ".join(each for each in lines if each.startswith(f"| {name} ") and f" {word} |" in each)
            shown = {line for cells in own for cell in cells for line in cell.split("\n")}
            for said in figures(result):
                assert said in shown, (result, said)
                assert said in told, (result, said)
            for point in result.calibration if isinstance(result, Estimated) else ():
                assert [cells for _, cells in rows if cells[-1] == point and cells[0].startswith("the whole device")]
                assert any(point in each for each in lines)


def test_the_figures_of_one_result_stand_in_its_row(tmp_path: Path) -> None:
    results = CASES["realistic"]
    names = Names.of(each.artefact for each in results if each.artefact)
    result = next(each for each in results if isinstance(each, Measured) and each.threads == 4)
    engine = result.times.engine_ms
    (row,) = (
        cells
        for kind, cells in Parsed(html(results, tmp_path)).rows
        if kind == "measured" and {number(engine.p95), number(engine.p90), number(engine.max)} <= set(cells)
    )
    assert row[0] == names.label(result.artefact) + "measured"
    assert row[1:6] == ["encode_image", "4", number(result.times.cold_load_ms), number(result.times.first_ms),
                        number(engine.median)]  # fmt: skip


def test_both_pages_have_the_same_tables(tmp_path: Path) -> None:
    results = CASES["realistic"]
    lines = [each for each in markdown(results, tmp_path).split("\n") if each.startswith("| ") and "---" not in each]
    key_figures = 1 + sum(len(each.summary.figures) for each in report(results, title="").devices)
    assert len(lines) - key_figures == len(Parsed(html(results, tmp_path)).rows)


def test_each_row_has_its_badge_and_no_emulated_row_a_time(tmp_path: Path) -> None:
    page = Parsed(html(CASES["realistic"], tmp_path))
    marked = [(kind, cells) for kind, cells in page.rows if kind]
    assert {kind for kind, _ in marked} == set(WORDS.values())
    for kind, cells in marked:
        assert cells[0].endswith(kind or "")
        if kind == "emulated":
            assert not re.search(r"\bms\b|millisecond", " ".join(cells))
    # The headings above emulated rows count no time either.
    columns: list[str] = []
    for kind, cells in page.rows:
        if cells[0] in ("artefact", "what"):
            columns = cells
        elif kind == "emulated":
            assert not any(each.endswith(" ms") for each in columns)
    assert all(meaning in page.text for meaning in MEANINGS.values())


def test_markdown_rows_carry_their_badges(tmp_path: Path) -> None:
    page = markdown(CASES["realistic"], tmp_path)
    assert all(f"| {GLYPHS[kind]} {word} |" in page for kind, word in WORDS.items())
    widths = [len(re.findall(r"(?<!\\)\|", each)) for each in page.split("\n")]
    for before, after in pairwise(widths):
        assert before == after or 0 in (before, after)  # a table's rows are equally long


@pytest.mark.parametrize("case", CASES)
def test_a_page_needs_nothing_else_and_harms_nobody(case: str, tmp_path: Path) -> None:
    text = html(CASES[case], tmp_path)
    page = Parsed(text)
    assert page.open == []
    assert "<script" not in text
    assert not {"script", "link", "iframe", "img", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not any(name.startswith("on") or name in ("src", "style") for name in attributes)
        assert (attributes.get("href") or "#").startswith("#")
    assert "url(" not in text
    assert "@import" not in text
    plots = [attributes for tag, attributes in page.tags if tag == "svg" and attributes.get("role") == "img"]
    assert all(each["aria-label"] for each in plots)
    assert len(plots) == sum(tag == "title" for tag, _ in page.tags) - 1
    assert len({attributes["id"] for _, attributes in page.tags if "id" in attributes}) == len(
        {each.device for each in CASES[case]}
    )


def test_hostile_names_are_shown_as_they_are(tmp_path: Path) -> None:
    page = Parsed(html(CASES["hostile"], tmp_path))
    for text in bench_results.HOSTILE:
        assert " ".join(clean(text).split()) in page.text
    assert "\\u202eright to left\\u0000\\u0007\\ud800" in page.text
    words = markdown(CASES["hostile"], tmp_path)
    outside = re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", words)  # code is shown as it stands
    assert "<script" not in outside
    assert "<img" not in outside
    assert "http://" not in outside
    assert "[link]" not in outside.replace("\\[", "").replace("\\]", "")
    assert "\n# head" not in words


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    assert html(bench_results.realistic(), tmp_path) == html(bench_results.realistic(), tmp_path)
    assert markdown(bench_results.realistic(), tmp_path) == markdown(bench_results.realistic(), tmp_path)
    assert not re.search(r"\b20\d\d-\d\d-\d\d\b", html(bench_results.realistic(), tmp_path))


def test_empty_and_failed_results_say_so(tmp_path: Path) -> None:
    assert "There are no results." in html((), tmp_path)
    assert "There are no results." in markdown((), tmp_path)
    page = Parsed(html(CASES["failures"], tmp_path))
    assert "nothing can be estimated: no calibration point" in page.text
    assert "1 of 1 results failed" in page.text
    assert not any("role" in attributes and tag == "svg" for tag, attributes in page.tags)


def test_the_summary_names_who_leads() -> None:
    devices = {each.name: each.summary for each in report(CASES["realistic"], title="").devices}
    pi = {each.title: each for each in devices["raspberry-pi-5"].figures}
    times = [each for each in points(CASES["realistic"]) if each.device == "raspberry-pi-5"]
    ours = [each for each in times if each.component == "encode_image" and not each.artefact.peer]
    assert pi["fastest at encode_image"].value == number(min(each.middle_ms for each in ours))
    assert pi["fastest at encode_image"].evidence == "measured"
    assert pi["smallest"].value == megabytes(min(each.artefact.size_bytes for each in ours))
    assert pi["failed"].value == "1 of 73"
    jetson = {each.title: each for each in devices["jetson-orin-nano"].figures}
    assert (jetson["fits"].value, jetson["fits"].evidence) == ("8 of 10", "emulated")
    assert jetson["fastest at encode_image"].evidence == "estimated"
    assert any("overlap" in each for each in jetson["fastest at encode_image"].details)
    assert "probably the fastest" not in devices["jetson-orin-nano"].words
    assert "no difference that the estimates can tell" in devices["jetson-orin-nano"].words
    assert "is probably the fastest at encode_image" in devices["galaxy-s23"].words
    pixel = {each.title: each for each in devices["pixel-3a"].figures}
    assert pixel["fewest instructions for encode_image"].unit == "million"


def raced(*each_ms: tuple[str, float], spread: float = 0.01) -> tuple[Measured, ...]:
    """Recipes with the medians of three processes each, which differ by this share."""
    found = []
    for recipe, median_ms in each_ms:
        one = bench_results.measured("board", bench_results.artefact(recipe, "tflite"), "encode_image", 1, median_ms)
        times_ms = [median_ms * share for share in (1 - spread, 1.0, 1 + spread)]
        found.append(replace(one, processes=tuple(Process(each, 20, 1.3) for each in times_ms)))
    return tuple(found)


def test_what_cannot_be_told_apart_has_no_rank(tmp_path: Path) -> None:
    results = raced(("int8", 10.2), ("fp32", 10.0), ("fp16", 10.1), spread=0.05)
    content = report(results, title="")
    (device,) = content.devices
    fastest = device.summary.figures[0]
    assert (fastest.title, fastest.value, fastest.who) == ("fastest at encode_image", "10.0 to 10.2", "all 3 artefacts")
    assert fastest.details == ("no difference that these runs can tell",)
    assert "all 3 artefacts, no difference that these runs can tell" in device.summary.words
    assert not re.search(r"times as fast|is the fastest", html(results, tmp_path) + markdown(results, tmp_path))
    assert not any(row.cells[-1].best for row in content.choices[0].rows)
    assert [each.artefact.recipe for each in ranked(points(results))] == ["int8", "fp32", "fp16"]
    assert re.findall(r">([\w-]+) · tflite</text>", html(results, tmp_path))[:3] == ["int8", "fp32", "fp16"]


def test_what_is_surely_faster_leads() -> None:
    results = raced(("fp32", 10.0), ("fp16", 9.9), ("int8", 5.0), ("int8-static", 5.1), ("int4-weights", 2.0))
    (device,) = report(results[:2] + results[4:], title="").devices
    fastest = device.summary.figures[0]
    assert (fastest.value, fastest.who) == ("2.00", "int4-weights · tflite")
    assert "5.0 times as fast as fp32" in fastest.details
    known = points(results)
    assert [each.artefact.recipe for each in ranked(known)] == ["int4-weights", "int8", "int8-static", "fp32", "fp16"]
    assert [each.artefact.recipe for each in fastest_of(known[:4])] == ["int8", "int8-static"]
    # Two of a pair that cannot be told apart, of which one is larger: neither is surely beaten.
    assert [each.artefact.recipe for each in front(known[2:4], ("latency",))] == ["int8", "int8-static"]
    once = [replace(each, processes=each.processes[:1]) for each in results]
    assert len(fastest_of(points(once[:4]))) == 4  # of one process each hardly anything is known
    (said,) = (each for each in report(once[:4], title="").devices[0].summary.figures if each.name == "fastest")
    assert "a rough figure, of too few processes (1 and 1)" in said.details


def test_accuracy_counts_where_it_differs() -> None:
    one, other = raced(("fp32", 10.0), ("fp16", 4.0))  # whose cosines are 1 and 0.999998
    assert "least accurate" not in report((one, other), title="").devices[0].summary.words
    worse = replace(other, artefact=replace(other.artefact, accuracy=0.99))
    assert "fp16 · tflite is the fastest at encode_image, the smallest and the least accurate" in (
        report((one, worse), title="").devices[0].summary.words
    )


def test_counts_that_differ_by_less_than_their_error_have_no_rank() -> None:
    base = bench_results.emulated("board", bench_results.artefact("fp32", "tflite"), "encode_image")
    assert base.counts is not None
    close = replace(base.counts, instructions=base.counts.instructions * 1002 // 1000)
    other = replace(base, artefact=bench_results.artefact("fp16", "tflite"), counts=close)
    (figure, *_) = report((base, other), title="").devices[0].summary.figures
    assert (figure.name, figure.who) == ("fewest instructions", "both artefacts")
    assert figure.details[0] == "no difference beyond the counts' error"


def test_a_card_says_where_the_time_goes(tmp_path: Path) -> None:
    results = (
        bench_results.measured("board", bench_results.artefact("int8", "tflite"), "encode_image", 1, 10.0),
        bench_results.measured("board", bench_results.artefact("int8", "tflite"), "encode_text", 1, 2.0),
    )
    figures = {each.title: each for each in report(results, title="").devices[0].summary.figures}
    spent = figures["where the time goes in encode_image"]
    assert (spent.value, spent.unit, spent.evidence) == (number(8.7 + 3.21 + 10.0 + 0.021), "ms", "measured")
    assert spent.details == (
        "decoding a JPEG of 1280 x 960 8.70 ms (40 %)",
        "resizing 3.21 ms (15 %)",
        "the model 10.0 ms (46 %)",
        "comparing with 100 labels 0.0210 ms (0 %)",
    )
    assert figures["where the time goes in encode_text"].details[0] == "tokenising 0.187 ms (8 %)"
    card = html(results, tmp_path).split("</article>")[0]
    assert spent.details[0] in card


def test_an_artefacts_own_memory_stands_before_pythons(tmp_path: Path) -> None:
    one = bench_results.measured("board", bench_results.artefact("int8", "tflite"), "encode_image", 1, 10.0)
    assert one.memory is not None
    own, python = megabytes(one.memory.own_bytes), megabytes(one.memory.before_bytes)
    assert one.memory.own_bytes == one.memory.resident_bytes - 18_500_000
    (device,) = report([one], title="").devices
    (table,) = (each for each in device.tables if each.title == "Memory")
    assert [each.heading for each in table.columns][2:5] == ["own", "Python's", "both"]
    assert [each.text for each in table.rows[0].cells][2:4] == [own, f"({python})"]
    said = f"{own} MB ({python} Python's)"
    (fits,) = (each for each in device.summary.figures if each.name == "fits")
    assert fits.details[-1] == f"at most {said}"
    assert f">{said}</text>" in unescape(html([one], tmp_path))


@pytest.mark.parametrize("written", [html, markdown])
def test_a_centred_cosine_is_explained_where_it_stands(
    written: Callable[[Sequence[Result], Path], str], tmp_path: Path
) -> None:
    results = raced(("fp32", 10.0), ("int8", 5.0))
    page = unescape(written(results, tmp_path))
    assert page.count(CENTRED_COSINE) == 4  # with the cards, the choices, the trade-offs and what ran
    assert not re.search(r"(?<!centred )cosine 0", page)
    unknown = [replace(each, artefact=replace(each.artefact, accuracy=None)) for each in results]
    assert "cosines</dt>" not in written(unknown, tmp_path)


def test_estimates_never_win_over_what_was_measured() -> None:
    what = bench_results.artefact("int8", "tflite")
    other = bench_results.artefact("fp32", "tflite")
    results = (
        bench_results.measured("board", other, "encode_image", 1, 50.0),
        bench_results.estimated("board", what, "encode_image", 1, 1.0),
    )
    (device,) = report(results, title="").devices
    assert device.summary.figures[0].value == "50.0"


def test_each_model_has_its_own_leader() -> None:
    small, large = bench_results.artefact("int8", "tflite"), bench_results.artefact("fp32", "tflite")
    large = replace(large, model="clip", name="clip")
    results = (
        bench_results.measured("board", small, "encode_image", 1, 1.0),
        bench_results.measured("board", large, "encode_image", 1, 50.0),
    )
    content = report(results, title="")
    (device,) = content.devices
    assert [each.value for each in device.summary.figures if each.name == "fastest"] == ["1.00", "50.0"]
    assert [row.cells[-1].best for row in content.choices[0].rows] == [True, True]
    assert device.summary.words.count("is, of its model, the fastest at encode_image and the smallest") == 2


def test_what_did_not_run_on_the_device_is_not_said_to_fit() -> None:
    ran, killed = bench_results.artefact("int8", "tflite"), bench_results.artefact("fp32", "tflite")
    results = (
        bench_results.measured("board", ran, "encode_image", 1, 1.0),
        Failed("board", killed, "ran out of memory", None, "encode_image"),
    )
    (device,) = report(results, title="").devices
    (fits,) = (each for each in device.summary.figures if each.name == "fits")
    assert fits.value == "1 of 2"
    assert "did not run on the device itself" in fits.details[0]


def test_plots_stand_below_the_table_of_their_component(tmp_path: Path) -> None:
    what = bench_results.artefact("int8", "tflite")
    results = (
        Failed("a", what, "no", None, "encode_image"),
        bench_results.measured("b", what, "encode_text", 1, 1.0),
        bench_results.measured("c", what, "encode_text", 1, 1.0),
        bench_results.measured("a", what, "encode_image", 1, 1.0),
        bench_results.measured("c", what, "encode_image", 1, 1.0),
    )
    text = html(results, tmp_path)
    part = text[text.index("<h3>encode_text</h3>") : text.index("<h3>encode_image</h3>")]
    assert "of encode_text" in part
    assert "of encode_image" not in part


def test_a_front_is_what_nothing_beats() -> None:
    rows = {
        "a": (10.0, 100, 0.9),
        "b": (20.0, 50, 0.9),
        "c": (20.0, 60, 0.99),
        "d": (30.0, 50, 0.9),
        "e": (5.0, 900, None),
    }
    results = [
        bench_results.measured(
            "board",
            replace(bench_results.artefact("int8", "tflite"), name=name, size_bytes=size, accuracy=accuracy),
            "encode_image",
            1,
            median,
        )
        for name, (median, size, accuracy) in rows.items()
    ]
    known = points(results)

    def names(*respects: str) -> str:
        return "".join(each.artefact.name for each in front(known, respects))  # type: ignore[arg-type]

    assert names("latency", "size") == "eab"
    assert names("latency", "accuracy") == "ac"
    assert names("latency", "size", "accuracy") == "abc"
    other = replace(results[0], artefact=replace(results[0].artefact, model="another", size_bytes=1, name="z"))
    assert "b" in "".join(each.artefact.name for each in front(points([*results, other]), ("latency", "size")))


@pytest.mark.parametrize("low", [1e-3, 0.2, 7.0, 512.0])
@pytest.mark.parametrize("factor", [1.0, 1.4, 19.0, 21.0, 5e5])
def test_axes_have_ticks_within(low: float, factor: float) -> None:
    along = scale([low, low * factor], 10, 350)
    assert along.logarithmic == (factor > 20)
    assert 1 <= len(along.ticks()) <= 6
    assert all(10 <= along(each) <= 350 for each in along.ticks())
    assert 10 <= along(low) <= along(low * factor) <= 350


def test_numbers_keep_their_significant_digits() -> None:
    shown = [number(each) for each in (0.0, 0.01234, 0.9999, 9.999, 12.34, 999.6, 1234.5, float("nan"))]
    assert shown == ["0", "0.0123", "1.00", "10.0", "12.3", "1,000", "1,234", "–"]
    assert cosine(0.5) == "0.500000"


def test_labels_of_points_do_not_cover_each_other(tmp_path: Path) -> None:
    known = [each for each in points(CASES["realistic"]) if (each.device, each.component) == ("host", "encode_image")]
    names = Names.of(each.artefact for each in known)
    drawn = curves.front_chart(known, "size", "it", names)
    labels = re.findall(r'class="label[^"]*" x="([\d.]+)" y="([\d.]+)" text-anchor="middle">(\d+)<', drawn)
    assert len(labels) == len(known)
    places = [(float(x), float(y), len(said) * 7.2) for x, y, said in labels]
    for index, (x, y, width) in enumerate(places):
        for x2, y2, width2 in places[:index]:
            assert abs(x - x2) >= (width + width2) / 2 or abs(y - y2) >= 11


def test_memory_of_which_nobody_looked_before() -> None:
    """A phone's runner opens the artefact as soon as it runs."""
    known = bench_results.measured("phone", bench_results.artefact("int8", "tflite"), "encode_image", 1, 9.0)
    assert known.memory is not None
    unknown = replace(known, memory=replace(known.memory, before_bytes=None))
    names = Names.of([known.artefact])
    assert 'class="python"' in memory_chart([known], "a phone", names)
    drawn = memory_chart([unknown], "a phone", names)
    assert 'class="own"' in drawn
    assert 'class="python"' not in drawn
    assert f"{megabytes(known.memory.resident_bytes)} MB" in drawn
