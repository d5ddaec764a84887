"""Phones: the system's real adb server and client, on a port of their own, and a stand-in for the phone (`adbd.py`)."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import library
import pytest
from adbd import PROPERTIES, Adbd, Phone, listing
from ai_edge_litert.interpreter import Interpreter

from edgevlm import schema
from edgevlm.bench.artefacts import subjects
from edgevlm.bench.measure import Effort
from edgevlm.bench.phones import runners
from edgevlm.bench.phones.functions import function
from edgevlm.bench.phones.phone import measure_phone
from edgevlm.bench.phones.runners import BenchmarkModel, ExecutorRunner, Work
from edgevlm.bench.results import Failed, Measured, Result, latest
from edgevlm.bench.worker import Assignment
from edgevlm.bundle.bundle import Bundle
from edgevlm.devices import adb as adb_module
from edgevlm.devices import android
from edgevlm.devices.adb import Adb
from edgevlm.devices.connection import NotReached
from edgevlm.devices.device import Device
from edgevlm.devices.profile import Profile
from edgevlm.errors import ConnectionLost, DeviceError, OutOfMemory
from edgevlm.process.progress import silent

needs_adb = pytest.mark.skipif(shutil.which("adb") is None, reason="needs adb: apt install adb")
HERE = Path(__file__).parent
QUICK = Effort(seconds=0.2, threads=(2,), processes=1)
WORK = Work("/m", "encode_image", 1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A port and a home of its own, so that neither the user's adb server nor their keys are touched."""
    patch = pytest.MonkeyPatch()
    patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    patch.setenv("ANDROID_ADB_SERVER_PORT", str(free_port()))
    for name in ("ADB_SERVER_SOCKET", "ANDROID_SERIAL"):
        patch.delenv(name, raising=False)
    patch.setattr(adb_module, "PAUSES_SECONDS", (0.5, 1.0))
    yield
    subprocess.run(["adb", "kill-server"], check=False, capture_output=True)
    patch.undo()


