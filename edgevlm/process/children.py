"""Processes that this one starts, holds by their pipes, and does not outlive."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import edgevlm

_TAIL_BYTES = 2000
_GRACE_SECONDS = 2.0
_SHELLS_OFFSET = 128  # a shell, and sshd, say 128 + the signal


def process_of(module: str) -> tuple[list[str], dict[str, str]]:
    """The command and the environment that run one of our modules in a process of its own.

    A file in the working directory must not pass for a package there; ours are found where they are running from.
    """
    paths = [str(Path(edgevlm.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    return [sys.executable, "-P", "-m", module], {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def start(
    command: Sequence[str], stderr: IO[bytes] | int | None, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """A process with pipes, in a session of its own, out of reach of the terminal's Ctrl-C."""
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=None if environment is None else dict(environment),
        start_new_session=True,
    )


def end(process: subprocess.Popen[bytes]) -> None:
    """Closes the pipes of a process, at which it ends itself; kills it where it does not within two seconds."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # what is still buffered for a process that has ended
                pipe.close()
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def started(
    command: Sequence[str], stderr: IO[bytes] | int, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process as `start` gives it, ended with the block."""
    process = start(command, stderr, environment)
    try:
        yield process
    except BaseException:
        process.kill()
        raise
    finally:
        end(process)


def end_of(stderr: IO[bytes]) -> str:
    """The end of what was written to a temporary file."""
    stderr.seek(0, 2)
    stderr.seek(max(0, stderr.tell() - _TAIL_BYTES))
    return stderr.read().decode("utf-8", "replace").strip()


def signal_of(code: int) -> signal.Signals | None:
    """The signal that ended a process, None where none did.

    Args:
        code: Its exit code: negative for a signal, as `subprocess` has it, or 128 + the signal.
    """
    number = -code if code < 0 else code - _SHELLS_OFFSET
    return signal.Signals(number) if number in {each.value for each in signal.Signals} else None
