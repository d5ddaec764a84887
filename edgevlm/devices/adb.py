"""A phone through the system's own `adb`, by USB, or by the network where its serial number is HOST:PORT.

What runs over there ends with a line of ours that holds its exit code: when a cable is pulled, adb may end as if all
were well. Which adb server is asked is adb's business: `ANDROID_ADB_SERVER_PORT` and `ADB_SERVER_SOCKET` name another.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from edgevlm.devices.connection import NotReached
from edgevlm.errors import ConnectionLost, DeviceError

PAUSES_SECONDS = (1.0, 2.0, 4.0, 8.0)
"""Between tries to reach a phone again."""

_END = "edgevlm-end"
_START_SECONDS = 20.0
_LIST_SECONDS = 20.0
_COMMAND_SECONDS = 60.0
_SLOWEST_BYTES_A_SECOND = 500_000
_SETTLE_SECONDS = 3.0
_UNSETTLED = ("authorizing", "connecting", None)
_NETWORK = re.compile(r".+:[0-9]+")
_LOST = re.compile(
    r"device '.*' not found|device offline|device unauthorized|no devices|error: closed|connect failed|"
    r"failed to read copy response|failed to get feature set|Connection reset|Broken pipe|protocol fault|\bEOF\b",
    re.IGNORECASE,
)


class Adb:
    """A connection to one phone; adb's server keeps it.

    Attributes:
        serial: As `adb devices` lists it.
    """

    def __init__(self, serial: str) -> None:
        self.serial = serial

    def open(self) -> None:
        """Starts adb's server where it does not run, and sees that the phone is there and lets us in.

        Raises:
            NotReached: it is not there, or not yet.
            DeviceError: adb is missing or does not work, or the phone does not let us in.
        """
        self._start_server()
        listed = self._listed()
        if listed.get(self.serial) != "device" and _NETWORK.fullmatch(self.serial):
            self._adb("connect", self.serial, seconds=_LIST_SECONDS)
            listed = self._listed()
        end = time.monotonic() + _SETTLE_SECONDS
        while listed.get(self.serial) in _UNSETTLED and time.monotonic() < end:
            time.sleep(0.2)
            listed = self._listed()
        if listed.get(self.serial) != "device":
            raise _not_ready(self.serial, listed)

    def reopen(self) -> None:
        """Reaches a phone again that was lost, in a few tries.

        Raises:
            DeviceError: it did not come back.
        """
        for pause in (*PAUSES_SECONDS, None):
            try:
                return self.open()
            except NotReached as error:
                if pause is None:
                    raise DeviceError(
                        f"the connection to {self.serial} was lost, and {len(PAUSES_SECONDS) + 1} tries to connect "
                        f"again failed: {error.message}",
                        hint=error.hint,
                    ) from error
                time.sleep(pause)

    def shell(self, line: str, *, seconds: float = _COMMAND_SECONDS) -> tuple[int, str]:
        """Runs a line in the phone's shell.

        Returns:
            Its exit code, and all that it wrote to stdout and stderr.

        Raises:
            ConnectionLost: it did not end, as far as is known.
            DeviceError: it took too long.
        """
        framed = f"( {line}\n) < /dev/null 2>&1; code=$?; echo; echo {_END} $code"
        done = self._adb("-s", self.serial, "shell", "-T", framed, seconds=seconds)
        text, found, code = done.stdout.rpartition(f"\n{_END} ")
        if not found or not code.strip().isdigit():
            raise self._lost(done.stderr)
        return int(code), text.replace("\r\n", "\n")

    def do(self, line: str, *, seconds: float = _COMMAND_SECONDS) -> str:
        """Runs a line that has to succeed, and gives what it wrote.

        Raises:
            DeviceError: it failed, or took too long.
            ConnectionLost: the phone is no longer reached.
        """
        code, text = self.shell(line, seconds=seconds)
        if code:
            raise refusal(self.serial, text, f"`{line}` failed with exit code {code}")
        return text

    def push(self, local: Path, there: str) -> None:
        """Copies a file there.

        Raises:
            DeviceError: there is no space, or no permission.
            ConnectionLost: the phone is no longer reached.
        """
        seconds = _COMMAND_SECONDS + local.stat().st_size / _SLOWEST_BYTES_A_SECOND
        done = self._adb("-s", self.serial, "push", str(local), there, seconds=seconds)
        if done.returncode == 0:
            return
        said = f"{done.stdout}\n{done.stderr}"
        if _LOST.search(said):
            raise self._lost(said)
        raise refusal(self.serial, said, f"{local.name} could not be sent")

    def _start_server(self) -> None:
        done = self._adb("start-server", seconds=_START_SECONDS)
        if done.returncode:
            raise _no_server(_last(done.stderr))

    def _listed(self) -> Mapping[str, str]:
        """States by serial number."""
        done = self._adb("devices", seconds=_LIST_SECONDS)
        if done.returncode:
            raise _no_server(_last(done.stderr))
        lines = (line.partition("\t") for line in done.stdout.splitlines())
        return {serial: state.strip() for serial, tab, state in lines if tab}

    def _lost(self, said: str) -> ConnectionLost:
        last = _last(said)
        return ConnectionLost(
            f"the connection to {self.serial} was lost{': ' + last if last else ''}",
            hint="is the cable in, and the phone still switched on?",
        )

    def _adb(self, *words: str, seconds: float) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                ["adb", *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
                check=False,
                start_new_session=True,  # the terminal's Ctrl-C is ours, who have to tidy up
            )
        except FileNotFoundError as error:
            raise DeviceError(
                "adb is not installed here",
                hint="apt install adb, or Android's platform-tools (brew install android-platform-tools); it has to be "
                "on the PATH",
            ) from error
        except subprocess.TimeoutExpired as error:
            if words[0] in ("start-server", "devices"):
                raise _no_server(f"no answer within {seconds:.0f} s") from error
            raise DeviceError(
                f"{self.serial} gave no answer within {seconds:.0f} s",
                hint="the phone may be busy, or the job too large for it",
            ) from error


def refusal(serial: str, said: str, otherwise: str) -> DeviceError:
    """The error for what the phone refused.

    Args:
        said: What it or adb wrote.
        otherwise: The message where that is of no kind that is known.
    """
    for pattern, message, hint in (
        (r"No space left|ENOSPC|Disk quota", "no space left", "make space below /data on the phone"),
        (
            r"Permission denied|Read-only file system|Operation not permitted",
            "no permission",
            "/data/local/tmp has to be open to adb's shell: on a managed phone a policy may forbid it",
        ),
    ):
        lines = [line.strip() for line in said.splitlines() if re.search(pattern, line)]
        if lines:
            return DeviceError(f"{message} on {serial}: {lines[-1]}", hint=hint)
    return DeviceError(f"{serial}: {otherwise}: {_last(said) or 'it said nothing'}")


def _no_server(said: str) -> DeviceError:
    return DeviceError(
        f"adb's server does not start: {said or 'it said nothing'}",
        hint="adb kill-server, then adb start-server says more; another program may hold its port, 5037 "
        "(ANDROID_ADB_SERVER_PORT names another)",
    )


def _not_ready(serial: str, listed: Mapping[str, str]) -> DeviceError:
    """What `adb devices` says, as an error that says what to do."""
    state = listed.get(serial)
    if state is None:
        others = ", ".join(f"{name} ({said})" for name, said in listed.items()) or "none"
        hint = "plug it in, and switch on USB debugging in its developer options; adb devices lists serial numbers"
        if _NETWORK.fullmatch(serial):
            hint = "switch on wireless debugging in its developer options; adb connect says more"
        return NotReached(f"adb sees no device {serial}; those there are: {others}", hint=hint)
    if state in ("offline", "connecting"):
        return NotReached(
            f"{serial} is {state}: adb sees it, and it does not answer",
            hint="unlock it, pull the cable and put it in again; adb reconnect does the same by the network",
        )
    if state in ("unauthorized", "authorizing"):
        return DeviceError(
            f"{serial} has not allowed this computer to debug it ({state})",
            hint="unlock the phone and accept its dialog; where none shows, revoke USB debugging authorisations in its "
            "developer options and put the cable in again",
        )
    if state.startswith("no permissions"):
        return DeviceError(
            f"this computer does not let adb use {serial}: {state}",
            hint="apt install android-sdk-platform-tools-common for the udev rules, join the group plugdev, and put "
            "the cable in again",
        )
    return DeviceError(
        f"expected {serial} to run Android, got the state {state!r}", hint=f"adb -s {serial} reboot starts it"
    )


def _last(said: str) -> str:
    lines = said.strip().splitlines()
    return lines[-1].strip() if lines else ""
