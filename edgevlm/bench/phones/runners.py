"""The executables that run a model on a phone, where there is no Python: what they are told, and what they say.

A device's profile names them with `runner`: one of them on this computer, or a folder of both. Each is known by its
name, which has to contain

    benchmark_model     for .tflite: TensorFlow Lite's. Not the tool of that name of LiteRT's CompiledModel, which takes
                        neither the number of threads nor XNNPACK from its command line.
    executor_runner     for .pte: ExecuTorch's, with XNNPACK and logging, of a version that logs every execution.

Neither gives percentiles that a `Spread` could be filled with, so single times are taken: of `benchmark_model` rounds
of two inferences in a fresh process, warmed up, whose fastest and slowest are all that there is; of `executor_runner`
every execution's own line. A percentile that a runner computes over many runs is used for windows of a sustained run
alone, and then it is the median.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgevlm.errors import DeviceError
from edgevlm.onboard.failures import ended_without_a_word
from edgevlm.onboard.figures import Times, spread
from edgevlm.process.paths import user_path

Run = Callable[[Sequence[str]], str]
"""Runs the executable with these arguments, and gives all that it wrote and logged."""

_WARM_UP_SECONDS = 0.3
_ROUNDS_A_SECOND = 10  # of effort: each takes a load, the warm-up and two inferences
_LEAST_ROUNDS, _MOST_ROUNDS = 5, 50
_LEAST_EXECUTIONS, _MOST_EXECUTIONS = 5, 400  # the phone's log forgets more lines than these
_WATCHED_SECONDS = 0.4


@dataclass(frozen=True)
class Work:
    """What is run: a function of a model, by its path over there, on so many threads."""

    model: str
    function: str
    threads: int


class Runner(Protocol):
    """One kind of executable."""

    name: str
    """What its file name contains."""
    origin: str
    """Where it is from, for those who have none."""
    log: str
    """Shell: prints what the process `$p` logged."""

    def time(self, run: Run, work: Work, seconds: float) -> Times:
        """Load, first inference, and later ones for about so long."""

    def run_slowly(self, run: Run, work: Work) -> None:
        """A few inferences that take long enough to be watched meanwhile."""

    def median_ms(self, run: Run, work: Work, seconds: float) -> float:
        """Of inferences one after the other, for about so long."""


class BenchmarkModel:
    """TensorFlow Lite's `benchmark_model`."""

    name = "benchmark_model"
    origin = (
        "TensorFlow Lite's benchmark_model for Android: the nightly android_aarch64 command-line binary that LiteRT's "
        "performance page links to, or bazel build -c opt --config=android_arm64 //tensorflow/lite/tools/benchmark:"
        "benchmark_model in TensorFlow's sources"
    )
    log = ":"

    def time(self, run: Run, work: Work, seconds: float) -> Times:
        """See `Runner`."""
        rounds = min(_MOST_ROUNDS, max(_LEAST_ROUNDS, round(seconds * _ROUNDS_A_SECOND)))
        said = [run(self._arguments(work, runs=2, warm_up_seconds=_WARM_UP_SECONDS)) for _ in range(rounds)]
        times_ms = []
        for each in said:
            stats = self._stats(each)
            if stats["count"] != 2:
                raise DeviceError(f"benchmark_model ran {stats['count']:.0f} inferences, expected 2")
            same = stats["curr"]  # it names one time where both are the same
            times_ms += [stats.get("min", same) / 1e3, stats.get("max", same) / 1e3]
        timings = re.search(r"Inference timings in us: Init: ([0-9.e+]+), First inference: ([0-9.e+]+)", said[0])
        if timings is None:
            raise self._strange(said[0])
        return Times(float(timings[1]) / 1e3, None, float(timings[2]) / 1e3, spread(times_ms))

    def run_slowly(self, run: Run, work: Work) -> None:
        """See `Runner`."""
        run([*self._arguments(work, runs=2, warm_up_seconds=0), f"--run_delay={_WATCHED_SECONDS / 2}"])

    def median_ms(self, run: Run, work: Work, seconds: float) -> float:
        """See `Runner`."""
        said = run([*self._arguments(work, runs=1, warm_up_seconds=0), f"--min_secs={seconds}"])
        stats = self._stats(said)
        if "median" in stats:
            return stats["median"] / 1e3
        if stats["count"] == 1:
            return stats["curr"] / 1e3
        raise DeviceError("this benchmark_model is too old to tell a median", hint=f"expected {self.origin}")

    def _arguments(self, work: Work, *, runs: int, warm_up_seconds: float) -> list[str]:
        return [
            f"--graph={work.model}",
            f"--signature_to_run_for={work.function}",
            f"--num_threads={work.threads}",
            "--use_xnnpack=true",
            "--warmup_runs=1",
            f"--warmup_min_secs={warm_up_seconds}",
            f"--num_runs={runs}",
            *(["--min_secs=0"] if runs > 1 else []),
        ]

    def _stats(self, said: str) -> Mapping[str, float]:
        """The figures of the last row of runs, in microseconds; the row before it is the warm-up."""
        ignored = re.search(r"Unconsumed cmdline flags: *(.*)", said)
        if ignored is not None:  # it would run another component, or on other threads, than it was told
            raise DeviceError(f"this benchmark_model does not know {ignored[1]}", hint=f"expected {self.origin}")
        rows = re.findall(r"count=.*", said)
        if len(rows) < 2:
            raise self._strange(said)
        found = {name: float(value) for name, value in re.findall(r"(\w+)=([0-9][0-9.e+]*)", rows[-1])}
        if not {"count", "curr"} <= set(found):
            raise self._strange(said)
        return found

    def _strange(self, said: str) -> DeviceError:
        return DeviceError(
            f"this is no output of TensorFlow Lite's benchmark_model: ...{said.strip()[-300:]}",
            hint=f"expected {self.origin}",
        )


