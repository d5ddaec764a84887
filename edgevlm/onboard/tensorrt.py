"""The job `tensorrt`: an ONNX file on a Jetson's GPU, by the `trtexec` that JetPack brings.

    {"job": "tensorrt", "onnx": PATH, "seconds": S}

Written from NVIDIA's documentation of trtexec and of the trace that `--exportTimes` writes (NVIDIA/TensorRT,
samples/trtexec/tracer.py names its keys). It has not been run: that takes a Jetson.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgevlm import schema
from edgevlm.errors import DeviceError
from edgevlm.onboard.figures import Times, spread
from edgevlm.process import interrupts
from edgevlm.process.progress import Progress

_JETPACK = Path("/usr/src/tensorrt/bin/trtexec")


def find() -> str | None:
    """Where trtexec is."""
    return shutil.which("trtexec") or (str(_JETPACK) if _JETPACK.is_file() else None)


def clock(job: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
    """Builds an engine in float16, loads it in a fresh process and times it; a `Times` in plain values.

    The latency is trtexec's own: input to the GPU, computation, output from it. Loading is the wall time of a process
    that loads the engine and infers once, of which the inference is taken off.

    Raises:
        DeviceError: there is no trtexec, or it failed.
    """
    program = find()
    if program is None:
        raise DeviceError(f"no trtexec: expected it on the PATH or at {_JETPACK}", hint="apt install tensorrt")
    with interrupts.temporary_folder() as scratch:
        engine, times = scratch / "model.engine", scratch / "times.json"
        progress("building the TensorRT engine", None)
        _run([program, f"--onnx={job['onnx']}", "--fp16", f"--saveEngine={engine}", "--skipInference"])
        progress("running it", None)
        began = time.perf_counter()
        _run([program, f"--loadEngine={engine}", "--warmUp=0", "--duration=0", "--iterations=1", "--avgRuns=1"])
        load_ms = 1e3 * (time.perf_counter() - began)
        seconds = [f"--duration={max(1, round(float(job['seconds'])))}", "--iterations=10"]
        _run([program, f"--loadEngine={engine}", "--warmUp=500", *seconds, f"--exportTimes={times}"])
        latencies_ms = read_latencies(times)
    first_ms = latencies_ms[0]
    found = Times(max(0.0, load_ms - first_ms), None, first_ms, spread(latencies_ms))
    plain: Mapping[str, Any] = schema.write(found)
    return plain


def read_latencies(path: Path) -> list[float]:
    """Each inference's latency in milliseconds, from what `--exportTimes` wrote.

    Raises:
        DeviceError: it is not that.
    """
    try:
        latencies_ms = [float(each["latencyMs"]) for each in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DeviceError(f"trtexec's times are not as documented: {error!r}") from error
    if not latencies_ms:
        raise DeviceError("trtexec's times are empty")
    return latencies_ms


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if "[E]" in line]
        raise DeviceError(f"trtexec ended with {done.returncode}: {' '.join(lines[-3:]) or done.stderr[-500:]}")