@pytest.fixture
def phone(tmp_path: Path, server: None) -> Phone:
    return Phone(tmp_path / "phone")


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder of runners."""
    folder = tmp_path / "runners"
    folder.mkdir()
    for name in ("benchmark_model", "executor_runner"):
        script(folder / name, (HERE / "phone" / f"{name}_stand_in.py").read_text(), sys.executable)
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def script(path: Path, text: str, shell: str = "/bin/sh") -> Path:
    path.write_text(f"#!{shell}\n{text}\n")
    return path


def device(adbd: Adbd, runner: Path | str) -> Device:
    profile = Profile("Phone", "adb", "", ("tflite", "executorch"), address=f"adb://{adbd.serial}", runner=str(runner))
    return Device("my-phone", profile)


def figures(adbd: Adbd, runner: Path | str, *bundles: Bundle, effort: Effort = QUICK) -> list[Result]:
    wanted = subjects(bundles or [library.tower_bundle("executorch", "fp32")], ["encode_image"])
    return list(measure_phone(device(adbd, runner), wanted, effort, silent))


def refused(results: Sequence[Result]) -> str:
    (failed,) = results
    assert isinstance(failed, Failed), failed
    return f"{failed.message} | {failed.hint}"


def problem(action: Callable[[], object], kind: type[DeviceError] = DeviceError) -> str:
    with pytest.raises(kind) as caught:
        action()
    return f"{caught.value.message} | {caught.value.hint}"


# adb itself, with no phone


def test_adb_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt install adb" in problem(Adb("0123ABC").open)


@needs_adb
def test_no_phone_is_plugged_in(server: None) -> None:
    said = problem(Adb("0123ABC").open, NotReached)
    assert "adb sees no device 0123ABC; those there are: " in said
    assert "USB debugging" in said


@needs_adb
def test_the_server_cannot_start(server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adb_module, "_START_SECONDS", 1.0)
    with socket.socket() as other:  # another program has its port, and answers nothing
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(other.getsockname()[1]))
        said = problem(Adb("0123ABC").open)
    assert said.startswith("adb's server does not start: ")
    assert "adb kill-server" in said


@needs_adb
@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("unauthorized", "0123ABC has not allowed this computer to debug it (unauthorized) | unlock the phone"),
        ("offline", "0123ABC is offline: adb sees it, and it does not answer | unlock it"),
        ("no permissions (missing udev rules?)", "not let adb use 0123ABC: no permissions (missing udev rules?) | apt"),
        ("recovery", "expected 0123ABC to run Android, got the state 'recovery' | adb -s 0123ABC reboot"),
    ],
)
def test_a_phone_that_cannot_be_used(server: None, monkeypatch: pytest.MonkeyPatch, state: str, said: str) -> None:
    with listing({"4567DEF": "device", "0123ABC": state}) as port:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
        assert said in problem(Adb("0123ABC").open)


# The connection


@needs_adb
def test_commands_and_files(phone: Phone, tmp_path: Path) -> None:
    with Adbd(phone) as adbd:
        adb = Adb(adbd.serial)
        adb.open()
        assert adb.shell("echo out; echo err >&2; exit 3") == (3, "out\nerr\n")
        assert adb.shell("printf 'no end of line'") == (0, "no end of line")
        assert "exit code 4: it said nothing" in problem(lambda: adb.do("exit 4"))
        big = tmp_path / "big file"
        big.write_bytes(os.urandom(700_001))
        adb.push(big, "/data/local/tmp/big")
        assert (phone.temporary / "big").read_bytes() == big.read_bytes()
        assert "no permission" in problem(lambda: adb.do("echo 'mkdir: /data/x: Permission denied'; exit 1"))
        assert "gave no answer within 1 s" in problem(lambda: adb.shell("sleep 5", seconds=1.0))


@needs_adb
def test_a_refusal_is_no_lost_connection(phone: Phone, tmp_path: Path) -> None:
    """What adb says names the file: `EOF`, by which a lost connection is told, may be in that."""
    local = tmp_path / "home" / "geoff" / "model.pte"
    local.parent.mkdir(parents=True)
    local.write_bytes(b"model")
    phone.push_error = "couldn't create file: Permission denied"
    with Adbd(phone) as adbd:
        adb = Adb(adbd.serial)
        adb.open()
        with pytest.raises(DeviceError, match=r"no permission on .*/geoff/model\.pte") as caught:
            adb.push(local, "/data/local/tmp/model.pte")
    assert not isinstance(caught.value, ConnectionLost)


@pytest.mark.slow
@needs_adb
def test_another_phone_is_there(phone: Phone) -> None:
    with Adbd(phone) as adbd:
        Adb(adbd.serial).open()
        assert f"{adbd.serial} (device)" in problem(Adb("0123ABC").open, NotReached)


@pytest.mark.slow
@needs_adb
def test_a_phone_that_has_not_accepted_this_computer(phone: Phone) -> None:
    phone.unauthorized = True
    with Adbd(phone) as adbd:
        said = problem(Adb(adbd.serial).open)
    assert "has not allowed this computer to debug it (unauthorized)" in said
    assert "accept its dialog" in said


@needs_adb
def test_a_phone_that_is_offline(phone: Phone) -> None:
    with Adbd(phone) as adbd:
        adb = Adb(adbd.serial)
        adb.open()
        phone.silent = True
        adbd.hang_up()
        assert "is offline: adb sees it, and it does not answer" in problem(adb.open, NotReached)


@needs_adb
def test_adb_itself_does_not_notice_a_pulled_cable(phone: Phone) -> None:
    """Why a line of ours ends every command."""
    phone.cut_at, phone.cuts = "sleep 7", 2
    with Adbd(phone) as adbd:
        adb = Adb(adbd.serial)
        adb.open()
        command = ["adb", "-s", adbd.serial, "shell", "-T", "echo; sleep 7"]
        assert subprocess.run(command, check=False, capture_output=True, timeout=20).returncode == 0
        adb.reopen()
        assert "is the cable in" in problem(lambda: adb.shell("sleep 7"), ConnectionLost)


# What is known of a phone


@needs_adb
def test_what_a_phone_says_of_itself(phone: Phone) -> None:
    with Adbd(phone) as adbd:
        adb = Adb(adbd.serial)
        adb.open()
        found = android.describe(adb, {})
    assert (found.model, found.processor, found.system) == ("Stand-in Phone", "QTI SM8550", "Android 14")
    assert (found.memory_bytes, found.governor, found.python) == (7654321 * 1024, "walt", "")
    assert (found.clock_mhz, found.most_clock_mhz) == (1593.6, 3187.2)
    assert found.temperature_c == 41.5  # not the volts, nor what is cached
    assert found.cores >= 1


def test_heat() -> None:
    assert android.temperature_c("41000\n52500\n") == 52.5
    assert android.temperature_c("") is None
    assert android.throttled("Thermal Status: 3\n") == "thermal status 3 (severe)"
    assert android.throttled("Permission denied") is None


# Figures


@needs_adb
def test_figures_of_one_runner(phone: Phone, tmp_path: Path) -> None:
    runner = script(tmp_path / "my_benchmark_model", BENCHMARK_MODEL)
    effort = Effort(seconds=0.1, threads=(1,), sustained_seconds=0.2, processes=1)
    with Adbd(phone) as adbd:
        (found,) = latest(figures(adbd, runner, library.tower_bundle("tflite", "fp32"), effort=effort))
        assert list(phone.temporary.iterdir()) == []
    assert isinstance(found, Measured), found
    assert (found.device, found.component, found.threads) == ("my-phone", "encode_image", 1)
    assert (found.times.cold_load_ms, found.times.first_ms, found.times.page_cache_share) == (20.283, 339.304, None)
    engine = found.times.engine_ms
    assert (engine.runs, engine.min, engine.max) == (10, 0.2, 0.3)
    assert found.memory is not None
    assert found.memory.resident_bytes >= found.memory.anonymous_bytes > 0
    assert found.memory.file_mapped_bytes > 0
    assert found.sustained is not None
    assert found.sustained.throttled == "thermal status 1 (light)"
    last = found.sustained.windows[-1]
    assert (last.median_ms, last.temperature_c, last.clock_mhz) == (0.3, 41.5, 1593.6)
    assert last.at_seconds >= 0.2
    digest = hashlib.sha256(runner.read_bytes()).hexdigest()
    assert found.system.versions == {"my_benchmark_model": f"sha256 {digest[:12]}"}
    assert sum("kill -9" in each for each in phone.commands) == 1  # at the end: jobs that have ended need no such thing


@pytest.mark.slow
@needs_adb
def test_figures_of_an_answer(phone: Phone, tools: Path) -> None:
    bundle = library.talker("smolvlm", "tflite", "fp32")
    said: list[str] = []
    with Adbd(phone) as adbd:
        wanted = subjects([bundle], ["prompt", "token_at_256"])
        found = measure_phone(device(adbd, tools), wanted, QUICK, lambda stage, _: said.append(stage))
        results = {each.component: each for each in latest(list(found)) if isinstance(each, Measured)}
        assert list(phone.temporary.iterdir()) == []
    assert {name: each.times.positions for name, each in results.items()} == {"prompt": 16, "token_at_256": 1}
    sent = [name for each in said for name in re.findall(r"sending (\S+) to", each)]
    assert sorted(sent) == ["benchmark_model", "smolvlm-tflite-fp32-decoder.tflite"]


def test_what_is_run_of_an_answer(tmp_path: Path) -> None:
    bundle = library.talker("blip", "tflite", "fp32")
    pictures = function(bundle, "encode_image", tmp_path)
    assert [*Interpreter(str(pictures.file)).get_signature_list()] == [pictures.name]
    for part in ("prompt", "token_at_32"):
        assert "draws positions up to 99" in problem(lambda part=part: function(bundle, part, tmp_path))


def measured_past_cuts(phone: Phone, runners: Path, target: str) -> list[str]:
    """What is said of a component that is measured though the cable is pulled, and somebody tidies up meanwhile."""
    said: list[str] = []

    def watch(stage: str, share: float | None) -> None:
        said.append(stage)
        if "trying again" in stage:
            (model,) = phone.temporary.glob("*/*model.*")
            model.unlink()

    with Adbd(phone) as adbd:
        wanted = subjects([library.tower_bundle(target, "fp32")], ["encode_image"])
        (found,) = measure_phone(device(adbd, runners), wanted, QUICK, watch)
        assert list(phone.temporary.iterdir()) == []
    assert isinstance(found, Measured)
    assert phone.cuts == 0
    assert f"connecting to {adbd.serial} again" in said
    return said


@needs_adb
def test_a_cable_is_pulled_once(phone: Phone, tmp_path: Path) -> None:
    phone.cut_at, phone.cuts = "my_benchmark_model --graph", 1
    said = measured_past_cuts(phone, script(tmp_path / "my_benchmark_model", BENCHMARK_MODEL), "tflite")
    assert sum("sending model.tflite" in each for each in said) == 2
    assert sum("sending my_benchmark_model" in each for each in said) == 1


@pytest.mark.slow
@needs_adb
def test_figures_of_both_runners(phone: Phone, tools: Path) -> None:
    bundles = [library.tower_bundle("tflite", "fp32"), library.tower_bundle("executorch", "fp32")]
    effort = Effort(seconds=0.2, threads=(1, 2), sustained_seconds=0.3, processes=1)
    with Adbd(phone) as adbd:
        results = latest(figures(adbd, tools, *bundles, effort=effort))
        assert list(phone.temporary.iterdir()) == []
    assert [type(each) for each in results] == [Measured] * 4, results
    for one in results:
        assert isinstance(one, Measured)
        engine = one.times.engine_ms
        assert 0 < engine.min <= engine.median <= engine.p90 <= engine.p95 <= engine.max
        assert engine.runs >= 10
        assert one.times.page_cache_share is None
        assert one.times.cold_load_ms > 0
        assert (one.memory is not None) == (one.threads == 1)
        assert (one.sustained is not None) == (one.threads == 2)
        assert one.system.python == ""
        assert one.system.versions.keys() == {"benchmark_model", "executor_runner"}
    tflite, _, single, double = (each for each in results if isinstance(each, Measured))
    assert tflite.memory is not None
    assert tflite.memory.anonymous_bytes > 5_000_000  # an interpreter of Python plays the runner
    assert tflite.memory.resident_bytes >= tflite.memory.anonymous_bytes
    assert single.times.first_ms > 20 > 4 * single.times.engine_ms.min  # it sleeps 20 ms at first, and 4 ms later
    assert single.times.engine_ms.median > double.times.engine_ms.median
    assert double.sustained is not None
    assert double.sustained.throttled == "thermal status 1 (light)"
    assert (double.sustained.windows[0].temperature_c, double.sustained.windows[0].clock_mhz) == (41.5, 1593.6)


@pytest.mark.slow
@needs_adb
def test_a_pulled_cable_is_put_in_again(phone: Phone, tools: Path) -> None:
    phone.cut_at, phone.cuts = "executor_runner --model_path", 2
    said = measured_past_cuts(phone, tools, "executorch")
    assert sum("sending model.pte" in each for each in said) == 3


@pytest.mark.slow
@needs_adb
def test_a_cable_that_stays_out(phone: Phone, tools: Path) -> None:
    """It cuts every time: the job is tried a few times, and then the connection is given up."""
    phone.cut_at, phone.cuts = "executor_runner --model_path", 100
    with Adbd(phone) as adbd:
        said = problem(lambda: figures(adbd, tools), ConnectionLost)
        assert list(phone.temporary.iterdir()) == []  # it can be reached again to tidy up
    assert phone.cuts == 97
    assert f"the connection to {adbd.serial} was lost" in said


@needs_adb
def test_a_phone_that_is_gone(phone: Phone, tools: Path) -> None:
    phone.cut_at, phone.cuts = "executor_runner --model_path", 1
    said: list[str] = []
    with Adbd(phone) as adbd:

        def watch(stage: str, share: float | None) -> None:
            said.append(stage)
            if "trying again" in stage:
                phone.silent = True  # whatever is connected to from now on does not answer

        wanted = subjects([library.tower_bundle("executorch", "fp32")], ["encode_image"])
        failed = refused(list(measure_phone(device(adbd, tools), wanted, QUICK, watch)))
    assert re.search(r"was lost, and 3 tries to connect again failed: .* is (offline|connecting)", failed)
    assert any(re.search(r"/data/local/tmp/edgevlm-\w+ stays on", each) for each in said)


@needs_adb
@pytest.mark.parametrize("way", ["full", "almost full", "forbidden"])
def test_no_room_on_the_phone(phone: Phone, tools: Path, way: str) -> None:
    if way == "full":
        phone.free(1000)
    elif way == "almost full":
        phone.push_error = "write failed: No space left on device"
    else:
        phone.push_error = "couldn't create file: Permission denied"
    with Adbd(phone) as adbd:
        said = refused(figures(adbd, tools))
        assert list(phone.temporary.iterdir()) == []
    assert {
        "full": "no space left on",
        "almost full": "No space left on device | make space",
        "forbidden": "no permission on",
    }[way] in said


# Runners


@needs_adb
def test_no_runner_is_named(phone: Phone, tmp_path: Path) -> None:
    with Adbd(phone) as adbd:
        said = refused(figures(adbd, ""))
        assert "no runner is named | get ExecuTorch's executor_runner for Android" in said
        assert f"address: 'adb://{adbd.serial}', runner: /path/to/executor_runner}}" in said
        assert "expected a file whose name contains executor_runner" in refused(figures(adbd, tmp_path / "missing"))
        assert "this bundle is for coreml" in problem(lambda: runners.find("/r", "coreml", f"adb://{adbd.serial}"))
    assert phone.commands == []  # nobody needs a phone to be told that


@needs_adb
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("echo \"ERROR: unknown command line flag 'method_name'\" >&2; exit 1", "does not know --method_name"),
        pytest.param("kill -SEGV $$", "ended with SIGSEGV", marks=pytest.mark.slow),
        pytest.param("kill -KILL $$", "more memory than there is", marks=pytest.mark.slow),
        pytest.param(
            "echo 'CANNOT LINK EXECUTABLE: library \"libc++_shared.so\" not found'; exit 1",
            "cannot be started on the",
            marks=pytest.mark.slow,
        ),
        pytest.param("exec /system/bin/nothing", "cannot be started on the phone", marks=pytest.mark.slow),
        pytest.param(
            "echo 'Model executed successfully 3 time(s) in 40.1 ms.'",
            "logs neither load nor executions",
            marks=pytest.mark.slow,
        ),
        ("echo 'Model loaded in 1.5 ms.'; echo 'Iteration 3 of 3: 1.5 ms'", "holds 1 of 3 executions"),
    ],
)
def test_a_runner_that_fails(phone: Phone, tmp_path: Path, text: str, said: str) -> None:
    runner = script(tmp_path / "my_executor_runner", text)
    with Adbd(phone) as adbd:
        assert said in refused(figures(adbd, runner))
        assert list(phone.temporary.iterdir()) == []


@needs_adb
def test_runners_for_other_machines(phone: Phone, tmp_path: Path) -> None:
    runner = tmp_path / "executor_runner"
    with Adbd(phone) as adbd:
        shutil.copyfile("/bin/true", runner)
        machine = {"x86_64": "x86_64", "aarch64": "arm64-v8a"}[os.uname().machine]
        (phone.root / "properties/ro.product.cpu.abilist").write_text("riscv64,mips\n")
        assert f"is made for {machine}; expected riscv64" in problem(lambda: figures(adbd, runner))
        (phone.root / "properties/ro.product.cpu.abilist").write_text(f"{machine}\n")
        assert "made for Linux with glibc" in problem(lambda: figures(adbd, runner))
        runner.write_text("<html>404")
        assert "not an executable of Android's" in problem(lambda: figures(adbd, runner))


@needs_adb
def test_an_emulator_is_no_phone(phone: Phone, tools: Path) -> None:
    phone.properties = {**PROPERTIES, "ro.kernel.qemu": "1"}
    with Adbd(phone) as adbd:
        assert "its times are no phone's" in problem(lambda: figures(adbd, tools))


def test_how_a_runner_ended() -> None:
    assert isinstance(runners.failure(ExecutorRunner(), 137, ""), OutOfMemory)
    for code, said, expected in (
        (139, "", "the process ended with SIGSEGV"),
        (1, "CANNOT LINK EXECUTABLE: no libc++_shared.so\n", "executor_runner cannot be started on the phone: CANNOT"),
        (126, "sh: can't execute: Exec format error", "be started on the phone: sh: can't execute: Exec format error"),
        (134, "Failed to load", "the process ended with SIGABRT and without a result: Failed to load"),
    ):
        assert expected in runners.failure(ExecutorRunner(), code, said).message


RECORDED = """STARTING!
Log parameter values verbosely: [0]
Num threads: [1]
Graph: [/data/local/tmp/albert_base.tflite]
#threads used for CPU inference: [1]
Loaded model /data/local/tmp/albert_base.tflite
INFO: Initialized TensorFlow Lite runtime.
The input model file size (MB): 11.983
Initialized session in 20.283ms.
Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
count=2 first=339304 curr=266325 min=266325 max=339304 avg=302814 std=36489

