"""Counts what a bundle makes one core of a device execute, on an emulator of it.

The instructions are the device's own: backends choose kernels by what the emulated processor has and calls itself. The
time that it takes says nothing of the device. One thread runs, without random addresses, so that counts agree from one
time to the next: a `.pte` file's to a few instructions, a `.tflite` file's, which Python opens, to a few in a thousand.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.manifest import BundledComponent
from edgevlm.bundle.spec import F32, Array
from edgevlm.devices.answers import parsed
from edgevlm.devices.profile import Cluster
from edgevlm.emulation import plugin, processor, root, runner, tools
from edgevlm.emulation.plugin import between
from edgevlm.emulation.setup import Setup, prepare
from edgevlm.errors import DeviceError
from edgevlm.onboard.counting import BEFORE, FIRST_RUN, LOADED, PREPARED
from edgevlm.onboard.engines import sample_inputs
from edgevlm.onboard.failures import ended_without_a_word, from_json
from edgevlm.onboard.figures import Counts
from edgevlm.process import interrupts
from edgevlm.process.progress import Progress, silent
from edgevlm.targets.boundary import find_component, validate_inputs

_EVERY_SECONDS = 0.1
_RUNNER_SAYS = "error: "
_LARGEST_DIFFERENCE, _PYTHONS = 0.01, 50_000
"""Of two later runs' instructions, relative, or in all: Python adapts its own code for the first dozen of runs."""


@dataclass(frozen=True)
class Emulation:
    """One process on an emulated core, which opened a bundle and ran one component several times.

    Attributes:
        load: Of opening the bundle and the first run; of a part of an answer, without what comes before it.
        runs: Of each later run.
        outputs: Of the last run, by name.
        positions: Of a context that one run takes; None where there is none.
    """

    load: Counts
    runs: tuple[Counts, ...]
    outputs: Mapping[str, F32]
    positions: int | None = None

    @property
    def steady(self) -> Counts:
        """One later run; see `steady`."""
        return steady(self.runs)


def count(bundle: Bundle, component: str, cluster: Cluster, *, runs: int = 3, progress: Progress = silent) -> Emulation:
    """What a component of a bundle executes for a sample; or a part of an answer, of one that talks.

    Args:
        bundle: For `tflite` or `executorch`; that talks, for `tflite`.
        component: Which component, or part; see `edgevlm.onboard.answers.parts`.
        cluster: Whose core is emulated.
        runs: How many later runs there are.
        progress: Told how far it is.

    Raises:
        DeviceError: it cannot be emulated, it failed there, or later runs differ among each other.
    """
    inputs = sample_inputs(bundle, component) if bundle.manifest.dialogue is None else None
    found = emulate(bundle, component, inputs, cluster, runs=runs, progress=progress)
    steady(found.runs)
    return found


def emulate(
    bundle: Bundle,
    component: str,
    inputs: Mapping[str, Array] | None,
    cluster: Cluster,
    *,
    runs: int = 3,
    progress: Progress = silent,
) -> Emulation:
    """Opens a bundle on an emulated core, runs one component `1 + runs` times, and counts; see `count`.

    Args:
        inputs: Of the component; None for a part of an answer, which has none.
    """
    if not cluster.qemu_cpu:
        raise DeviceError(f"{cluster.core}: QEMU has no processor like it", hint="qemu-aarch64 -cpu help lists them")
    if runs < 1:
        raise DeviceError(f"runs: expected 1 or more, got {runs}")
    python = bundle.manifest.target == "tflite"
    if inputs is None and not python:
        raise ValueError("expected a bundle for tflite, whose parts Python runs")
    known = dict(bundle.components)
    arrays = {} if inputs is None else validate_inputs(find_component(known, component).spec, inputs)
    ready = prepare([bundle.manifest.target], progress)
    with interrupts.temporary_folder() as work:
        if python:
            guest, job = _python(ready, cluster), _job(bundle, component, arrays, runs, work)
        else:
            guest, job = _runner(ready, bundle, find_component(known, component), arrays, runs, work), ""
        command = [*_emulator(ready, cluster, work / "counts"), *guest]
        code = _run(command, job, work, f"counting {component} on {cluster.qemu_cpu}", 2 + 1 + runs, progress)
        positions = None
        if python:
            outputs, positions = _answers(work, code)
        else:
            outputs = _files(work, code, find_component(known, component))
        marks = plugin.read(work / "counts")
    after = [marks[FIRST_RUN + run] for run in range(1 + runs)]
    later = tuple(between(*pair) for pair in itertools.pairwise(after))
    load = between(marks[BEFORE], after[0])
    if PREPARED in marks:
        load = between(between(marks[LOADED], marks[PREPARED]), load)
    return Emulation(load, later, outputs, positions)


