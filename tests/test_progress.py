"""The progress bar as a terminal shows it, the lines elsewhere, and how long work says it will take."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import pytest

from edgevlm.process.progress import Countdown, Expectation, duration

BAR = """
import os, sys, time
from edgevlm.process.notes import note
from edgevlm.process.terminal import progress_bar
with progress_bar() as tell:
    tell("packing", 1.0)
    time.sleep(1.5)
    os.write(2, b"W0000 a backend's chatter")
    print("a library's chatter", file=sys.stderr)
    note("[two] words " * 20)
    note("[two] words " * 20)
    tell("proving", None)
    time.sleep(0.5)
"""


def on_a_terminal(code: str) -> str:
    """What a terminal shows of a program."""
    ours, theirs = os.openpty()
    child = subprocess.Popen([sys.executable, "-c", code], stdout=theirs, stderr=theirs, stdin=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the program has ended and with it the terminal
            break
        if not part:
            break
        shown += part
    assert child.wait() == 0
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def test_the_clock_goes_on_after_a_stage_is_complete_and_no_chatter_is_shown() -> None:
    shown = on_a_terminal(BAR)
    after = shown[shown.index("proving") :]
    assert any(f"0:00:0{seconds}" in after for seconds in (1, 2, 3, 4))
    assert "chatter" not in shown
    said = "note: " + "[two] words " * 20
    assert "".join(shown.split()).count("".join(said.split())) == 1


def test_notes_are_lines_on_stderr_where_there_is_no_terminal() -> None:
    done = subprocess.run([sys.executable, "-c", BAR], capture_output=True, text=True, check=True)
    assert done.stderr.split("\n") == ["note: " + "[two] words " * 20, ""]
    assert done.stdout == ""


def test_long_work_without_a_terminal_says_a_line_now_and_then() -> None:
    code = """
import time
from edgevlm.process.terminal import progress_bar
with progress_bar(first_line=0.3, line_every=0.4) as tell:
    tell("opening", None)
    time.sleep(0.5)
    for step in range(5):
        tell(f"step {step}", step / 10)
        time.sleep(0.1)
    time.sleep(0.2)
with progress_bar(first_line=5) as tell:
    tell("short", 0.5)
print("done")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, *others = done.stderr.splitlines()
    assert first == "opening, under a minute so far"
    assert 1 <= len(others) <= 2
    assert all(re.fullmatch(r"step [1-4], [1-4]0%, under a minute left", each) for each in others)
    assert done.stdout == "done\n"


def test_what_is_left_follows_from_what_was_done_since_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    expected = Expectation()

    def after(seconds: float, share: float | None) -> float | None:
        nonlocal now
        now += seconds
        expected.see(share)
        return expected.left

    assert after(5, None) is None
    assert after(0, 0.5) is None  # a run that goes on had come so far before
    assert after(10, 0.6) == pytest.approx(40)
    now += 15
    assert expected.left == pytest.approx(25)
    now += 100
    assert expected.left == 0
    assert after(1, 0.1) is None  # the next stage
    assert after(1, 0.2) == pytest.approx(8)


def test_a_row_of_tasks_says_which_it_is_at() -> None:
    said: list[tuple[str, float | None]] = []
    countdown = Countdown(lambda stage, share: said.append((stage, share)), "recipe", 2)
    countdown.next("int8")("lowering", 0.5)
    countdown.next("int4")
    assert said == [
        ("recipe 1 of 2: int8", 0.0),
        ("recipe 1 of 2: int8 (lowering)", 0.0),
        ("recipe 2 of 2: int4", 0.5),
    ]


def test_durations_as_people_say_them() -> None:
    assert [duration(each) for each in (20, 700, 11_000)] == ["under a minute", "12 min", "3 h 3 min"]