Running benchmark for at least 2 iterations and at least 0 seconds but terminate if exceeding 150 seconds.
{row}

Inference timings in us: Init: 20283, First inference: 339304, Warmup (avg): 302814, Inference (avg): 266473
Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual memory
Memory footprint delta from the start of the tool (MB): init=1.2 overall=58.9
"""


BENCHMARK_MODEL = f"""case "$*" in *model.tflite*=encode_image\\ --num_threads=[12]\\ *) ;; *) exit 9;; esac
sleep 0.1
cat <<'END'
{RECORDED.format(row="count=2 first=300 curr=200 min=200 max=300 avg=250 std=50 p5=200 median=300 p95=300")}
END"""
"""A shell's script that says what is recorded, and starts faster than what stands for the tool."""


def test_what_benchmark_model_says() -> None:
    """An older version's output, a newer one's, and that of two inferences that took as long."""
    rows = iter(
        [
            "count=2 first=266601 curr=266931 min=266601 max=266931 avg=266766 std=165",
            "INFO: count=2 first=300 curr=200 min=200 max=300 avg=250 std=50 p5=200 median=300 p95=300",
            "INFO: count=2 curr=250(all same) p5=250 median=250 p95=250",
        ]
        + ["count=2 first=1 curr=1000000 min=1 max=1000000 avg=500000 std=1"] * 2
    )
    asked: list[Sequence[str]] = []

    def run(arguments: Sequence[str]) -> str:
        asked.append(arguments)
        return RECORDED.format(row=next(rows))

    times = BenchmarkModel().time(run, WORK, 0.1)
    assert (times.cold_load_ms, times.first_ms, times.page_cache_share) == (20.283, 339.304, None)
    spread = times.engine_ms
    assert (spread.runs, spread.min, spread.max) == (10, 0.001, 1000.0)
    assert spread.median == pytest.approx((0.3 + 0.25) / 2)
    assert "--signature_to_run_for=encode_image" in asked[0]
    assert "--num_threads=1" in asked[0]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (f"WARN: Unconsumed cmdline flags: --signature_to_run_for=x\n{RECORDED}", "does not know --signature_to_run"),
        ("Model initialization: 3.65 ms\nInference (avg): 1.20 ms (50 runs)", "no output of TensorFlow Lite's"),
        (RECORDED.format(row="count=7 first=1 curr=1 min=1 max=2 avg=1 std=0"), "ran 7 inferences, expected 2"),
        ("", "no output of TensorFlow Lite's"),
    ],
)
def test_what_benchmark_model_must_not_say(said: str, expected: str) -> None:
    assert expected in problem(lambda: BenchmarkModel().time(lambda arguments: said, WORK, 0.1))