class ExecutorRunner:
    """ExecuTorch's `executor_runner`."""

    name = "executor_runner"
    origin = (
        "ExecuTorch's executor_runner for Android, which devtools/scripts/benchmark_android.sh in its sources builds "
        "with Android's NDK (-DEXECUTORCH_BUILD_EXECUTOR_RUNNER=ON -DEXECUTORCH_BUILD_XNNPACK=ON "
        "-DEXECUTORCH_ENABLE_LOGGING=ON)"
    )
    # On Android it logs to the system's log, which may take a moment; built otherwise, to stderr.
    log = "sleep 0.3; logcat -d -v raw --pid=$p -s ExecuTorch:I 2> /dev/null"

    def time(self, run: Run, work: Work, seconds: float) -> Times:
        """See `Runner`."""
        one_ms = self._one_ms(run, work)
        cold = 1 + math.ceil(1e3 * _WARM_UP_SECONDS / one_ms)
        wanted = min(_MOST_EXECUTIONS, max(_LEAST_EXECUTIONS, math.ceil(1e3 * seconds / one_ms)))
        cold = min(cold, _MOST_EXECUTIONS)
        load_ms, times_ms = self._execute(run, work, cold + wanted)
        return Times(load_ms, None, times_ms[0], spread(times_ms[cold:]))

    def run_slowly(self, run: Run, work: Work) -> None:
        """See `Runner`."""
        self._execute(run, work, self._count(run, work, _WATCHED_SECONDS))

    def median_ms(self, run: Run, work: Work, seconds: float) -> float:
        """See `Runner`."""
        _, times_ms = self._execute(run, work, 1 + self._count(run, work, seconds))
        return spread(times_ms[1:]).median

    def _count(self, run: Run, work: Work, seconds: float) -> int:
        return min(2 * _MOST_EXECUTIONS, max(3, math.ceil(1e3 * seconds / self._one_ms(run, work))))

    def _one_ms(self, run: Run, work: Work) -> float:
        """About what one execution takes."""
        return max(1e-3, min(self._execute(run, work, 3)[1]))

    def _execute(self, run: Run, work: Work, executions: int) -> tuple[float, list[float]]:
        """Time to load, and of each execution, in milliseconds."""
        said = run(
            [
                f"--model_path={work.model}",
                f"--method_name={work.function}",
                f"--cpu_threads={work.threads}",
                f"--num_executions={executions}",
            ]
        )
        load = re.search(r"Model loaded in ([0-9.]+) ms", said)
        times = re.findall(r"Iteration [0-9]+ of [0-9]+: ([0-9.]+) ms", said)
        if load is None or not times:
            raise DeviceError(
                f"this executor_runner logs neither load nor executions: ...{said.strip()[-300:]}",
                hint=f"expected {self.origin}",
            )
        if len(times) != executions:
            raise DeviceError(
                f"the phone's log holds {len(times)} of {executions} executions", hint="adb logcat -G 4M enlarges it"
            )
        return float(load[1]), [float(each) for each in times]


_RUNNERS: Mapping[str, Runner] = {"tflite": BenchmarkModel(), "executorch": ExecutorRunner()}


def find(named: str, target: str, address: str) -> tuple[Runner, Path]:
    """The runner of a target's files, and where it lies here.

    Args:
        named: The profile's `runner`.
        address: The phone's, for a message.

    Raises:
        DeviceError: there is none.
    """
    runner = _RUNNERS.get(target)
    if runner is None:
        raise DeviceError(f"Android runs {' and '.join(_RUNNERS)}: this bundle is for {target}")
    example = f"{{like: galaxy-s23, address: '{address}', runner: /path/to/{runner.name}}}"
    hint = f"get {runner.origin}; then name it in a file for --devices, such as my-phone: {example}"
    if not named:
        raise DeviceError(f"a phone runs {target} bundles with {runner.name}, and no runner is named", hint=hint)
    path = user_path(named)
    candidates = sorted(path.iterdir()) if path.is_dir() else [path]
    for each in candidates:
        if runner.name in each.name and each.is_file():
            return runner, each.resolve()
    raise DeviceError(
        f"runner: expected a file whose name contains {runner.name}, or a folder of it: {path}", hint=hint
    )


def failure(runner: Runner, code: int, said: str) -> DeviceError:
    """What became of a runner that ended with another exit code than 0."""
    hint = f"expected {runner.origin}"
    unknown = re.search(r"unknown command line flag '(\w+)'", said)
    if unknown is not None:
        return DeviceError(f"this {runner.name} does not know --{unknown[1]}: it is another version", hint=hint)
    last = said.strip().splitlines()[-1:]
    if code in (126, 127) or "CANNOT LINK EXECUTABLE" in said:
        return DeviceError(f"{runner.name} cannot be started on the phone: {' '.join(last)}", hint=hint)
    return ended_without_a_word(code, said)
