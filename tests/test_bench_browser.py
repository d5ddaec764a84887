"""A browser draws benchmark pages as they are meant: on a phone, at a desk, in the dark and on paper."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import bench_results
import pytest
from PIL import Image

from edgevlm.bench.report.page import write_page
from edgevlm.bench.results import Result

COLOURS = {"measured": (0x0B, 0x5C, 0xAD), "emulated": (0x00, 0x70, 0x4F), "estimated": (0x9A, 0x53, 0x00)}
COLOURS |= {"failed": (0xB0, 0x12, 0x38), "anonymous": (0x34, 0x52, 0x6F), "mapped": (0xC4, 0xD2, 0xDF)}
DARK_PAPER, DARK_MEASURED = (0x0F, 0x15, 0x1C), (0x6F, 0xB4, 0xFF)


def page(results: Sequence[Result], folder: Path) -> None:
    write_page(results, folder / "page.html", title="Figures of devices")


def browse(page: Path, *options: str) -> str:
    """Runs a browser without a window on a page, and gives what it prints."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Debian's package chromium")
    command = [
        chromium,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--allow-file-access-from-files",
    ]
    command += [f"--user-data-dir={page.parent / 'profile'}", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def framed(folder: Path, width: int, height: int, script: str = "") -> Path:
    """A page that shows `page.html` as wide as a phone is: a window without a screen has a least width of its own."""
    frame = folder / "frame.html"
    frame.write_text(
        f'<body style="margin:0"><iframe src="page.html" style="border:0;width:{width}px;height:{height}px"></iframe>'
        f"<p id=said></p><script>{script}</script>"
    )
    return frame


def picture(folder: Path, width: int, height: int, *options: str) -> Image.Image:
    target = folder / "shot.png"
    browse(
        framed(folder, width, height), f"--screenshot={target}", f"--window-size={max(width, 500)},{height}", *options
    )
    return Image.open(target).convert("RGB").crop((0, 0, width, height))


def pixels(drawn: Image.Image) -> dict[tuple[int, ...], int]:
    return {colour: several for several, colour in drawn.getcolors(1 << 24)}  # type: ignore[misc]


@pytest.mark.parametrize("width", [390, pytest.param(1280, marks=pytest.mark.slow)])
def test_a_browser_draws_badges_and_marks(width: int, tmp_path: Path) -> None:
    page(bench_results.realistic(), tmp_path)
    seen = pixels(picture(tmp_path, width, 16000))
    assert seen[(255, 255, 255)] < 0.97 * width * 16000
    for name, colour in COLOURS.items():
        assert seen.get(colour, 0) > 100, name
    assert DARK_PAPER not in seen


@pytest.mark.slow
def test_a_browser_draws_it_dark_where_that_is_preferred(tmp_path: Path) -> None:
    page(bench_results.realistic(), tmp_path)
    seen = pixels(picture(tmp_path, 390, 6000, "--blink-settings=preferredColorScheme=0"))
    assert max(seen, key=lambda each: seen[each]) in (DARK_PAPER, (0x17, 0x20, 0x2A))
    assert seen[DARK_MEASURED] > 100
    assert COLOURS["measured"] not in seen


MEASURE = """
const frame = document.querySelector('iframe')
addEventListener('load', () => {
  const page = frame.contentDocument
  page.querySelectorAll('details').forEach(each => each.open = true)
  const boxes = each => each.getBoundingClientRect()
  const out = [...page.querySelectorAll('body *')].filter(
    each => !each.closest('.wide') && boxes(each).width > 0 && boxes(each).right > frame.clientWidth + 0.5)
  const clipped = [...page.querySelectorAll('svg.plot text')].filter(each => {
    const around = boxes(each.closest('svg')), own = boxes(each)
    return own.left < around.left - 1 || own.right > around.right + 1 || own.bottom > around.bottom + 1 })
  document.querySelector('#said').textContent = [page.documentElement.scrollWidth, out.length, clipped.length,
    page.querySelectorAll('svg.plot').length, out.slice(0, 3).map(each => each.outerHTML.slice(0, 90)),
    clipped.slice(0, 3).map(each => each.textContent)].join(';')
})
"""


@pytest.mark.parametrize("width", [360, *(pytest.param(width, marks=pytest.mark.slow) for width in (390, 1280))])
@pytest.mark.parametrize(
    "case", ["hostile", *(pytest.param(case, marks=pytest.mark.slow) for case in ("realistic", "many", "failures"))]
)
def test_a_page_is_no_wider_than_its_screen_and_no_label_is_cut(case: str, width: int, tmp_path: Path) -> None:
    page(bench_results.CASES[case], tmp_path)
    said = browse(framed(tmp_path, width, 900, MEASURE), "--dump-dom", "--virtual-time-budget=5000")
    found = re.search(r'<p id="said">(\d+);(\d+);(\d+);(\d+);(.*)</p>', said, re.S)
    assert found, said[-500:]
    assert int(found[1]) <= width, found[5]
    assert int(found[2]) == 0, found[5]
    assert int(found[3]) == 0, found[5]
    assert (int(found[4]) > 0) == (case != "failures")


@pytest.mark.slow
def test_paper_shows_what_is_folded(tmp_path: Path) -> None:
    if shutil.which("pdftotext") is None:
        pytest.skip("needs Debian's package poppler-utils")
    page(bench_results.realistic()[:30], tmp_path)
    browse(tmp_path / "page.html", f"--print-to-pdf={tmp_path / 'page.pdf'}", "--no-pdf-header-footer")
    done = subprocess.run(["pdftotext", "-raw", tmp_path / "page.pdf", "-"], capture_output=True, text=True, check=True)
    assert "How to reproduce each row" in done.stdout
    assert done.stdout.count("edgevlm bench") == 30
