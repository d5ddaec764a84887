"""A process that is given one job and answers in JSON lines: `edgevlm.onboard`, here or at the end of a connection."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from edgevlm.errors import DeviceError
from edgevlm.onboard.failures import ended_without_a_word, from_json
from edgevlm.process.children import end_of, started


def answers(
    command: Sequence[str],
    job: Mapping[str, Any],
    *,
    timeout_seconds: float,
    environment: Mapping[str, str] | None = None,
    ended: Callable[[int, str], DeviceError] = ended_without_a_word,
) -> Iterator[Mapping[str, Any]]:
    """Runs a command, gives it the job as the first line of stdin, and yields what it says, the result last.

    Its stdin stays open until it has answered: it ends itself when that closes. It is killed when the time is up and
    when the iterator is closed.

    Args:
        ended: The error for a process that ended without an answer, from its exit code and the end of its stderr.

    Raises:
        EdgeVLMError: the process's own.
        DeviceError: it ended without an answer, or gave none in time.
    """
    with tempfile.TemporaryFile() as stderr, started(command, stderr, environment) as process:
        overdue = threading.Event()

        def stop() -> None:
            overdue.set()
            process.kill()

        timer = threading.Timer(timeout_seconds, stop)
        timer.daemon = True
        timer.start()
        try:
            yield from _lines(process, job)
            return
        except EOFError:
            code = process.wait()
        finally:
            timer.cancel()
        if overdue.is_set():
            raise DeviceError(
                f"no answer within {timeout_seconds:.0f} s", hint="the device may be busy, or the job too large for it"
            )
        raise ended(code, end_of(stderr))


def parsed(line: bytes) -> Mapping[str, Any] | None:
    """The JSON object in a line; None for other text, such as a login script's greeting."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _lines(process: subprocess.Popen[bytes], job: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if process.stdin is None or process.stdout is None:
        raise TypeError("expected a process with pipes")
    with suppress(BrokenPipeError):  # it has ended already; its exit code says why
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.flush()
    for line in process.stdout:
        said = parsed(line)
        if said is None:
            continue
        if "error" in said:
            raise from_json(said["error"])
        yield said
        if "result" in said:
            return
    raise EOFError
