"""What every benchmark shares: taking turns, fresh processes, and saying which machine a result came from."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgevlm.errors import EdgeVLMError
from edgevlm.process.writing import write_atomically

RESULTS = Path(__file__).parent / "results"
_STATUS = Path("/proc/self/status")
_PACKAGES = (
    *("edgevlm", "torch", "transformers", "coremltools", "executorch", "litert-torch", "ai-edge-litert", "numpy"),
    *("nncf", "ai-edge-quantizer", "onnxruntime", "openvino"),
)
_INSTRUCTIONS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
"""What kernels for float and int8 products look for, as Linux names it."""


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """A benchmark's options, with those that say where its result is kept: `keep` and `json`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="keep the result in benchmarks/results/")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there instead")
    return parser


@contextmanager
def plain_errors() -> Iterator[None]:
    """Ends the program with what went wrong and a hint, or, stopped by Ctrl-C, with how it goes on."""
    try:
        yield
    except EdgeVLMError as error:
        print(f"error: {error.message}" + (f"\n  hint: {error.hint}" if error.hint else ""), file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)


def take_turns(contenders: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 2) -> dict[str, float]:
    """The median wall time of each contender in milliseconds; see `clock_rounds`."""
    return {name: times.wall_ms for name, times in clock_turns(contenders, rounds, warm_up).items()}


@dataclass(frozen=True)
class Times:
    """Median times of a contender in milliseconds; `cpu_ms` is that of all the process's threads."""

    wall_ms: float
    cpu_ms: float


@dataclass(frozen=True)
class Rounds:
    """Every time of a contender in milliseconds, in the order of the rounds."""

    walls_ms: tuple[float, ...]
    cpus_ms: tuple[float, ...]

    @property
    def median(self) -> Times:
        return Times(statistics.median(self.walls_ms), statistics.median(self.cpus_ms))


def clock_turns(contenders: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 2) -> dict[str, Times]:
    """The median times of each contender; see `clock_rounds`."""
    return {name: each.median for name, each in clock_rounds(contenders, rounds, warm_up).items()}


def clock_rounds(contenders: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 2) -> dict[str, Rounds]:
    """Times each contender.

    They run in turn, so that whatever else the machine does meets all of them, and in the opposite order every other
    round, so that each follows the others, with their data in the caches, as often as they follow it.

    Args:
        contenders: Name -> what to time.
        rounds: How often each is timed.
        warm_up: Rounds before that are not counted.
    """
    walls_ms: dict[str, list[float]] = {name: [] for name in contenders}
    cpus_ms: dict[str, list[float]] = {name: [] for name in contenders}
    in_order = list(contenders.items())
    for turn in range(rounds + warm_up):
        for name, run in in_order if turn % 2 == 0 else reversed(in_order):
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            cpus_ms[name].append(1e3 * (time.process_time() - cpu))
            walls_ms[name].append(1e3 * (time.perf_counter() - wall))
    return {name: Rounds(tuple(walls_ms[name][warm_up:]), tuple(cpus_ms[name][warm_up:])) for name in contenders}


def in_fresh_process(*arguments: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Runs a Python module with arguments; it prints one JSON object as the last line of stdout."""
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | (environment or {}))
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def peak_rss_mb() -> float:
    """The most memory that this process has had resident so far, in MB of 10^6 bytes.

    On Linux from `VmHWM`: `ru_maxrss` survives an exec, so a child's would be at least its parent's.
    """
    if _STATUS.exists():
        return resident_mb("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def resident_mb(kind: str) -> float:
    """A line of Linux' `/proc/self/status` in MB of 10^6 bytes.

    Args:
        kind: `VmRSS` is what is resident now, `VmHWM` its peak, `RssAnon` the process's own part of it and `RssFile`
            that of mapped files, which the system can drop and read again.
    """
    line = next(line for line in _STATUS.read_text(encoding="utf-8").splitlines() if line.startswith(f"{kind}:"))
    return int(line.split()[1]) * 1024 / 1e6


def machine() -> dict[str, Any]:
    """Processor, its vector instructions, cores, memory, system, and the versions of what shapes a result.

    `load_at_end` is the mean number of busy processes in the last minute: more than the benchmark's own one, and
    the machine was shared.
    """
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "instructions": _instructions(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load_at_end": round(os.getloadavg()[0], 2),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": versions,
    }


def keep(name: str, figures: Mapping[str, Any], command: str, path: Path | None = None) -> Path:
    """Writes a result to `path`, which is `benchmarks/results/NAME.json` unless told otherwise, and prints where."""
    path = path or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"command": command, "machine": machine(), **figures}, indent=2) + "\n")
    print(f"kept in {path}")
    return path


def _instructions() -> list[str]:
    try:
        known = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return []
    return [name for name in _INSTRUCTIONS if name in known]


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
