"""This computer as a machine."""

from __future__ import annotations

import importlib.util
import platform
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgevlm.devices.answers import answers
from edgevlm.devices.far_side import PACKAGES
from edgevlm.process.children import process_of
from edgevlm.process.progress import Progress, silent


class Local:
    """This computer. Nothing is copied; each job gets a fresh process of this Python."""

    emulator: str | None = None

    def __init__(self) -> None:
        self.architecture = platform.machine()
        self.packages = frozenset(name for name in PACKAGES if importlib.util.find_spec(name))

    def put(self, local: Path, progress: Progress = silent) -> str:
        """The file where it lies."""
        return str(local.resolve())

    def ask(self, job: Mapping[str, Any], *, timeout_seconds: float) -> Iterator[Mapping[str, Any]]:
        """Runs one job in a fresh process; see `Machine`.

        Raises:
            DeviceError: it failed, took too long, or crashed.
            OutOfMemory: it was killed for want of memory.
        """
        command, environment = process_of("edgevlm.onboard")
        environment["TMPDIR"] = tempfile.gettempdir()  # so that what a killed one leaves goes with ours
        return answers(command, job, timeout_seconds=timeout_seconds, environment=environment)

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *error: object) -> None:
        pass
