"""Errors that cross from a device to its host, by the name of their class, and what a process died of."""

from __future__ import annotations

import signal
from collections.abc import Mapping

from edgevlm import errors
from edgevlm.errors import DeviceError, EdgeVLMError, MissingDependency, OutOfMemory
from edgevlm.process.children import signal_of


def from_json(data: object) -> EdgeVLMError:
    """The error that `to_json` wrote; one of an unknown kind is a DeviceError."""
    if isinstance(data, Mapping) and data.get("kind") == MissingDependency.__name__:
        # A package of the device, to be installed there.
        data = {**data, "kind": DeviceError.__name__}
    return errors.from_json(data, otherwise=DeviceError)


def ended_without_a_word(code: int, stderr: str = "") -> DeviceError:
    """What became of a process that said no result.

    Args:
        code: Its exit code: negative for a signal, as `subprocess` has it, or 128 + the signal.
        stderr: The end of what it wrote there.
    """
    number = signal_of(code)
    if number == signal.SIGKILL:
        return OutOfMemory(
            "the process was killed: it needed more memory than there is",
            hint="a smaller recipe, or a device with more memory",
        )
    said = stderr.strip()[-500:]
    died = f"exit code {code}" if number is None else number.name
    return DeviceError(f"the process ended with {died} and without a result{': ' + said if said else ''}")