def test_medians_of_a_sustained_run() -> None:
    newer = "count=90 first=9 curr=8 min=7 max=99000 avg=8.5 std=1 p5=7 median=8000 p95=9"
    assert BenchmarkModel().median_ms(lambda arguments: RECORDED.format(row=newer), WORK, 1.0) == 8.0
    older = RECORDED.format(row=newer.partition(" p5=")[0])
    assert "too old to tell a median" in problem(lambda: BenchmarkModel().median_ms(lambda _: older, WORK, 1.0))


def executor(asked: list[Sequence[str]], later_ms: float) -> Callable[[Sequence[str]], str]:
    """What executor_runner logs whose first two executions take 20 and 10 ms, and all others as long as each other."""

    def run(arguments: Sequence[str]) -> str:
        asked.append(arguments)
        count = int(arguments[-1].removeprefix("--num_executions="))
        times = [20.0, 10.0, *[later_ms] * count][:count]
        lines = [f"Iteration {index} of {count}: {each:f} ms" for index, each in enumerate(times, 1)]
        return "\n".join(["Model loaded in 1.500000 ms.", *lines, "OutputX 0: tensor(sizes=[1, 2], [0.1, 0.2])"])

    return run


@pytest.mark.parametrize(
    ("later_ms", "runs", "executions"),
    [(4.0, 25, 1 + 75 + 25), (0.01, 400, 400 + 400), (250.0, 10, 1 + 30 + 10)],
)
def test_what_executor_runner_says(later_ms: float, runs: int, executions: int) -> None:
    """It warms up for 0.3 s and then runs for as long as it is told, but never more often than the log holds."""
    asked: list[Sequence[str]] = []
    times = ExecutorRunner().time(executor(asked, later_ms), WORK, 0.1)
    assert (times.cold_load_ms, times.first_ms, times.page_cache_share) == (1.5, 20.0, None)
    assert (times.engine_ms.runs, times.engine_ms.median) == (runs, later_ms)
    assert [each[-1] for each in asked] == ["--num_executions=3", f"--num_executions={executions}"]
    assert asked[0][:3] == ["--model_path=/m", "--method_name=encode_image", "--cpu_threads=1"]


