"""Does one job; see the package's docstring."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from edgevlm.errors import DeviceError
from edgevlm.onboard.protocol import Say, answer, telling
from edgevlm.process.progress import Progress

Job = Callable[[Mapping[str, Any], Progress], Mapping[str, Any]]
"""Takes the job and whom to tell, and gives the result, plain values."""

JOBS = {
    "count": "edgevlm.onboard.counting:count",
    "memory": "edgevlm.onboard.memory:watch",
    "providers": "edgevlm.onboard.engines:providers",
    "run": "edgevlm.onboard.memory:run",
    "sustained": "edgevlm.onboard.sustained:sustain",
    "system": "edgevlm.onboard.system:describe",
    "tensorrt": "edgevlm.onboard.tensorrt:clock",
    "time": "edgevlm.onboard.timing:clock",
}


def do(job: Mapping[str, Any], say: Say) -> None:
    """One job.

    Raises:
        DeviceError: there is none of that name.
    """
    name = job.get("job") if isinstance(job, Mapping) else None
    if name not in JOBS:
        raise DeviceError(f"job: expected one of {', '.join(JOBS)}, got {name!r}")
    module, _, function = JOBS[name].partition(":")
    work: Job = getattr(import_module(module), function)
    say({"result": dict(work(job, telling(say)))})


if __name__ == "__main__":
    answer(do, orphaned=lambda: os._exit(3))
    sys.stderr.flush()
    os._exit(0)  # some backends' threads crash when the interpreter is taken down around them
