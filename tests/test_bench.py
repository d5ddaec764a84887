"""`edgevlm bench` on this computer and on machines that are not as they should be; and the gate between two runs."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import library
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner, Result
from sshd import SERVER, Sshd
from torch import Tensor, nn

from edgevlm import schema
from edgevlm.bench import results, worker
from edgevlm.bench.artefacts import describe, subjects
from edgevlm.bench.bench import merge
from edgevlm.bench.emulate import judge
from edgevlm.bench.estimates.estimate import estimate, scaled
from edgevlm.bench.measure import Effort, measure, thread_counts
from edgevlm.bench.peers import exports, peers
from edgevlm.bench.results import Emulated, Estimated, Failed, Measured, Process
from edgevlm.bench.worker import Assignment, examine
from edgevlm.bundle.bundle import Bundle, hash_file
from edgevlm.bundle.spec import ComponentSpec, TensorSpec
from edgevlm.cli import main
from edgevlm.devices import device, profile
from edgevlm.errors import ConnectionLost, DeviceError, InputError, MissingDependency, OutOfMemory
from edgevlm.graphs.program import Program
from edgevlm.inference.embeddings import CENTRED_COSINE
from edgevlm.models import catalogue
from edgevlm.onboard.figures import Counts, Memory, Spread, Sustained, System, Times, Window, spread
from edgevlm.onboard.pages import drop, resident_share
from edgevlm.process import store
from edgevlm.process.progress import Progress, silent

needs_sshd = pytest.mark.skipif(SERVER is None or shutil.which("ssh") is None, reason="needs OpenSSH's sshd and ssh")
QUICK = ("--seconds", "0.1", "--threads", "1", "--component", "encode_image", "--processes", "1")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return library.tower_bundle("tflite", "fp32")


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


def found_in(folder: Path) -> tuple[results.Result, ...]:
    return results.read(folder / "results.jsonl")


def ask(asked: dict[str, Any] | str) -> list[dict[str, Any]]:
    """What `python -m edgevlm.onboard` says to a job, line by line."""
    process = subprocess.Popen(
        [sys.executable, "-m", "edgevlm.onboard"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process, process.stdin:
        process.stdin.write((asked if isinstance(asked, str) else json.dumps(asked)) + "\n")
        process.stdin.flush()
        said = [json.loads(line) for line in process.stdout]
        assert process.wait(60) == 0
    return said


def test_a_device_describes_itself() -> None:
    (line,) = ask({"job": "system"})
    found = schema.read(System, line["result"], where="system", error=DeviceError)
    assert found.architecture == os.uname().machine
    assert found.cores == len(os.sched_getaffinity(0))
    assert found.versions["numpy"] == np.__version__
    assert found.emulator is None


def test_what_is_no_job_is_refused() -> None:
    for asked in ({"job": "dance"}, {"job": None}, [], "nonsense", ""):
        (line,) = ask(asked if isinstance(asked, str) else json.dumps(asked))
        assert "expected" in line["error"]["message"]
    (line,) = ask({"job": "time", "bundle": "/nowhere", "component": "encode_image", "threads": 1, "seconds": 1})
    assert line["error"]["kind"] == "BundleError"


def test_a_job_ends_when_nobody_waits_for_it(bundle: Bundle) -> None:
    asked = {"job": "sustained", "bundle": str(bundle.path), "component": "encode_image", "threads": 1, "seconds": 600}
    process = subprocess.Popen(
        [sys.executable, "-m", "edgevlm.onboard"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        assert "without a pause" in process.stdout.readline()
        process.stdin.close()
        assert process.wait(20) == 3


def test_pages_are_dropped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(1 << 20))
    path.read_bytes()
    assert resident_share([path]) == 1.0
    drop([path])
    share = resident_share([path])
    assert share is not None
    assert share < 0.5


def test_a_spread_has_numpys_percentiles() -> None:
    times_ms = [float(each) for each in np.random.default_rng(0).permutation(101)]
    assert spread(times_ms) == Spread(50.0, 90.0, 95.0, 0.0, 100.0, 101)


def test_thread_counts() -> None:
    found = [thread_counts(cores) for cores in (1, 2, 4, 6, 12)]
    assert found == [(1,), (1, 2), (1, 2, 4), (1, 2, 4, 6), (1, 2, 4, 8, 12)]


@pytest.fixture(scope="module")
def benched(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """What is said, and the folder that is made, where one of four devices can be measured: this computer."""
    out = tmp_path_factory.mktemp("bench") / "new"
    devices = ("rasberry-pi-5", "host", "ssh://-oProxyCommand=x", "iphone-15-pro")
    asked = ("--sustained", "1", "--json", *QUICK, "--processes", "3")
    return bench(bundle.path, "--out", out, *asked, *(word for each in devices for word in ("--device", each))), out


def test_this_computer_is_measured(bundle: Bundle, benched: tuple[Result, Path]) -> None:
    _, out = benched
    found, _ = found_in(out)
    assert isinstance(found, Measured)
    assert found.artefact == describe(bundle)
    times, memory = found.times, found.memory
    assert len(found.processes) == 3
    assert times.engine_ms.runs == sum(each.runs for each in found.processes) >= 15
    assert times.engine_ms.median == sorted(each.median_ms for each in found.processes)[1]
    assert all(each.yardstick_ms for each in found.processes)
    assert 0 < times.engine_ms.min <= times.engine_ms.median <= times.engine_ms.p90 <= times.engine_ms.p95
    assert times.first_ms > times.engine_ms.min
    assert list(times.stages) == ["decode", "resize", "model", "compare"]
    assert min(each.median for each in times.stages.values()) > 0
    assert memory is not None
    assert 0 < memory.anonymous_bytes < memory.resident_bytes
    assert 0 < memory.own_bytes == memory.resident_bytes - memory.before_bytes
    assert found.sustained is not None
    assert found.sustained.slowdown > 0
    for name in ("report.html", "report.md"):
        text = (out / name).read_text(encoding="utf-8")
        assert found.artefact.sha256[:12] in text
        assert "measured" in text


@pytest.mark.slow
def test_a_later_run_replaces_what_it_finds_out_again(bundle: Bundle, tmp_path: Path) -> None:
    for threads in ("1", "2", "1"):
        arguments = (bundle.path, "--out", tmp_path, "--seconds", "0.05", "--threads", threads)
        assert bench(*arguments, "--component", "encode_image").exit_code == 0
    assert [each.threads for each in found_in(tmp_path) if isinstance(each, Measured)] == [2, 1]
    (tmp_path / "report.html").unlink()
    assert bench("--out", tmp_path).exit_code == 0
    assert (tmp_path / "report.html").exists()
    assert len(found_in(tmp_path)) == 2


def test_json_is_what_the_file_holds(benched: tuple[Result, Path]) -> None:
    done, out = benched
    lines = (out / "results.jsonl").read_text(encoding="utf-8").splitlines()
    *no_devices, here, phone = json.loads(done.stdout)["results"]
    assert [here, phone] == [json.loads(line) for line in lines]
    assert [each["evidence"] for each in no_devices] == ["none", "none"]
    # Of the folder that it made git shows nothing.
    assert sorted(os.listdir(out)) == [".gitignore", "report.html", "report.md", "results.jsonl"]
    assert (out / ".gitignore").read_text().splitlines()[-1] == "*"


def test_a_bad_device_stops_no_other(benched: tuple[Result, Path]) -> None:
    done, out = benched
    assert done.exit_code == 2
    here, phone = found_in(out)
    assert isinstance(here, Measured)
    assert isinstance(phone, Failed)
    assert "runs coreml" in phone.message
    assert "no device 'rasberry-pi-5'" in done.output
    assert "raspberry-pi-5 or" in done.output
    assert "expected a device's address" in done.output
    assert "Traceback" not in done.output


def test_wrong_use_is_refused_before_the_work(bundle: Bundle, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / bundle.path.name
    shutil.copytree(bundle.path, copy)
    (tmp_path / "file").touch()
    for arguments, said in (
        ((), "at least one bundle"),
        ((tmp_path / "nothing",), "expected a bundle folder"),
        ((bundle.path, copy), "two bundles are called"),
        ((bundle.path, "--component", "encode_smell"), "no bundle has a component"),
        ((bundle.path, "--seconds", "nan"), "finite number"),
        ((bundle.path, "--threads", "0"), "expected a whole number from 1 to 256, got 0"),
        ((bundle.path, "--devices", tmp_path / "none.yaml"), "cannot be read"),
        ((bundle.path, "--compare", "a", "b"), "--compare takes"),
    ):
        done = bench(*arguments, "--out", tmp_path / "out")
        assert done.exit_code == 2, arguments
        assert said in done.output
        assert "Traceback" not in done.output
    done = bench(bundle.path, "--out", tmp_path / "file" / "below")
    assert done.exit_code == 2
    assert "cannot write" in done.output


def test_a_refusal_leaves_nothing(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for out in ("there", "new", "new/below"):
        done = bench(bundle.path, "--device", "nope", "--device", "nor-this", "--out", tmp_path / out)
        assert done.exit_code == 2
        assert "no device 'nope'" in done.output
        assert "no device 'nor-this'" in done.output
    assert [str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*")] == ["there"]


def test_a_torn_last_line_is_passed_over_with_a_note(bundle: Bundle, tmp_path: Path) -> None:
    kept = tmp_path / "results.jsonl"
    result = replace(emulated(bundle), device="Zürich\u2028board")
    results.append(kept, result)
    whole = kept.read_bytes()
    assert results.torn_line(kept) is None
    for length in (1, 40, whole.index("ü".encode()) + 1, len(whole) - 2):  # the third is half a letter
        kept.write_bytes(whole + whole[:length])
        assert results.read(kept) == (result,)
        assert "line 2 was left unfinished" in str(results.torn_line(kept))
    for other in (b"", whole[:-1]):  # an editor may leave no end of line
        kept.write_bytes(whole + other)
        assert results.read(kept) == (result,)
        assert results.torn_line(kept) is None
    kept.write_bytes(whole + whole[:40])
    done = bench("--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert f"note: {kept}: line 2 was left unfinished by a run that was killed" in done.stderr
    assert kept.read_bytes() == whole
    kept.write_bytes(whole + whole[:40])
    results.write(tmp_path / "other", [result])
    assert "line 2 was left unfinished" in bench("--compare", kept, tmp_path / "other").stderr
    kept.write_bytes(whole[:40] + b"\n" + whole)
    with pytest.raises(InputError, match="line 1"):
        results.read(kept)


def test_core_ml_is_not_timed_where_it_is_evaluated(tmp_path: Path) -> None:
    package = library.student("coreml", "fp16")
    done = bench(package.path, "--out", tmp_path / "out", *QUICK)
    assert done.exit_code == 2
    (failed,) = found_in(tmp_path / "out")
    assert isinstance(failed, Failed)
    assert "says nothing about a device's time" in failed.message


@pytest.mark.slow(first=True)
def test_other_toolchains_files_run_beside_ours(tmp_path: Path) -> None:
    bundle = library.student("tflite", "int8", image_only=True)
    done = bench(bundle.path, "--out", tmp_path, "--peers", *QUICK)
    assert done.exit_code == 0, done.output
    ours, *peers = found_in(tmp_path)
    assert isinstance(ours, Measured)
    assert not ours.artefact.peer
    said = {}
    for each in peers:
        assert isinstance(each, Measured)
        assert each.artefact.peer
        said[each.artefact.target, each.artefact.recipe] = each.artefact
    assert set(said) == {(target, recipe) for target in ("onnxruntime", "openvino") for recipe in ("fp32", "int8")}
    for (_, recipe), artefact in said.items():
        assert artefact.accuracy is not None
        assert artefact.accuracy > (0.99 if recipe == "int8" else 0.999999)
        assert artefact.model == ours.artefact.model
    assert said["onnxruntime", "int8"].size_bytes < 0.5 * said["onnxruntime", "fp32"].size_bytes
    made = sorted(store.folder().glob("devices/peer-*"))
    assert made
    times = [each.stat().st_mtime_ns for each in made]
    assert bench(bundle.path, "--out", tmp_path, "--peers", *QUICK).exit_code == 0
    assert [each.stat().st_mtime_ns for each in made] == times


@pytest.mark.slow
def test_onnx_runtime_quantises_a_text_towers_weights_and_not_its_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")  # as the engine sets it, but for this test alone
    folder = exports.make(
        catalogue.load(str(library.checkpoint("clip"))), "encode_text", "onnx", quantised=True, progress=silent
    )
    facts = json.loads((folder / exports.FACTS).read_text())
    assert facts["accuracy"] > 0.99
    assert facts["size_bytes"] == (folder / exports.FILES["onnx"]).stat().st_size


@pytest.mark.slow
def test_peers_of_a_model_that_is_not_there_say_where_to_run_this(bundle: Bundle, tmp_path: Path) -> None:
    elsewhere = Path(shutil.copytree(bundle.path, tmp_path / "elsewhere.edgevlm"))
    manifest = json.loads((elsewhere / "manifest.json").read_text())
    manifest["source"]["name"] = "gone"
    (elsewhere / "manifest.json").write_text(json.dumps(manifest))
    assert bench(elsewhere, "--out", tmp_path / "out", "--peers", *QUICK).exit_code == 2
    ours, failed = found_in(tmp_path / "out")
    assert isinstance(ours, Measured)
    assert isinstance(failed, Failed)
    assert "'gone', which is not found" in failed.message
    assert failed.hint == "run this in the folder in which gone is the checkpoint that was converted"


def test_of_lines_about_the_same_the_last_counts(bundle: Bundle, tmp_path: Path) -> None:
    base = emulated(bundle)
    first, other = Failed("host", None, "one"), Failed("host", None, "other")
    results.write(tmp_path / "r", [measured(base, 5.0), first, other, base, measured(base, 9.0)])  # a run was stopped
    assert results.read(tmp_path / "r") == (measured(base, 9.0), first, other, base)


def test_a_board_smaller_than_the_device_says_nothing_of_what_fits(bundle: Bundle) -> None:
    pi = device.resolve("raspberry-pi-5", profile.builtin())
    killed = emulated(bundle, fits=False)
    assert judge(killed, pi, pi.profile.memory_mb) == killed
    assert judge(replace(killed, fits=True), pi, 2048).fits  # type: ignore[union-attr]
    smaller = judge(killed, pi, 2048)
    assert isinstance(smaller, Failed)
    assert "does not fit into 2048 MiB" in smaller.message
    assert "the device has 8192 MiB" in smaller.message


@pytest.mark.slow
def test_a_file_in_the_working_directory_is_no_package(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("numpy", "ai_edge_litert", "click"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    done = bench(bundle.path, "--out", tmp_path / "out", *QUICK)
    assert done.exit_code == 0, done.output


def test_a_report_that_cannot_be_written_loses_no_result(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    done = bench(bundle.path, "--out", tmp_path, *QUICK)
    assert done.exit_code == 2
    assert f"cannot write {tmp_path}" in done.output
    assert len(found_in(tmp_path)) == 1
    assert {each.name for each in tmp_path.iterdir()} <= {"report.html", "results.jsonl", ".lock"}


def test_devices_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "devices.yaml"
    path.write_text(
        "my-pi:\n  like: raspberry-pi-5\n  address: ssh://pi@192.168.1.20\n"
        "cluster:\n  title: Ours\n  reach: ssh\n  chip: X\n  targets: [tflite]\n"
    )
    known = {**profile.builtin(), **profile.read(path)}
    mine = device.resolve("my-pi", known)
    assert known["my-pi"].reach == mine.profile.reach == "ssh"
    assert mine.profile.cpu == profile.builtin()["raspberry-pi-5"].cpu
    assert device.resolve("raspberry-pi-4=adb://SERIAL", known).profile.reach == "adb"
    assert device.resolve("ssh://pi@10.0.0.2:2222", known).profile.address == "ssh://pi@10.0.0.2:2222"
    with pytest.raises(DeviceError, match="has no address"):
        device.resolve("cluster", known)
    for text, said in (
        ("a:\n  like: nothing\n", "a: like: no built-in device 'nothing'"),
        ("a:\n  like: raspberry-pi-5\n  memory_mb: -3\n", "a.memory_mb: expected 0 or more MiB, got -3"),
        ("a: {title: t, reach: none, chip: c, targets: [tflite], memory_mb: -5}", "expected 0 or more MiB, got -5"),
        ("a: {like: raspberry-pi-5, cpu: [{core: A, cores: 0, clock_mhz: 1}]}", "expected 1 or more cores, got 0"),
        ("a: {title: t, reach: none, chip: c, targets: [onnx]}", "expected some of coreml, .*, got 'onnx'"),
        ("a: {like: raspberry-pi-5, address: 22:30}", "a: address: expected a device's address"),
        ("a/b: {like: raspberry-pi-5}", "name: expected letters, digits"),
        ("12: {like: raspberry-pi-5}", "expected a text as the key, got '12'"),
        ("a:\n  like: host\n  colour: red\n", "unknown key 'colour'"),
        ("a: 3\n", "expected a mapping"),
        ("[", "not a readable YAML file"),
    ):
        path.write_text(text)
        with pytest.raises(DeviceError, match=said):
            profile.read(path)


def test_devices_are_listed_and_shown(tmp_path: Path) -> None:
    listed = CliRunner().invoke(main, ["devices"])
    assert all(name in listed.output for name in profile.builtin())
    shown = CliRunner().invoke(main, ["devices", "--show", "jetson-orin-nano"])
    path = tmp_path / "mine.yaml"
    path.write_text(shown.output)
    assert profile.read(path)["jetson-orin-nano"] == profile.builtin()["jetson-orin-nano"]


@pytest.mark.slow
@needs_sshd
def test_a_slow_device_delays_nobody(bundle: Bundle, tmp_path: Path) -> None:
    server = Sshd(tmp_path)
    server.start()
    slow = tmp_path / "slow-python"
    slow.write_text(f'#!/bin/sh\nsleep 50\nexec {sys.executable} "$@"\n')
    slow.chmod(0o755)
    fleet = tmp_path / "fleet.yaml"
    address = f"like: host\n  address: {server.address}"
    fleet.write_text(f"slow:\n  {address}\n  python: {slow}\nquick:\n  {address}\n  python: {sys.executable}\n")
    out = tmp_path / "out"
    words = ["bench", str(bundle.path), "--devices", str(fleet), "--out", str(out), *QUICK]
    command = subprocess.Popen(
        [sys.executable, "-m", "edgevlm", *words],
        stderr=subprocess.DEVNULL, start_new_session=True, env={**os.environ, "EDGEVLM_SSH_CONFIG": str(server.config)},
    )  # fmt: skip
    try:
        wait_until(lambda: (out / "results.jsonl").exists() and bool(found_in(out)))
        (quick,) = found_in(out)
        os.killpg(command.pid, signal.SIGTERM)
        assert command.wait(30) == 128 + signal.SIGTERM
    finally:
        server.stop()
    assert isinstance(quick, Measured)
    assert quick.device == "quick"


@pytest.mark.slow
@needs_sshd
@pytest.mark.skipif(os.uname().machine == "aarch64", reason="this computer could be the board")
def test_a_machine_that_cannot_be_the_device_is_refused(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Sshd(tmp_path)
    server.start()
    monkeypatch.setenv("EDGEVLM_SSH_CONFIG", str(server.config))
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(
        f"board:\n  like: raspberry-pi-5\n  address: {server.address}\n  python: {sys.executable}\n"
        f"server:\n  like: host\n  address: {server.address}\n  python: {sys.executable}\n"
    )
    try:
        done = bench(bundle.path, "--devices", fleet, "--out", tmp_path / "out", *QUICK)
    finally:
        server.stop()
    assert done.exit_code == 2
    found = {each.device: each for each in found_in(tmp_path / "out")}
    board, other = found["board"], found["server"]
    assert isinstance(board, Failed)
    assert "has a processor of aarch64, and the machine that was reached one of" in board.message
    assert isinstance(other, Measured)
    assert "--devices" in other.reproduce
    assert "--seconds 0.1" in other.reproduce


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not holds():
        time.sleep(0.1)
    assert holds()


@pytest.mark.slow
def test_a_stopped_run_keeps_its_results_and_leaves_nothing_running(bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["bench", str(bundle.path), "--out", str(out), *QUICK, "--threads", "2", "--sustained", "600"]
    command = subprocess.Popen(
        [sys.executable, "-m", "edgevlm", *words, "--threads", "1"],
        stderr=subprocess.PIPE, text=True, start_new_session=True, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    wait_until(lambda: (out / "results.jsonl").exists() and bool(found_in(out)))
    os.killpg(command.pid, signal.SIGINT)
    _, stderr = command.communicate(timeout=30)
    assert command.returncode == 130
    assert f"the results so far are in {out / 'results.jsonl'}" in stderr
    assert f"edgevlm bench --out {out} writes the report" in stderr
    assert sorted(each.name for each in out.iterdir()) == [".gitignore", "results.jsonl"]
    assert all(isinstance(each, Measured) for each in found_in(out))
    assert found_in(out)
    wait_until(lambda: not _running_for(tmp_path))


def _running_for(folder: Path) -> list[int]:
    """Processes whose TMPDIR is this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"TMPDIR={folder}".encode() in (path / "environ").read_bytes() and _state(path) != b"Z":
                found.append(int(path.name))
        except OSError:
            continue
    return found


