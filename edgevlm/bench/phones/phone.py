"""Figures of an Android phone, reached by adb, whose models run in executables that the user names: see `runners.py`.

**None of this has run on a phone yet.** It was tried with the system's real adb server and client against a stand-in
(`tests/adbd.py`) that speaks adbd's side of the protocol and has a real shell run the commands: that covers the
connection, its loss, what is sent and removed, exit codes, and the errors. The runners were scripts that print what
their sources say that they print; Android's `getprop`, `dumpsys` and `logcat` were scripts as well, and the clocks,
sensors and permissions of a real phone may differ.

How the figures differ from those of other machines:

- Nothing says how much of a file was in memory before it was opened, and without root it cannot be dropped:
  `page_cache_share` is None. The file has just been sent, so "cold" is a fresh process, not a cold disk.
- Inputs are the runner's own, random or ones. Preparing pictures and texts is not timed. What that means for a model
  that talks, `functions.py` says.
- A sustained run is a process after the other, with a load between two windows.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgevlm import schema
from edgevlm.bench.artefacts import BundledSubject
from edgevlm.bench.measure import Effort, measure
from edgevlm.bench.phones import runners
from edgevlm.bench.phones.functions import Function, function
from edgevlm.bench.phones.runners import Runner, Work
from edgevlm.bench.results import Artefact, Failed, Result
from edgevlm.devices import android
from edgevlm.devices.adb import Adb
from edgevlm.devices.address import parse
from edgevlm.devices.device import Device
from edgevlm.devices.machine import Machine, try_again
from edgevlm.errors import ConnectionLost, DeviceError
from edgevlm.onboard.figures import Memory, Sustained, Window
from edgevlm.process import interrupts
from edgevlm.process.progress import Progress, silent

_PARENT = "/data/local/tmp"
_WINDOW_SECONDS = 5.0
_PARTING_SECONDS = 10.0
_SPARE_BYTES = 16_000_000
_OUTPUT = "edgevlm-output"
_STATUS = (
    "while read -r k v u; do case $k in VmHWM:|VmRSS:|RssAnon:|RssFile:) echo $k $v;; esac; done < /proc/$p/status"
)


def measure_phone(
    device: Device, subjects: Sequence[BundledSubject], effort: Effort, progress: Progress
) -> Iterator[Result]:
    """Runs each component of each bundle on a phone; one that fails does not stop the others.

    Raises:
        DeviceError: the phone is not reached, or cannot run any.
        ConnectionLost: it went away and did not come back.
    """
    profile = device.profile
    ready = []
    with tempfile.TemporaryDirectory(prefix="edgevlm-") as scratch:
        for subject in subjects:
            try:
                runner, executable = runners.find(profile.runner, subject.artefact.target, profile.address)
                runs = function(subject.bundle, subject.component, Path(scratch))
                ready.append(PhoneSubject(subject, runner, executable, runs))
            except DeviceError as error:
                yield Failed(device.name, subject.artefact, error.message, error.hint, subject.component)
        if ready:
            executables = {each.executable: each.runner for each in ready}
            with Phone(Adb(parse(profile.address).name), executables, progress) as phone:
                yield from measure(phone, device.name, ready, effort, progress)


@dataclass(frozen=True)
class PhoneSubject:
    """A component of a bundle, or a part of an answer, and what runs it on a phone; a `Subject`."""

    subject: BundledSubject
    runner: Runner
    executable: Path
    runs: Function
    on_cpu: bool = True

    @property
    def artefact(self) -> Artefact:
        """The bundle."""
        return self.subject.artefact

    @property
    def component(self) -> str:
        """The component's name."""
        return self.subject.component

    def job(self, machine: Machine, progress: Progress) -> Mapping[str, Any]:
        """Sends the one file that holds what is run, and the runner."""
        return {
            "model": machine.put(self.runs.file, progress),
            "function": self.runs.name,
            "positions": self.runs.positions,
            "executable": machine.put(self.executable, progress),
            "runner": self.runner.name,
        }

    def command(self, device: str) -> str:
        """`edgevlm bench ...`."""
        return self.subject.command(device)


