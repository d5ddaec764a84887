"""Signals that wait for what belongs together, or for work that can be stopped only now and then."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

import pytest

from edgevlm.process import interrupts


@pytest.fixture
def raising() -> Iterator[None]:
    """SIGTERM raises SystemExit, as it does in a process that measures a device."""

    @interrupts.deferrable
    def stop(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("raising")
def test_a_signal_waits_for_the_outermost_block() -> None:
    done = []
    with pytest.raises(SystemExit) as caught:
        with interrupts.put_off():
            with interrupts.put_off():
                signal.raise_signal(signal.SIGTERM)
                done.append("inner")
            done.append("outer")
        done.append("after")
    assert caught.value.code == 128 + signal.SIGTERM
    assert done == ["inner", "outer"]


@pytest.mark.usefixtures("raising")
def test_a_signal_waits_for_blocks_of_other_threads_and_for_no_longer() -> None:
    began, end = threading.Event(), threading.Event()

    def hold() -> None:
        with interrupts.put_off():
            began.set()
            end.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    began.wait()
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(SystemExit):
        end.set()
        thread.join()
        time.sleep(10)
    with pytest.raises(SystemExit):
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.usefixtures("raising")
def test_a_signal_outside_is_acted_upon_at_once() -> None:
    with interrupts.put_off():
        pass
    with pytest.raises(SystemExit):
        signal.raise_signal(signal.SIGTERM)


def test_work_that_is_told_of_a_signal_ends_as_it_likes() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt):
        with interrupts.at_leisure() as asked:
            assert asked() is None
            signal.raise_signal(signal.SIGINT)
            done.append(asked())
        done.append(0)
    assert done == [signal.SIGINT]


@pytest.mark.usefixtures("raising")
def test_a_second_signal_is_acted_upon_at_once() -> None:
    usual = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit), interrupts.at_leisure():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        time.sleep(10)
    assert signal.getsignal(signal.SIGINT) is usual


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts.at_leisure() as asked:
            signal.raise_signal(signal.SIGINT)
            assert asked() is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_works_at_leisure_without_signals() -> None:
    told: list[int | None] = []

    def work() -> None:
        with interrupts.at_leisure() as asked:
            told.append(asked())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert told == [None]