def _state(path: Path) -> bytes:
    return (path / "stat").read_bytes().rpartition(b") ")[2][:1]


COUNTS = Counts(1_000_000, 300_000, 0, 0, 0, 4_000_000, 1_000_000)


@functools.cache
def this_system() -> System:
    return schema.read(System, ask({"job": "system"})[0]["result"], where="system", error=DeviceError)


def emulated(bundle: Bundle, **changes: Any) -> Emulated:
    names = ("raspberry-pi-5", replace(describe(bundle), accuracy=0.99), "encode_image", "cortex-a76")
    return replace(Emulated(*names, None, COUNTS, COUNTS, None, None, None, this_system(), ""), **changes)


def measured(like: Emulated, median_ms: float) -> Measured:
    times = Times(1.0, None, 2.0, spread([median_ms * share for share in (0.95, 1.0, 1.0, 1.0, 1.05)]))
    processes = tuple(Process(median_ms * share, 5, None) for share in (0.99, 1.0, 1.01))
    return Measured("host", like.artefact, "encode_image", 1, times, None, like.system, "", processes=processes)


def test_the_gate_passes_no_figure_that_is_gone(bundle: Bundle, tmp_path: Path) -> None:
    whole = emulated(bundle, memory=Memory(1, 1, 1, 1), fits=True)
    lesser = emulated(bundle, load_counts=None, artefact=replace(whole.artefact, accuracy=None))
    results.write(tmp_path / "old.jsonl", [whole])
    results.write(tmp_path / "new.jsonl", [lesser])
    done = bench("--compare", tmp_path / "old.jsonl", tmp_path / "new.jsonl", "--json")
    assert done.exit_code == 1, done.output
    names = f"raspberry-pi-5: {whole.artefact.name}: encode_image: "
    figures = ("centred cosine", "memory", "counts of opening", "whether it fits")
    assert json.loads(done.stdout)["regressions"] == [f"{names}{figure} before, and gone" for figure in figures]
    back = bench("--compare", tmp_path / "new.jsonl", tmp_path / "old.jsonl", "--json")
    assert json.loads(back.stdout)["regressions"] == []


