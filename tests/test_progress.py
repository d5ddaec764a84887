"""The progress bar as a terminal shows it, and how long work says it will take."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from edgevlm.process.progress import Countdown, duration

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


def test_a_row_of_tasks_says_how_long_the_rest_takes() -> None:
    said: list[tuple[str, float | None]] = []
    countdown = Countdown(lambda stage, share: said.append((stage, share)), "recipe", 2)
    countdown.next("int8")("lowering", 0.5)
    countdown.next("int4")
    assert said == [
        ("recipe 1 of 2: int8", 0.0),
        ("recipe 1 of 2: int8 (lowering)", 0.0),
        ("recipe 2 of 2: int4, under a minute left", 0.5),
    ]


def test_durations_as_people_say_them() -> None:
    assert [duration(each) for each in (20, 700, 11_000)] == ["under a minute", "12 min", "3 h 3 min"]