def steady(runs: Sequence[Counts]) -> Counts:
    """The run whose instructions are the median.

    Raises:
        DeviceError: runs differ by more than Python's own work does.
    """
    ordered = sorted(runs, key=lambda each: each.instructions)
    least, most = ordered[0].instructions, ordered[-1].instructions
    if most - least > max(_LARGEST_DIFFERENCE * most, _PYTHONS):
        raise DeviceError(
            f"expected later runs to execute about as many instructions, got {least:,} to {most:,}",
            hint="a component whose work depends on earlier runs cannot be counted",
        )
    return ordered[len(ordered) // 2]


def dispatch_warnings(bundle: Bundle, counts: Counts, cluster: Cluster) -> tuple[str, ...]:
    """What is wrong with the kernels that a backend chose, judged by a steady run's counts."""
    products = counts.dot_products + counts.matrix_products
    if bundle.manifest.recipe.activations.ranges != "float" and cluster.dot_product and not products:
        return (
            f"{cluster.core} multiplies int8 with dot products, and none was executed: the int8 layers run on slower "
            f"kernels, or in float (recipe {bundle.manifest.recipe.name})",
        )
    if products and not cluster.dot_product:
        return (
            f"{products:,} dot products were executed on {cluster.qemu_cpu}, which stands in for {cluster.core}, which "
            "has none: the device executes more instructions",
        )
    return ()


def _emulator(ready: Setup, cluster: Cluster, counts: Path) -> list[Path | str]:
    prefix = processor.prefix(ready.system, cluster)
    qemu = (*tools.without_randomness(), ready.qemu.path, "-cpu", cluster.qemu_cpu)
    return [*qemu, *plugin.arguments(ready.plugin, counts), "-L", prefix]


def _python(ready: Setup, cluster: Cluster) -> list[Path | str]:
    """QEMU's last arguments: `edgevlm.onboard` in the root file system's Python."""
    path = ":".join(str(part.path) for part in ready.packages)
    variables = (f"PYTHONPATH={path}", "PYTHONHASHSEED=0")
    python = processor.prefix(ready.system, cluster) / "usr" / "bin" / f"python{root.python(ready.system)}"
    return [*(word for each in variables for word in ("-E", each)), python, "-m", "edgevlm.onboard"]


def _job(bundle: Bundle, component: str, arrays: Mapping[str, Array], runs: int, work: Path) -> str:
    paths = {name: str(work / f"{index}.npy") for index, name in enumerate(arrays)}
    for name, array in arrays.items():
        np.save(paths[name], array)
    job = {"job": "count", "bundle": str(bundle.path.resolve()), "component": component, "inputs": paths, "runs": runs}
    return json.dumps(job) + "\n"


def _runner(
    ready: Setup, bundle: Bundle, component: BundledComponent, arrays: Mapping[str, Array], runs: int, work: Path
) -> list[Path | str]:
    """QEMU's last arguments: the runner with a component's file and inputs."""
    if ready.runner is None:
        raise ValueError("expected a runner")
    (work / "outputs").mkdir()
    paths = [work / str(index) for index in range(len(arrays))]
    for path, array in zip(paths, arrays.values(), strict=True):
        array.tofile(path)
    program = (ready.runner.path / runner.PROGRAM, bundle.path.resolve() / component.file, component.spec.name)
    return [*program, str(runs), work / "outputs", *paths]


def _run(command: Sequence[Path | str], job: str, work: Path, stage: str, marks: int, progress: Progress) -> int:
    """Runs the emulator to its end, which its marks tell how near it is; gives its exit code."""
    with (work / "stdout").open("wb") as stdout, (work / "stderr").open("wb") as stderr:
        words = [str(word) for word in command]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=stdout, stderr=stderr, env={})
        try:
            if process.stdin is None:
                raise ValueError("expected a pipe")
            with suppress(BrokenPipeError):  # it has ended already; what it left says why
                process.stdin.write(job.encode())
                process.stdin.flush()  # and left open: the job ends with it
            while process.poll() is None:
                seen = (work / "counts").read_bytes().count(b"\n") if (work / "counts").exists() else 0
                progress(stage, min(1.0, seen / marks))
                time.sleep(_EVERY_SECONDS)
        finally:
            process.kill()
            process.wait()
            if process.stdin is not None:
                with suppress(BrokenPipeError):  # what of the job is still to be written
                    process.stdin.close()
    return process.returncode


def _answers(work: Path, code: int) -> tuple[dict[str, F32], int | None]:
    """What the job's result has of outputs, and of positions."""
    lines = (work / "stdout").read_bytes().splitlines()
    said = (parsed(lines[-1]) if lines else None) or {}  # a line that was being written when it ended is none
    if "error" in said:
        raise from_json(said["error"])
    if "result" not in said:
        raise ended_without_a_word(code, _complaint(work))
    outputs = {name: np.array(values, np.float32) for name, values in said["result"]["outputs"].items()}
    return outputs, said["result"].get("positions")


def _files(work: Path, code: int, component: BundledComponent) -> dict[str, F32]:
    """What the runner wrote of outputs."""
    if code:
        said = _complaint(work)
        if said.startswith(_RUNNER_SAYS):
            raise DeviceError(f"{component.file}: {said.removeprefix(_RUNNER_SAYS)}")
        raise ended_without_a_word(code, said)
    names = [tensor.name for tensor in component.spec.outputs]
    return {name: np.fromfile(work / "outputs" / str(index), np.float32) for index, name in enumerate(names)}


def _complaint(work: Path) -> str:
    return tools.complaint((work / "stderr").read_text(encoding="utf-8", errors="replace"), 0)