class Phone:
    """A phone as a machine. Its jobs are those of `edgevlm.onboard`; the runner does them.

    Args:
        adb: The connection.
        executables: The runners here, and their kinds.
        progress: Told what is sent.
    """

    emulator: str | None = None
    packages: frozenset[str] = frozenset()

    def __init__(self, adb: Adb, executables: Mapping[Path, Runner], progress: Progress = silent) -> None:
        self.architecture = ""
        self.folder = ""
        self._adb, self._executables, self._progress = adb, executables, progress
        self._lost = False
        self._sent: dict[tuple[Path, int, int], str] = {}
        self._held = ExitStack()

    def __enter__(self) -> Phone:
        self._progress(f"connecting to {self._adb.serial}", None)
        self._adb.open()
        for executable in self._executables:
            android.check_fits(self._adb, executable)
        with ExitStack() as held:
            with interrupts.put_off():
                self.folder = self._adb.do(f"mktemp -d {_PARENT}/edgevlm-XXXXXX").strip()
                held.callback(self._leave)
                held.enter_context(interrupts.at_stop(self._remove))
            self.architecture = self._adb.do("uname -m").strip()
            self._held = held.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._held.close()

    def put(self, local: Path, progress: Progress = silent) -> str:
        """Copies a file there, once; see `Machine`.

        Raises:
            DeviceError: there is no space, or no permission.
            ConnectionLost: the phone is no longer reached.
        """
        local = local.resolve()
        stat = local.stat()
        key = (local, stat.st_size, stat.st_mtime_ns)  # a file that has been changed since is another file
        if key not in self._sent:
            there = f"{self.folder}/{len(self._sent)}-{re.sub(r'[^A-Za-z0-9._-]', '_', local.name)}"

            def put() -> None:
                with self._noting_loss():
                    self._reach()
                    self._send(local, there, progress)

            try_again(put)
            self._sent[key] = there
        return self._sent[key]

    def ask(self, job: Mapping[str, Any], *, timeout_seconds: float) -> Iterator[Mapping[str, Any]]:
        """Does one job; see `Machine`.

        Raises:
            DeviceError: it failed, took too long, or crashed.
            OutOfMemory: it was killed for want of memory.
            ConnectionLost: the phone is no longer reached; the same job can be asked again.
        """
        self._reach()
        try:
            with self._noting_loss():
                yield from self._do(job, timeout_seconds)
        except ConnectionLost:
            raise
        except BaseException:
            with suppress(DeviceError):  # what took too long is still at it
                self._adb.do(f"{_end_all(self.folder)}; true", seconds=_PARTING_SECONDS)
            raise

    def _do(self, job: Mapping[str, Any], timeout_seconds: float) -> Iterator[Mapping[str, Any]]:
        kind = job["job"]
        if kind == "system":
            versions = {path.name: _fingerprint(path) for path in self._executables}
            yield {"result": schema.write(android.describe(self._adb, versions))}
            return
        runner = next(each for each in self._executables.values() if each.name == job["runner"])
        work = Work(job["model"], job["function"], int(job["threads"]))
        task = _Task(self._adb, self.folder, job["executable"], runner, work, timeout_seconds)
        if kind == "sustained":
            yield from task.sustained(float(job["seconds"]))
        elif kind == "memory":
            yield {"result": schema.write(task.memory())}
        elif kind == "time":
            times = runner.time(task.run, work, float(job["seconds"]))
            yield {"result": schema.write(replace(times, positions=job["positions"]))}
        else:
            raise DeviceError(f"a phone does not know the job {kind!r}")

    @contextmanager
    def _noting_loss(self) -> Iterator[None]:
        """Has the next `_reach` connect again where the block loses the connection."""
        try:
            yield
        except ConnectionLost:
            self._lost = True
            raise

    def _reach(self) -> None:
        """Connects again where the connection was lost, ends what still runs, and sends what is no longer there."""
        if not self._lost:
            return
        self._progress(f"connecting to {self._adb.serial} again", None)
        self._adb.reopen()
        self._adb.do(f"{_end_all(self.folder)}; mkdir -p {self.folder}")
        for (local, size, _), there in self._sent.items():
            if self._adb.do(f"wc -c < {there} || echo").strip() != str(size):
                self._send(local, there, self._progress)
        self._lost = False

    def _send(self, local: Path, there: str, progress: Progress) -> None:
        size = local.stat().st_size
        progress(f"sending {local.name} to {self._adb.serial}, {size / 1e6:.1f} MB", None)
        free = re.search(r"([0-9]+) +[0-9]+%", self._adb.do(f"df -k {_PARENT}"))
        if free is not None and int(free[1]) * 1024 < size + _SPARE_BYTES:
            raise DeviceError(
                f"no space left on {self._adb.serial}: {local.name} has {size / 1e6:.0f} MB, and "
                f"{int(free[1]) * 1024 / 1e6:.0f} MB are free in {_PARENT}",
                hint="make space below /data on the phone",
            )
        self._adb.push(local, there)

    def _leave(self) -> None:
        """Removes the folder; says so where that does not work."""
        try:
            if self._lost:
                self._adb.reopen()
            self._remove()
        except DeviceError as error:
            self._progress(f"{self.folder} stays on {self._adb.serial}: {error.message}", None)

    def _remove(self) -> None:
        self._adb.do(f"{_end_all(self.folder)}; rm -rf {self.folder}", seconds=_PARTING_SECONDS)