def test_the_gate(bundle: Bundle, tmp_path: Path) -> None:
    base = emulated(bundle)
    old, new = tmp_path / "old.jsonl", tmp_path / "new.jsonl"
    results.write(old, [base, measured(base, 10.0)])

    def regressions(*later: results.Result, limit: str = "1%") -> tuple[int, list[str]]:
        results.write(new, later)
        done = bench("--compare", old, new, "--limit", limit, "--json")
        return done.exit_code, json.loads(done.stdout)["regressions"]

    assert regressions(base, measured(base, 10.0)) == (0, [])
    assert regressions(replace(base, counts=replace(COUNTS, instructions=1_009_999)), measured(base, 10.0)) == (0, [])
    code, said = regressions(replace(base, counts=replace(COUNTS, instructions=1_010_001)), measured(base, 10.0))
    assert code == 1
    assert "instructions 1,000,000 -> 1,010,001" in said[0]
    much = replace(base, counts=replace(COUNTS, instructions=1_100_000))
    assert regressions(much, measured(base, 10.0), limit="0.2") == (0, [])
    grown = replace(base.artefact, size_bytes=2 * base.artefact.size_bytes)
    assert regressions(replace(base, artefact=grown), measured(base, 10.0))[0] == 1
    assert regressions(replace(base, warnings=("no dot products",)), measured(base, 10.0))[0] == 1
    assert regressions(base, measured(base, 10.0), Failed("host", None, "gone"))[0] == 1
    assert regressions(base, measured(base, 10.0), replace(base, counts=None, fits=False))[0] == 1
    code, said = regressions(base)
    assert code == 1
    assert f"host: {base.artefact.name}: encode_image: measured before, and gone" in said
    worse = replace(base.artefact, accuracy=(base.artefact.accuracy or 1.0) - 0.01)
    assert regressions(replace(base, artefact=worse), measured(base, 10.0))[0] == 1
    assert CENTRED_COSINE in " ".join(bench("--compare", old, new).stdout.split())
    results.write(old, [base, measured(base, 10.0), Failed("host", None, "as ever")])
    assert regressions(base, measured(base, 10.0), Failed("host", None, "as ever")) == (0, [])
    roomy = replace(measured(base, 30.0), memory=Memory(50_000_000, 1, 1, 1))
    results.write(old, [base, replace(roomy, memory=Memory(40_000_000, 1, 1, 1))])
    assert "anonymous memory 40,000,000 -> 50,000,000" in regressions(base, roomy)[1][0]


