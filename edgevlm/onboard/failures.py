"""Errors that cross from a device to its host, by the name of their class, and what a process died of."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

from edgevlm import errors
from edgevlm.errors import DeviceError, EdgeVLMError, OutOfMemory

_SHELLS_OFFSET = 128  # a shell, and sshd, say 128 + the signal


def to_json(error: EdgeVLMError) -> dict[str, Any]:
    """The value of the key `error` in a line."""
    return {"kind": type(error).__name__, "message": error.message, "hint": error.hint}


def from_json(data: Mapping[str, Any]) -> EdgeVLMError:
    """The error that `to_json` wrote; one of an unknown kind is a DeviceError."""
    kind = getattr(errors, str(data.get("kind")), DeviceError)
    if not (isinstance(kind, type) and issubclass(kind, EdgeVLMError)) or kind is errors.MissingDependency:
        kind = DeviceError  # a missing package is one of the device, and installed there
    return kind(str(data.get("message")), hint=data.get("hint"))


def ended_without_a_word(code: int, stderr: str = "") -> DeviceError:
    """What became of a process that said no result.

    Args:
        code: Its exit code: negative for a signal, as `subprocess` has it, or 128 + the signal.
        stderr: The end of what it wrote there.
    """
    number = -code if code < 0 else code - _SHELLS_OFFSET
    if number == signal.SIGKILL:
        return OutOfMemory(
            "the process was killed: it needed more memory than there is",
            hint="a smaller recipe, or a device with more memory",
        )
    said = stderr.strip()[-500:]
    died = signal.Signals(number).name if number in {each.value for each in signal.Signals} else f"exit code {code}"
    return DeviceError(f"the process ended with {died} and without a result{': ' + said if said else ''}")