@dataclass(frozen=True)
class _Task:
    """A runner on the phone, and what it has to do there."""

    adb: Adb
    folder: str
    executable: str
    runner: Runner
    work: Work
    timeout_seconds: float

    def run(self, arguments: Sequence[str]) -> str:
        """Runs it with these arguments, and gives all that it wrote and logged."""
        return self._watch(arguments)[1]

    def memory(self) -> Memory:
        """Peaks of a process of a few inferences, looked at every hundredth of a second."""
        seen: list[str] = []

        def run(arguments: Sequence[str]) -> str:
            looks, said = self._watch(arguments, _STATUS, 0.01)
            seen.append(looks)
            return said

        self.runner.run_slowly(run, self.work)
        peaks = dict.fromkeys(("VmHWM:", "RssAnon:", "RssFile:"), 0)
        for name, kilobytes in re.findall(r"^(\w+:) ([0-9]+)$", seen[-1], re.MULTILINE):
            peaks[name] = max(peaks.get(name, 0), int(kilobytes) * 1024)
        if not all(peaks.values()):
            raise DeviceError("the phone does not say what memory a process has", hint="Android 7 or newer does")
        return Memory(peaks["RssAnon:"], peaks["RssFile:"], peaks["VmHWM:"], None)

    def sustained(self, seconds: float) -> Iterator[Mapping[str, Any]]:
        """Windows until the time is up, each a process; the result last."""
        windows: list[Window] = []
        heat = ""
        clocks: list[str] = []

        def run(arguments: Sequence[str]) -> str:
            looks, said = self._watch(arguments, android.CLOCKS, 0.2)
            clocks[:] = looks.strip().splitlines()[-1:]
            return said

        began = time.monotonic()
        while (now := time.monotonic() - began) < seconds:
            said = f"running without a pause, {now:.0f} of {seconds:.0f} s"
            yield {"progress": {"stage": said, "share": now / seconds}}
            median_ms = self.runner.median_ms(run, self.work, min(_WINDOW_SECONDS, seconds))
            heat = self.adb.shell(android.HEAT)[1]
            at = time.monotonic() - began
            clock = android.clock_mhz(clocks[0]) if clocks else None
            windows.append(Window(at, median_ms, android.temperature_c(heat), clock))
        yield {"result": schema.write(Sustained(tuple(windows), android.throttled(heat)))}

    def _watch(self, arguments: Sequence[str], look: str = "", every_seconds: float = 1.0) -> tuple[str, str]:
        """Runs the executable, and beside it a look at `$p`, its process, again and again.

        Returns:
            What the looks wrote, and what the executable wrote and logged.
        """
        words = shlex.join([self.executable, *arguments])
        beside = f"while kill -0 $p; do {look}; sleep {every_seconds}; done 2> /dev/null"
        line = "\n".join(
            (
                f"cd {self.folder} && chmod 755 {self.executable} || exit",
                f"{words} > output 2>&1 &",
                "p=$!; echo $p > pid",
                beside if look else "",
                "wait $p; code=$?; rm -f pid",
                f"echo; echo {_OUTPUT}; cat output",
                self.runner.log,
                "exit $code",
            )
        )
        code, text = self.adb.shell(line, seconds=self.timeout_seconds)
        looks, _, said = text.partition(f"\n{_OUTPUT}\n")
        if code:
            raise runners.failure(self.runner, code, said or looks)
        return looks, said


def _end_all(folder: str) -> str:
    """Shell: ends a runner of ours that still runs."""
    return f"[ -f {folder}/pid ] && kill -9 $(cat {folder}/pid) 2> /dev/null"


def _fingerprint(path: Path) -> str:
    return "sha256 " + hashlib.sha256(path.read_bytes()).hexdigest()[:12]
