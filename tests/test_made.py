"""Folders that tests share: made once, whole or not at all, and not kept for ever."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import made
import pytest


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEVLM_CACHE_DIR", str(tmp_path))


def test_who_asks_meanwhile_waits_and_gets_the_same() -> None:
    numbers = iter(range(10))

    def make(folder: Path) -> None:
        time.sleep(0.2)
        (folder / "number").write_text(str(next(numbers)))

    with ThreadPoolExecutor(4) as several:
        found = set(several.map(lambda _: made.once("thing", make), range(4)))
    (folder,) = found
    assert (folder / "number").read_text() == "0"
    assert made.once("thing", make) == folder


def test_what_fails_leaves_nothing_and_is_tried_again(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        made.once("thing", fail)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["thing.lock"]
    assert made.once("thing", lambda folder: (folder / "whole").touch()).joinpath("whole").exists()


def test_the_last_states_of_the_sources_are_kept(tmp_path: Path) -> None:
    for age, name in enumerate(("newer", "older")):
        (tmp_path / "made" / name).mkdir(parents=True)
        os.utime(tmp_path / "made" / name, (1000 - age, 1000 - age))
    present = made.home(tmp_path / "made", tmp_path / "devices")
    assert {path.name for path in (tmp_path / "made").iterdir()} == {present.name, "newer"}
    assert made.home(tmp_path / "made", tmp_path / "devices") == present


def test_what_is_shared_is_counted_apart() -> None:
    before = made.spent
    with made.apart(), made.apart():
        end = made.cpu_seconds() + 0.1
        while made.cpu_seconds() < end:
            sum(range(100_000))
    assert made.spent - before == pytest.approx(0.1, abs=0.05)