def test_the_gates_answers_about_times(bundle: Bundle, tmp_path: Path) -> None:
    base = emulated(bundle)
    old, new = tmp_path / "old.jsonl", tmp_path / "new.jsonl"
    results.write(old, [base, measured(base, 10.0)])

    def answer(median_ms: float, *arguments: str, counts: Counts = COUNTS) -> tuple[int, str, str]:
        results.write(new, [replace(base, counts=counts), measured(base, median_ms)])
        done = bench("--compare", old, new, *arguments)
        return done.exit_code, done.stdout.splitlines()[-1], done.stderr

    where = f"host: {base.artefact.name}: encode_image: median, 1 thread 10 -> "
    assert answer(10.0)[:2] == (0, "12 of 12 figures are the same; no regressions")
    assert answer(10.4)[:2] == (4, "11 of 12 figures are the same; cannot tell of 1 time")
    assert f"CANNOT TELL: {where}10.4 ms: 1.02x to 1.06x\n" in answer(10.4)[2]
    assert "grown by more than 5 %\n  try: measure both again with --processes" in answer(10.4)[2]
    assert answer(10.4, "--time-limit", "10%")[0] == 0
    assert answer(10.4, "--time-limit", "1%")[0] == 1
    assert answer(10.4, "--limit", "30%")[0] == 4
    code, said, talk = answer(100.0)
    assert (code, said) == (1, "11 of 12 figures are the same; 1 regression")
    assert talk == f"REGRESSION: {where}100 ms: 9.8x to 10.2x\n"
    assert answer(10.4, counts=replace(COUNTS, instructions=2_000_000))[0] == 1  # what is known comes first
    results.write(new, [base, measured(base, 10.4)])
    said = json.loads(bench("--compare", old, new, "--json").stdout)
    assert said["answer"] == "cannot tell"
    (time_,) = (each for each in said["changes"] if each["time"])
    assert time_["verdict"] == "cannot tell"
    assert time_["time"]["low"] < time_["ratio"] < time_["time"]["high"]


