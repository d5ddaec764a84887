"""The seam between a benchmark and the machine that it runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from edgevlm.errors import ConnectionLost
from edgevlm.process.progress import Progress, silent

_T = TypeVar("_T")
TRIES = 3
"""How often something is tried while the connection is lost again and again."""


class Machine(Protocol):
    """A machine that runs `edgevlm.onboard`, with a temporary folder of ours on it; a context manager.

    Leaving the context removes the folder and whatever of ours still runs there.
    """

    architecture: str
    """As `uname -m` has it: `x86_64`, `aarch64`."""

    packages: frozenset[str]
    """Those of the packages that bundles need which its Python can import, such as `torch`."""

    emulator: str | None
    """What plays the machine where it is not a real one, such as `QEMU 7.2`; None for a real one."""

    def put(self, local: Path, progress: Progress = silent) -> str:
        """Copies a file or a folder there, once, however often it is asked to.

        Returns:
            Its path there.

        Raises:
            DeviceError: there is no space, or no permission.
            ConnectionLost: the machine is no longer reached.
        """

    def ask(self, job: Mapping[str, Any], *, timeout_seconds: float) -> Iterator[Mapping[str, Any]]:
        """Runs one job in a fresh process, and gives what it says line by line, the result last.

        Raises:
            DeviceError: it failed; the message is the machine's own.
            ConnectionLost: the machine is no longer reached; the same job can be asked again.
        """

    def __enter__(self) -> Machine: ...

    def __exit__(self, *error: object) -> None: ...


def try_again(do: Callable[[], _T], before_again: Callable[[int], None] = lambda number: None) -> _T:
    """What `do` returns; where it loses the connection it is called again, `TRIES` times in all.

    Args:
        do: Connects again by itself.
        before_again: Called with the number of the try that follows, from 2.

    Raises:
        ConnectionLost: it lost the connection each time.
    """
    for number in range(2, TRIES + 1):
        try:
            return do()
        except ConnectionLost:
            before_again(number)
    return do()
