"""A Python on the other end of a connection: found there, and asked to do what `far_side.py` holds."""

from __future__ import annotations

import json
import shlex
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from edgevlm.devices import far_side
from edgevlm.devices.answers import parsed
from edgevlm.devices.connection import FAILED, Connection
from edgevlm.errors import ConnectionLost, DeviceError
from edgevlm.onboard.failures import ended_without_a_word
from edgevlm.process.children import end_of, started

OLDEST = (3, 11)
REQUEST_SECONDS = 60.0

_NAMES = ("python3.13", "python3.12", "python3.11", "python3")
_FOUND = "edgevlm-python"
Feed = Callable[[IO[bytes]], None]
"""Writes to a process's stdin."""


class FarPython:
    """An interpreter over there.

    Attributes:
        connection: To the machine.
        path: Of the interpreter.
        version: Such as `3.11`.
    """

    def __init__(self, connection: Connection, path: str, version: str) -> None:
        self.connection = connection
        self.path = path
        self.version = version

    @classmethod
    def find(cls, connection: Connection, named: str) -> FarPython:
        """Looks for it.

        Args:
            named: Its path or name; the newest where empty.

        Raises:
            DeviceError: there is none, or none that is new enough.
            ConnectionLost: the machine is no longer reached.
        """
        # `~` is the home over there.
        quoted = '"$HOME"' + shlex.quote(named[1:]) if named.startswith("~/") else shlex.quote(named)
        code = shlex.quote(f"import sys; print('{_FOUND}', *sys.version_info[:2], sys.executable)")
        line = f'for each in {quoted if named else " ".join(_NAMES)}; do "$each" -c {code} 2> /dev/null; done; exit 0'
        found = []
        with tempfile.TemporaryFile() as stderr, started(connection.command(line), stderr) as process:
            for words in (text.decode("utf-8", "replace").split(maxsplit=3) for text in process.stdout or ()):
                if len(words) == 4 and words[0] == _FOUND:
                    found.append(((int(words[1]), int(words[2])), words[3].strip()))
            if process.wait():
                raise ended(connection, process.returncode, end_of(stderr))
        for (major, minor), path in found:
            if (major, minor) >= OLDEST:
                return cls(connection, path, f"{major}.{minor}")
        raise _none(connection.host, named, [f"{path} is {major}.{minor}" for (major, minor), path in found])

    def line(self, arguments: str, **environment: str) -> str:
        """A shell's line that runs it and ends with its exit code, also where a signal ends it."""
        words = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
        # Without a command behind it a shell becomes what it runs, and ssh tells of no signal but that there was one.
        return f"{' '.join([*words, shlex.quote(self.path)])} {arguments}; exit $?"

    def do(self, request: Mapping[str, Any], feed: Feed | None = None, seconds: float = REQUEST_SECONDS) -> Any:
        """Has `far_side` do something, and gives its answer.

        Args:
            feed: Writes the rest of stdin.
            seconds: How long it may take; as long as the connection stands where it is fed.

        Raises:
            DeviceError: it failed there.
            ConnectionLost: the machine is no longer reached.
        """
        source = Path(far_side.__file__).read_bytes()
        marks = {far_side.MARK: request["folder"]} if feed else {}
        code = shlex.quote(f"import sys; exec(sys.stdin.buffer.read({len(source)}))")
        site = "" if request["do"] == "settle" else "-S "  # only to look for packages; it takes a small board long
        command = self.connection.command(self.line(f"{site}-c {code}", **marks))
        with tempfile.TemporaryFile() as stderr, started(command, stderr) as process:
            limit = threading.Timer(seconds, process.kill)
            limit.daemon = True
            if not feed:
                limit.start()
            try:
                answer = _exchange(process, source + json.dumps(request).encode() + b"\n", feed)
            finally:
                limit.cancel()
            if answer is None:
                raise ended(self.connection, process.wait(), end_of(stderr))
        if "failed" in answer:
            raise _failure(self.connection.host, answer["failed"])
        return answer["done"]


def ended(connection: Connection, code: int, said: str) -> DeviceError:
    """The error for a process at the end of a connection that ended without an answer."""
    if code == FAILED or code < 0:  # ssh itself, be it that it failed or that it was killed for taking too long
        connection.close()
        return ConnectionLost(
            f"the connection to {connection.host} was lost{': ' + said.splitlines()[-1] if said else ''}",
            hint="is it still switched on, and in the same network?",
        )
    return ended_without_a_word(code, said)


def _exchange(process: subprocess.Popen[bytes], request: bytes, feed: Feed | None) -> Mapping[str, Any] | None:
    if process.stdin is None or process.stdout is None:
        raise TypeError("expected a process with pipes")
    with suppress(BrokenPipeError):  # it has ended; what it said before tells why
        process.stdin.write(request)
        process.stdin.flush()
        if feed and "ready" in (first := next(filter(None, map(parsed, process.stdout)), {})):
            feed(process.stdin)
            process.stdin.close()
        elif feed:
            return first or None
    return next(filter(None, map(parsed, process.stdout)), None)


def _failure(host: str, failed: Mapping[str, str]) -> DeviceError:
    """What the system over there refused."""
    code, message = failed["code"], failed["message"]
    if code in ("ENOSPC", "EDQUOT"):
        return DeviceError(
            f"no space left on {host}: {message}", hint="make space in its temporary folder, or set TMPDIR over there"
        )
    if code in ("EACCES", "EPERM", "EROFS") or "usable temporary directory" in message:
        return DeviceError(
            f"no permission on {host}: {message}", hint="a folder that can be written is needed: set TMPDIR over there"
        )
    return DeviceError(f"{host}: {message}")


def _none(host: str, named: str, found: list[str]) -> DeviceError:
    hint = "install one (apt install python3), or name one in a profile of your own: `python: /path/to/python3`"
    if named and not found:
        return DeviceError(f"there is no Python {named} on {host}", hint=hint)
    oldest = ".".join(map(str, OLDEST))
    return DeviceError(f"expected Python {oldest} or newer on {host}, got {', '.join(found) or 'none'}", hint=hint)
