"""Signals that wait for what belongs together."""

from __future__ import annotations

import signal
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
def test_a_signal_outside_is_acted_upon_at_once() -> None:
    with interrupts.put_off():
        pass
    with pytest.raises(SystemExit):
        signal.raise_signal(signal.SIGTERM)