def test_results_of_the_first_version_are_read(bundle: Bundle, tmp_path: Path) -> None:
    old, new = tmp_path / "old.jsonl", tmp_path / "new.jsonl"
    base = emulated(bundle)
    before = results.to_json(measured(base, 10.0)) | {"schema_version": 1}
    del before["processes"], before["times"]["yardstick_ms"], before["times"]["decode_ms"]
    old.write_text(json.dumps(before) + "\n")
    for median_ms, code in ((10.0, 4), (100.0, 1), (1.0, 0)):
        results.write(new, [measured(base, median_ms)])
        assert bench("--compare", old, new).exit_code == code


def test_what_cannot_be_compared(bundle: Bundle, tmp_path: Path) -> None:
    one, other, broken = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    results.write(one, [emulated(bundle)])
    results.write(other, [replace(emulated(bundle), device="raspberry-pi-4")])
    broken.write_text('{"schema_version": 9}\n')
    for arguments, said in (
        ((one, other), "have no device, bundle and component in common"),
        ((one, broken), "expected a result with schema_version 1 to 5"),
        ((one, tmp_path / "missing"), "cannot be read"),
        ((one, one, "--limit", "1"), "with its sign, got '1': write 1%, or 100%"),
    ):
        done = bench("--compare", *arguments)
        assert done.exit_code == 2
        assert said in done.output


def test_results_survive_a_file(bundle: Bundle, tmp_path: Path) -> None:
    base = emulated(bundle)
    estimated = Estimated("d", base.artefact, "encode_image", 1, 1.0, 2.0, 4.0, "instructions", ("a",), 0.1, "")
    several = (base, measured(base, 3.0), estimated, Failed("x", None, "why", "what to do"))
    results.write(tmp_path / "r", several)
    assert results.read(tmp_path / "r") == several
    assert merge(several, (replace(estimated, middle_ms=3.0),))[-1] == replace(estimated, middle_ms=3.0)
    assert len(merge(several, (estimated,))) == 4
    assert Failed("x", None, "why", "what to do") not in merge(several, (replace(base, device="x"),))
    assert "_ms" not in json.dumps(results.to_json(base))
    with pytest.raises(InputError, match="evidence: expected one of"):
        results.from_json({"schema_version": 1, "evidence": "guessed"}, where="line 1")


