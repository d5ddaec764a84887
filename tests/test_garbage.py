"""A conversion looks for garbage seldom, and leaves the caller's collector as it was."""

from __future__ import annotations

import subprocess
import sys

SETTINGS = "(gc.get_threshold(), gc.get_freeze_count())"


def _told(code: str) -> list[str]:
    """What a new process prints, whose collector is as Python starts it."""
    lines = f"import gc\nfrom edgevlm.process.garbage import collect_seldom, seldom_collected\n{code}"
    return subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True).stdout.split("\n")


def test_the_collector_looks_seldom_within_and_is_as_before_after() -> None:
    before, within, frozen, after = _told(
        f"print({SETTINGS})\nwith seldom_collected(): print(gc.get_threshold()), print(gc.get_freeze_count() > 0)\n"
        f"print({SETTINGS}, end='')"
    )
    assert (within, frozen) == ("(20000, 5, 5)", "True")
    assert before == after == "((700, 10, 10), 0)"


def test_what_is_frozen_stays_so_when_the_block_fails() -> None:
    before, after = _told(
        f"gc.set_threshold(90_000, 5, 5); gc.freeze()\nprint({SETTINGS})\ntry:\n  with seldom_collected(): 1 / 0\n"
        f"except ZeroDivisionError: print({SETTINGS}, end='')"
    )
    assert before == after
    assert before.startswith("((90000, 5, 5), ")


_CYCLE = (
    "import weakref\nclass Node: pass\ndef cycle():\n  node = Node(); node.node = node\n  return weakref.ref(node)\n"
)


def test_garbage_made_within_and_before_is_collected() -> None:
    told = _told(
        f"{_CYCLE}gc.disable()\nbefore = cycle()\nwith seldom_collected():\n  within = cycle()\n  gc.collect()\n"
        "  print(before()); print(within(), end='')"
    )
    assert told == ["None", "None"]


def test_of_blocks_that_overlap_the_last_to_end_puts_the_collector_back() -> None:
    within, after = _told(
        "one, other = seldom_collected(), seldom_collected()\none.__enter__(); other.__enter__()\n"
        "one.__exit__(None, None, None); print(gc.get_threshold()[0]); other.__exit__(None, None, None)\n"
        f"print({SETTINGS}, end='')"
    )
    assert (within, after) == ("20000", "((700, 10, 10), 0)")