def test_longer_runs_of_executor_runner() -> None:
    asked: list[Sequence[str]] = []
    assert ExecutorRunner().median_ms(executor(asked, 4.0), WORK, 1.0) == 4.0
    ExecutorRunner().run_slowly(executor(asked, 4.0), WORK)
    assert [int(each[-1].partition("=")[2]) for each in asked] == [3, 251, 3, 100]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Model executed successfully 3 time(s) in 40.1 ms.", "logs neither load nor executions: ...Model executed"),
        ("Model loaded in 1.5 ms.\nIteration 3 of 3: 1.5 ms", "holds 1 of 3 executions | adb logcat -G 4M enlarges it"),
    ],
)
def test_what_executor_runner_must_not_say(said: str, expected: str) -> None:
    assert expected in problem(lambda: ExecutorRunner().time(lambda arguments: said, WORK, 0.1))


# A process of its own


@pytest.mark.slow
@needs_adb
def test_a_worker_that_is_stopped_tidies_up(phone: Phone, tools: Path) -> None:
    bundle = library.tower_bundle("executorch", "fp32")
    script(tools / "executor_runner", "echo $$ > running; sleep 60")
    with Adbd(phone) as adbd:
        assignment = Assignment(device(adbd, tools), (str(bundle.path),), ("encode_image",), QUICK, False)
        process = subprocess.Popen(
            [sys.executable, "-m", "edgevlm.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(schema.write(assignment)) + "\n")
            process.stdin.flush()
            running = wait_for(lambda: next(iter(phone.temporary.glob("*/running")), None))
            runner = int(running.read_text())
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 128 + signal.SIGTERM
        finally:
            process.kill()
        assert list(phone.temporary.iterdir()) == []
        wait_for(lambda: not Path(f"/proc/{runner}").exists())


def wait_for(found: Callable[[], object]) -> Path:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if value := found():
            return value  # type: ignore[return-value]
        threading.Event().wait(0.05)
    raise AssertionError("it did not come about")
