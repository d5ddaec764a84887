"""Reads one job from stdin, does it, and says on stdout how it went; see the package's docstring."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TextIO

from edgevlm.errors import DeviceError, EdgeVLMError, named_failures
from edgevlm.interfaces import Progress
from edgevlm.onboard.failures import to_json

Job = Callable[[Mapping[str, Any], Progress], Mapping[str, Any]]
"""Takes the job and whom to tell, and gives the result, plain values."""

JOBS = {
    "count": "edgevlm.onboard.counting:count",
    "memory": "edgevlm.onboard.memory:watch",
    "run": "edgevlm.onboard.memory:run",
    "sustained": "edgevlm.onboard.sustained:sustain",
    "system": "edgevlm.onboard.system:describe",
    "time": "edgevlm.onboard.timing:clock",
}


def main() -> None:
    """One job."""
    line = sys.stdin.readline()
    out = _take_stdout()
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        job = json.loads(line)
        module, _, name = JOBS[job["job"]].partition(":")
        work: Job = getattr(import_module(module), name)
        with named_failures(f"the job {job['job']!r}"):
            result = work(job, lambda stage, share: _say(out, {"progress": {"stage": stage, "share": share}}))
    except EdgeVLMError as error:
        _say(out, {"error": to_json(error)})
        return
    except (ValueError, KeyError, TypeError) as error:
        expected = f"expected a job, one of {', '.join(JOBS)}, got {line.strip()[:200]!r}: {error!r}"
        _say(out, {"error": to_json(DeviceError(expected))})
        return
    except OSError as error:
        _say(out, {"error": to_json(DeviceError(str(error)))})
        return
    _say(out, {"result": dict(result)})


def _take_stdout() -> TextIO:
    """stdout for this module alone: what backends print goes to stderr."""
    mine = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return mine


def _say(out: TextIO, data: Mapping[str, Any]) -> None:
    out.write(json.dumps(data) + "\n")
    out.flush()


def _end_with_stdin() -> None:
    while sys.stdin.readline():
        pass
    os._exit(3)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # some backends' threads crash when the interpreter is taken down around them
