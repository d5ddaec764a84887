"""One session asked by several threads, and by a fork of the process that opened it."""

from __future__ import annotations

import multiprocessing
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import library
import numpy as np
import pytest

from edgevlm.bundle.spec import Array, ComponentSpec
from edgevlm.errors import TensorError, UnsupportedError
from edgevlm.targets import registry
from edgevlm.targets.runtime import SerialSession, Session

ROWS = {name: library.tower_samples(name, 6) for name in ("pixels", "token_ids")}


@pytest.fixture(params=["coreml", "executorch", "tflite"])
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    with registry.runtime(request.param).open(library.tower_bundle(request.param, "fp32"), threads=1) as opened:
        yield opened


def test_every_thread_gets_the_answer_to_its_own_question(session: Session) -> None:
    questions = [("encode_image", {"pixels": each}) for each in ROWS["pixels"]]
    questions += [("encode_text", {"token_ids": each}) for each in ROWS["token_ids"]]
    alone = [session.run(*question)["embedding"] for question in questions]
    with ThreadPoolExecutor(4) as threads:
        together = threads.map(lambda number: session.run(*questions[number % 12])["embedding"], range(240))
        for number, answer in enumerate(together):
            np.testing.assert_array_equal(answer, alone[number % 12])


class Slow(SerialSession[threading.Event]):
    """Its one component answers when it is told to."""

    def _compute(
        self, spec: ComponentSpec, program: threading.Event, arrays: Mapping[str, Array]
    ) -> dict[str, np.ndarray]:
        program.wait(30)
        return {}


def test_a_session_is_not_closed_under_a_thread_that_runs_it() -> None:
    answered = threading.Event()
    slow = Slow({"nothing": (ComponentSpec("nothing", (), ()), answered)})
    with ThreadPoolExecutor(2) as threads:
        served, waiting = (threads.submit(slow.run, "nothing", {}) for _ in range(2))
        while not slow._turn.locked():
            time.sleep(0.001)
        with pytest.raises(UnsupportedError, match="cannot be closed while another thread runs it"):
            slow.close()
        answered.set()
        assert served.result() == waiting.result() == {}
    slow.close()
    with pytest.raises(TensorError, match="this session is closed"):
        slow.run("nothing", {})


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_fork_is_told_to_open_the_bundle_itself(session: Session) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    def ask() -> None:
        try:
            session.run("encode_image", {"pixels": ROWS["pixels"][0]})
        except UnsupportedError as error:
            answers.put((error.message, error.hint))

    child = context.Process(target=ask)
    child.start()
    child.join(30)
    assert child.exitcode == 0
    message, hint = answers.get()
    assert "this one is a fork" in message
    assert "open the bundle in the new process" in hint