# What a worker makes of a machine's answers


class Scripted:
    """A machine that says to each job what stands next in its script, the last again and again."""

    architecture, packages = "aarch64", frozenset({"torch"})

    def __init__(self, emulator: str | None = None, **script: list[Any]) -> None:
        self.emulator, self.script = emulator, {"system": [schema.write(this_system())]} | script
        self.asked: list[tuple[str, float]] = []

    def put(self, local: Path, progress: Progress = silent) -> str:
        return str(local)

    def ask(self, job: Mapping[str, Any], *, timeout_seconds: float) -> Iterator[Mapping[str, Any]]:
        self.asked.append((job["job"], timeout_seconds))
        said = self.script[job["job"]]
        now = said[0] if len(said) == 1 else said.pop(0)
        if isinstance(now, Exception):
            raise now
        yield {"progress": {"stage": "working", "share": None}}
        if now is not None:
            yield {"result": now}

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def timed(median_ms: float) -> Mapping[str, Any]:
    plain: Mapping[str, Any] = schema.write(Times(1.0, None, 2.0, spread([median_ms] * 5)))
    return plain


MEMORY = schema.write(Memory(40, 10, 50, 20))


def test_an_emulated_machine_is_asked_for_memory_alone_and_given_time(bundle: Bundle) -> None:
    killed = OutOfMemory("too little", hint="a smaller recipe")
    machine = Scripted("QEMU 7.2", memory=[MEMORY, killed, DeviceError("broken")])
    found = list(measure(machine, "pi", subjects([bundle], ()), Effort(), silent))
    fits, none, failed = found
    assert isinstance(fits, Emulated)
    assert isinstance(none, Emulated)
    assert (fits.memory, fits.fits) == (Memory(40, 10, 50, 20), True)
    assert (none.memory, none.fits) == (None, False)
    assert failed == Failed("pi", describe(bundle), "broken", None, "encode_text")
    assert [each.component for each in (fits, none)] == ["encode_image", "classify"]
    assert fits.system is not None
    assert (fits.system.emulator, fits.counts) == ("QEMU 7.2", None)
    assert [name for name, _ in machine.asked] == ["system", "memory", "memory", "memory"]
    assert min(seconds for _, seconds in machine.asked) > 1000  # an emulator is ten times as slow


def test_what_fails_once_is_not_asked_again_and_a_lost_connection_is(bundle: Bundle) -> None:
    lost, told = ConnectionLost("gone", hint=None), list[str]()
    asked, effort = subjects([bundle], ["encode_image", "classify"]), Effort(threads=(1,), sustained_seconds=5)
    windows = schema.write(Sustained((Window(1.0, 6.0, None, None),), None))
    machine = Scripted(
        memory=[MEMORY],
        time=[timed(5.0), timed(7.0), lost, timed(6.0), DeviceError("hot"), timed(4.0)],
        sustained=[windows],
    )
    found = list(measure(machine, "pi", asked, effort, lambda stage, _: told.append(stage)))
    assert [type(each) for each in found] == [Measured, Measured, Measured, Failed, Measured, Measured]
    (failed,) = (each for each in found if isinstance(each, Failed))
    assert (failed.component, failed.message) == ("classify", "hot")
    last = found[-1]
    assert isinstance(last, Measured)
    assert last.component == "encode_image"
    assert [each.median_ms for each in last.processes] == [5.0, 6.0, 4.0]
    assert last.memory == Memory(40, 10, 50, 20)
    assert last.sustained == Sustained((Window(1.0, 6.0, None, None),), None)
    assert [name for name, _ in machine.asked].count("sustained") == 1
    assert any("the connection was lost, trying again (2 of 3)" in each for each in told)
    assert any(each.endswith("encode_image: working") for each in told)
    with pytest.raises(ConnectionLost):
        list(measure(Scripted(memory=[lost]), "pi", asked, effort, silent))
    with pytest.raises(ConnectionLost):
        list(measure(Scripted(memory=[MEMORY], time=[timed(5.0), timed(5.0), lost]), "pi", asked, effort, silent))
    mute = list(measure(Scripted(memory=[None]), "pi", asked, effort, silent))
    assert {each.message for each in mute if isinstance(each, Failed)} == {"the device ended the job without a result"}


def test_a_worker_measures_peers_after_the_bundle(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / exports.FACTS).write_text(json.dumps({"sha256": "0" * 64, "size_bytes": 7, "accuracy": 0.5}))
    made = {"kind": "onnx", "recipe": "fp32", "component": "encode_image", "folder": str(tmp_path)}
    broken = {"kind": "onnx", "recipe": "int8", "component": "encode_image", "folder": None} | {"message": "odd"}
    result = {"result": {"made": [made, broken | {"hint": None}]}}
    monkeypatch.setattr(peers, "answers", lambda *_, **__: iter([result]))

    def examined(bundle: Bundle, part: str, **offered: Any) -> list[results.Result]:
        providers = {"onnxruntime": [], "openvino": False, "trtexec": False} | offered
        machine = Scripted(memory=[MEMORY], time=[timed(5.0)], providers=[providers])
        monkeypatch.setattr(worker, "_machine", lambda found, targets, progress: machine)
        known, effort = device.resolve("host", profile.builtin()), Effort(threads=(1,), processes=1)
        asked = Assignment(known, (str(bundle.path),), (part,), effort, True, ("--seconds", "1"))
        return list(examine(asked, silent))

    ours, failed, peer = examined(bundle, "encode_image", onnxruntime=[exports.ON_CPU])
    assert isinstance(ours, Measured)
    assert ours.artefact == describe(bundle)
    assert failed == Failed("host", None, "onnx int8 could not be made: odd", None, "encode_image")
    assert isinstance(peer, Measured)
    assert (peer.artefact.target, peer.artefact.size_bytes, peer.artefact.accuracy) == ("onnxruntime", 7, 0.5)
    assert peer.reproduce.endswith("--component encode_image --peers --seconds 1 --threads 1")
    ours, *others = examined(bundle, "classify", onnxruntime=[exports.ON_CPU])  # of which no peer is made
    assert isinstance(ours, Measured)
    assert [each.component for each in others if isinstance(each, Failed)] == ["encode_image"]
    assert len(others) == 1
    ours, none = examined(bundle, "encode_image")
    assert isinstance(ours, Measured)
    assert isinstance(none, Failed)
    assert none.message.startswith("neither ONNX Runtime nor OpenVINO nor trtexec is installed there")
    assert none.hint == "pip install 'edgevlm[peers]'"
    ours, talks = examined(library.talker("blip", "tflite", "fp32"), "prompt", openvino=True)
    assert isinstance(ours, Measured)
    assert isinstance(talks, Failed)
    assert "talks, and peers are made of dual encoders so far" in talks.message

    def gone(*_: Any, **__: Any) -> Iterator[Mapping[str, Any]]:
        raise InputError("the model is not found", hint="elsewhere")

    monkeypatch.setattr(peers, "answers", gone)
    _, failed = examined(bundle, "encode_image", openvino=True)
    message = f"other toolchains' files of {bundle.path.name}: the model is not found"
    assert failed == Failed("host", None, message, "elsewhere")


def test_a_machine_of_another_processor_is_not_the_device(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Scripted()
    monkeypatch.setattr(machine, "architecture", "x86_64")
    monkeypatch.setattr(worker, "_machine", lambda found, targets, progress: machine)
    board = device.resolve("raspberry-pi-5=ssh://pi@10.0.0.2", profile.builtin())
    with pytest.raises(DeviceError, match="has a processor of aarch64, and the machine that was reached one of x86_64"):
        list(examine(Assignment(board, (str(bundle.path),), (), Effort(), False), silent))
    assert machine.asked == []


def test_a_phone_that_is_not_there_is_estimated_from_what_others_measured_on_it() -> None:
    bundle = library.student("coreml", "fp16")

    def examined(name: str) -> list[results.Result]:
        asked = Assignment(device.resolve(name, profile.builtin()), (str(bundle.path),), (), Effort(), False)
        return list(examine(asked, silent))

    found = examined("iphone-12-pro-max")
    assert [each.component for each in found if isinstance(each, Estimated)] == list(bundle.components)
    for each in found:
        assert isinstance(each, Estimated)
        assert (each.threads, each.unit, each.bound_by) == (0, "npu", "calibration point")
        assert 0 < each.low_ms <= each.middle_ms <= each.high_ms
        assert each.calibration
        assert "--threads" not in each.reproduce
    unknown = examined("iphone-15-pro")
    assert len(unknown) == len(bundle.components)
    for other in unknown:
        assert isinstance(other, Failed)
        assert "nobody published a latency on this device's accelerator" in other.message
    old = Bundle(bundle.path, replace(bundle.manifest, multiply_adds={}))
    (failed, *_) = scaled(device.resolve("iphone-12-pro-max", profile.builtin()), subjects([old], ()))
    assert isinstance(failed, Failed)
    assert "it is of an older format" in failed.message
    assert failed.hint == "convert it again"


def test_a_device_to_emulate_without_a_processor_is_told_of(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "devices.yaml"
    path.write_text("mine: {title: Mine, reach: qemu-user, chip: X, targets: [tflite]}")
    asked = Assignment(device.resolve("mine", profile.read(path)), (str(bundle.path),), (), Effort(), False)
    with pytest.raises(DeviceError, match="Mine: expected a cpu in its profile, got none"):
        list(examine(asked, silent))


def test_what_no_latency_is_estimated_for_says_why(bundle: Bundle) -> None:
    pi = device.resolve("raspberry-pi-5", profile.builtin())
    (subject,) = subjects([bundle], ["encode_image"])
    one, many, three = estimate(pi, subject, COUNTS, (1, 8, 3))
    assert isinstance(one, Estimated)
    assert isinstance(many, Failed)
    assert isinstance(three, Estimated)
    assert many.message == "no latency is estimated for 8 threads on 4 Cortex-A76"
    assert (one.threads, three.threads) == (1, 3)
    narrow = replace(pi.profile, cpu=(replace(pi.profile.cpu[0], fma_lanes=0),))
    (failed,) = estimate(replace(pi, profile=narrow), subject, COUNTS, (1,))
    assert isinstance(failed, Failed)
    assert "a core of unknown width" in failed.message
    assert "fma_lanes" in str(failed.hint)
    # Kernels of integers execute more instructions a cycle.
    much = replace(COUNTS, instructions=10**9)
    (of_floats,) = estimate(pi, subject, much, (1,))
    (of_integers,) = estimate(pi, subject, replace(much, integer_multiply_adds=10**6), (1,))
    assert isinstance(of_floats, Estimated)
    assert isinstance(of_integers, Estimated)
    assert of_integers.middle_ms < of_floats.middle_ms


def test_peers_are_files_in_every_way_that_a_device_can_run_them(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what the process that makes them says, and not that process, which takes long."""
    made = []
    for index, (kind, recipe, component) in enumerate(
        (
            ("onnx", "fp32", "encode_image"),
            ("onnx", "fp32", "encode_text"),
            ("onnx", "int8", "encode_image"),
            ("openvino", "fp32", "encode_image"),
        )
    ):
        folder = tmp_path / str(index)
        folder.mkdir()
        facts = {"sha256": f"{index}" * 64, "size_bytes": 100 + index, "accuracy": 1 - index / 100}
        (folder / exports.FACTS).write_text(json.dumps(facts))
        made.append({"kind": kind, "recipe": recipe, "component": component, "folder": str(folder)})
    failure = {"kind": "onnx", "recipe": "int8", "component": "encode_text", "folder": None}
    made.append(failure | {"message": "too odd", "hint": "none"})
    asked: list[Any] = []

    def said(command: Any, job: Any, **_: Any) -> Iterator[Mapping[str, Any]]:
        asked.append(job)
        yield {"progress": {"stage": "making onnx fp32 of encode_image", "share": None}}
        yield {"result": {"made": made}}

    monkeypatch.setattr(peers, "answers", said)
    told: list[str] = []
    accelerated = {"onnxruntime": ["TensorrtExecutionProvider", "CUDAExecutionProvider", exports.ON_CPU]}
    offered = peers.offers(Scripted(providers=[accelerated | {"openvino": True, "trtexec": True}]))
    failed, *found = peers.make_peers("jetson", bundle, offered, lambda stage, _: told.append(stage))
    job = {"bundle": str(bundle.path), "components": ["encode_image", "encode_text"], "kinds": ["onnx", "openvino"]}
    assert asked == [job]
    assert told == ["making onnx fp32 of encode_image"]
    assert failed == Failed("jetson", None, "onnx int8 could not be made: too odd", "none", "encode_text")
    assert all(isinstance(each, peers.PeerSubject) for each in found)
    said_of = {(each.artefact.target, each.artefact.recipe): each for each in found if not isinstance(each, Failed)}
    assert list(said_of) == [
        ("onnxruntime", "fp32"),
        ("onnxruntime", "fp32 on TensorRT"),
        ("onnxruntime", "fp32 on CUDA"),
        ("tensorrt", "fp16"),
        ("onnxruntime", "int8"),
        ("openvino", "fp32"),
    ]
    assert len(found) == 4 * 2 + 1 + 1
    whole, fast = said_of["onnxruntime", "fp32"], said_of["tensorrt", "fp16"]
    assert (whole.artefact.size_bytes, whole.artefact.accuracy, whole.on_cpu) == (201, 0.99, True)
    assert (fast.artefact.size_bytes, fast.artefact.accuracy, fast.on_cpu) == (201, None, False)
    assert whole.artefact.model == describe(bundle).model
    assert whole.job(Scripted(), silent) == {
        "job": "time",
        "onnx": f"{tmp_path / '1'}/model.onnx",
        "provider": exports.ON_CPU,
        "input": schema.write(bundle.components["encode_text"].spec.inputs[0]),
    }
    assert fast.job(Scripted(), silent)["job"] == "tensorrt"
    again = "edgevlm bench {} --device jetson --component encode_text --peers --seconds 2"
    assert replace(whole, options=("--seconds", "2")).command("jetson") == again.format(bundle.path)
    only = {"onnxruntime": [], "openvino": True, "trtexec": False}
    assert [
        each.artefact.target
        for each in peers.make_peers("host", bundle, only, silent)
        if isinstance(each, peers.PeerSubject)
    ] == ["openvino"]
    assert asked[-1]["kinds"] == ["openvino"]


def test_peers_are_made_of_the_model_that_the_bundle_was_made_of(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Mapping[str, Any]] = []
    asked = {"components": ["encode_image", "encode_text"], "kinds": ["onnx"]}
    with pytest.raises(InputError, match="made of 'small', which is not found") as missing:
        exports.work({"bundle": str(bundle.path), **asked}, said.append)
    assert missing.value.hint == "run this in the folder in which small is the checkpoint that was converted"
    monkeypatch.setitem(exports._PACKAGES, "onnx", ("nowhere",))
    exports.work({"bundle": str(library.student("coreml", "fp16").path), **asked}, said.append)
    ((made,),) = (each["result"].values() for each in said)
    assert [(each["component"], each["recipe"]) for each in made] == [
        (component, recipe) for component in asked["components"] for recipe in ("fp32", "int8")
    ]
    assert {each["folder"] for each in made} == {None}
    assert all("needs the package 'nowhere'" in each["message"] for each in made)
    assert all("edgevlm[peers]" in each["hint"] for each in made)


class Masked(nn.Module):
    """x float32 [1, 64] -> float32 [1, 64]: a layer, and a product with a constant that is no layer's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64)
        self.register_buffer("mask", 3 * torch.eye(64))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) @ self.mask


def test_onnx_runtime_quantises_a_layers_weights_and_no_other_constant(tmp_path: Path) -> None:
    taken, given = (TensorSpec(name, "float32", (1, 64), "any") for name in ("x", "y"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module, x = Masked().eval().requires_grad_(False), torch.randn(1, 64)
    program = Program(ComponentSpec("masked", (taken,), (given,)), module, (x,))
    exports._write_onnx(program, path := tmp_path / "model.onnx", quantised=True)
    found = onnx.load(path).graph
    weights = {each.name: onnx.numpy_helper.to_array(each) for each in found.initializer}
    mask = next(name for name, value in weights.items() if np.array_equal(value, module.mask.numpy()))
    assert {node.op_type for node in found.node if mask in node.input} == {"MatMul"}
    (whole,) = (value for value in weights.values() if value.dtype == np.int8 and value.ndim == 2)
    assert whole.shape == (64, 64)
    assert np.abs(whole.astype(int)).max() in ((63, 64) if exports._sums_overflow() else (127, 128))
    (answer,) = onnxruntime.InferenceSession(path).run(None, {"x": x.numpy()})
    np.testing.assert_allclose(answer, module(x).numpy(), atol=0.03 * float(module(x).abs().max()))


def test_a_peers_file_is_made_once_and_keeps_what_it_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "folder", lambda: tmp_path)
    model = catalogue.load(str(library.checkpoint("clip")))
    told: list[str] = []
    with monkeypatch.context() as here:
        here.setenv("CI", "true")  # as the process that makes them sets it, for OpenVINO to send nothing
        folder = exports.make(model, "encode_text", "openvino", False, lambda said, _: told.append(said))
    facts = json.loads((folder / exports.FACTS).read_text())
    files = [folder / "model.xml", folder / "model.bin"]
    assert sorted(folder.iterdir()) == sorted([*files, folder / exports.FACTS])
    assert facts["accuracy"] > 0.999999
    assert facts["size_bytes"] == sum(each.stat().st_size for each in files)
    assert facts["sha256"] == hash_file(files[0])
    assert exports.make(model, "encode_text", "openvino", False, lambda said, _: pytest.fail(said)) == folder
    assert told == ["making openvino fp32 of encode_text"]
    monkeypatch.setitem(exports._PACKAGES, "onnx", ("onnx", "nowhere"))
    with pytest.raises(MissingDependency, match="nowhere") as missing:
        exports.make(model, "encode_text", "onnx", quantised=False, progress=silent)
    assert "edgevlm[peers]" in str(missing.value.hint)
