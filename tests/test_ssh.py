"""Jobs on another machine: a real sshd on loopback stands for it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import library
import pytest
import wheels
from sshd import SERVER, Sshd, descendants, named, running_in

import edgevlm
from edgevlm import schema
from edgevlm.bench.measure import Effort
from edgevlm.bench.worker import Assignment
from edgevlm.bundle.bundle import Bundle
from edgevlm.devices import site, ssh
from edgevlm.devices.address import Address, parse
from edgevlm.devices.device import resolve
from edgevlm.devices.local import Local
from edgevlm.devices.machine import Machine
from edgevlm.devices.ssh import Ssh
from edgevlm.errors import ConnectionLost, DeviceError, OutOfMemory

needs_sshd = pytest.mark.skipif(SERVER is None or shutil.which("ssh") is None, reason="needs OpenSSH's sshd and ssh")
SYSTEM = {"job": "system"}


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    server = Sshd(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return library.tower_bundle("tflite", "fp32")


def reach(server: Sshd, python: str = sys.executable, **options: Any) -> Ssh:
    return Ssh(server.address, python=python, config=server.config, **options)


def result(machine: Machine, job: Mapping[str, Any], timeout_seconds: float = 60) -> Mapping[str, Any]:
    *_, last = machine.ask(job, timeout_seconds=timeout_seconds)
    answer: Mapping[str, Any] = last["result"]
    return answer


def python_over_there(folder: Path, cases: str, otherwise: str = "") -> str:
    """A Python that does something else in some cases of a shell's, by its arguments."""
    path = folder / "my-python"
    path.write_text(f"""#!/bin/sh
case "$*" in
*edgevlm-python*) echo edgevlm-python 3 {sys.version_info.minor} "$0" ;;
{cases}
*) exec {sys.executable} {otherwise} "$@" ;;
esac
""")
    path.chmod(0o755)
    return str(path)


def timing(path: str, seconds: float = 0.2) -> Mapping[str, Any]:
    return {"job": "time", "bundle": path, "component": "encode_image", "threads": 1, "seconds": seconds}


def endless(path: str) -> Mapping[str, Any]:
    return {**timing(path, 600), "job": "sustained"}


def test_addresses() -> None:
    assert parse("ssh://pi@raspberrypi.local:2222") == Address("ssh", "raspberrypi.local", "pi", 2222)
    assert parse("ssh://pi") == Address("ssh", "pi")
    assert parse("ssh://[fe80::1%eth0]:22") == Address("ssh", "fe80::1%eth0", port=22)
    assert parse("adb://192.168.0.3:5555") == Address("adb", "192.168.0.3:5555")
    for text in ("ssh://pi@raspberrypi.local:2222", "ssh://pi", "ssh://[fe80::1]:22", "adb://0123ABC"):
        assert str(parse(text)) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pi@raspberrypi", "ssh://"),
        ("ssh://", "ssh://"),
        ("ssh://-oProxyCommand=true", "got 'ssh://-oProxyCommand"),
        ("ssh://-l@host", "got"),
        ("ssh://pi:secret@host", "ssh-copy-id"),
        ("ssh://host:0", "1 to 65535"),
        ("ssh://host:99999", "1 to 65535"),
        (f"ssh://host:{'9' * 5_000}", "expected a device's address"),
        ("ssh://fe80::1", "brackets"),
        ("ssh://host/folder", "got"),
        ("adb://", "adb devices"),
        ("adb://-s", "got"),
        ("usb://x", "got 'usb://x'"),
    ],
)
def test_what_is_no_address(text: str, said: str) -> None:
    with pytest.raises(DeviceError) as caught:
        parse(text)
    assert said in f"{caught.value.message} {caught.value.hint}"


def test_this_computer_answers(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy.py").write_text("raise ImportError('a file of the user, not numpy')")
    monkeypatch.chdir(tmp_path)
    with Local() as machine:
        assert result(machine, SYSTEM)["architecture"] == machine.architecture == platform.machine()
        path = machine.put(bundle.path)
        assert Path(path) == bundle.path.resolve()
        assert result(machine, timing(path))["engine_ms"]["median"] > 0
        with pytest.raises(DeviceError, match="got 'dance'"):
            result(machine, {"job": "dance"})


def test_this_computer_ends_what_is_not_awaited(bundle: Bundle) -> None:
    job = endless(str(bundle.path))
    for end in ("closed", "overdue", "killed", "crashed"):
        jobs = Local().ask(job, timeout_seconds=5 if end == "overdue" else 60)
        assert "progress" in next(iter(jobs))
        (child,) = _children("edgevlm.onboard")
        if end == "closed":
            jobs.close()  # type: ignore[attr-defined]
        else:
            kind, said = DeviceError, "no answer within 5 s"
            if end != "overdue":
                os.kill(child, signal.SIGKILL if end == "killed" else signal.SIGSEGV)
                kind, said = (OutOfMemory, "memory") if end == "killed" else (DeviceError, "SIGSEGV")
            with pytest.raises(kind, match=said):
                list(jobs)
        assert _children("edgevlm.onboard") == []


@needs_sshd
def test_a_machine_answers_and_is_left_as_it_was(sshd: Sshd, bundle: Bundle) -> None:
    told: list[tuple[str, float | None]] = []
    with reach(sshd, progress=lambda stage, share: told.append((stage, share))) as machine:
        assert machine.folder.startswith(str(sshd.there))
        assert machine.architecture == platform.machine()
        assert {"numpy", "PIL", "tokenizers", "ai_edge_litert", "flatbuffers"} <= machine.packages
        path = machine.put(bundle.path, lambda stage, share: told.append((stage, share)))
        assert machine.put(bundle.path) == path
        assert Bundle.open(path).manifest.name == bundle.manifest.name
        answers = list(machine.ask({**timing(path), "job": "sustained"}, timeout_seconds=60))
        assert "progress" in answers[0]
        assert len(answers[-1]["result"]["windows"]) >= 1
        assert result(machine, timing(path))["engine_ms"]["median"] > 0
        with pytest.raises(edgevlm.errors.BundleError, match="expected a bundle folder, found nothing"):
            result(machine, timing(f"{machine.folder}/nothing"))
    assert list(sshd.there.iterdir()) == []
    assert running_in(machine.folder) == []
    sent = [(stage, share) for stage, share in told if bundle.path.name in stage]
    assert f"{bundle.size_bytes / 1e6:.1f} MB" in sent[0][0]
    assert [share for _, share in sent] == sorted({share for _, share in sent})
    assert sent[-1][1] == 1
    assert sum("sending" in stage and share == 0 for stage, share in told) == 2  # our sources, and the bundle


@needs_sshd
def test_what_is_gone_is_sent_again_and_a_machine_that_is_gone_given_up(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "PAUSES_SECONDS", (0.1,))
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    for each in (first, second, third):
        each.write_text(each.name)
    told: list[str] = []

    def sent(name: str) -> int:
        return sum(f"sending {name} " in each for each in told)

    with reach(sshd, progress=lambda stage, share: None if share == 1 else told.append(stage)) as machine:
        folder, there = machine.folder, machine.put(first)
        sshd.cut()
        assert Path(machine.put(second)).read_text() == "second"
        assert (machine.folder, machine.put(first), sent("first")) == (folder, there, 0)
        sshd.cut()
        _wait_until(lambda: named(str(sshd.config)) == [])
        shutil.rmtree(folder)  # as a board does that is started anew
        assert machine.put(first) == there
        assert Path(there).read_text() == "first"
        assert (sent("first"), sent("second")) == (1, 1)
        sshd.stop()
        with suppress(DeviceError):  # that it is lost may be noticed only now
            machine.put(third)
        with pytest.raises(DeviceError, match=r"2 tries to connect again failed: .* refused the connection") as caught:
            machine.put(third)
        assert not isinstance(caught.value, ConnectionLost)
    assert f"{folder} stays on {sshd.address.name}: " in told[-1]


@needs_sshd
def test_a_job_without_an_answer_is_ended_over_there(sshd: Sshd, tmp_path: Path) -> None:
    job = tmp_path / "job"
    with reach(sshd, python_over_there(tmp_path, f"*edgevlm.onboard*) . {job} ;;")) as machine:
        job.write_text("exec sleep 60")  # it does not notice that its stdin ends
        with pytest.raises(DeviceError, match="no answer within 2 s"):
            result(machine, SYSTEM, timeout_seconds=2)
        _wait_until(lambda: running_in(machine.folder) == [])
        job.write_text("kill -KILL $$")
        with pytest.raises(OutOfMemory):
            result(machine, SYSTEM)
        assert Path(machine.folder).is_dir()
    assert list(sshd.there.iterdir()) == []


@needs_sshd
def test_a_machine_is_sent_what_it_lacks(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels.only_from(tmp_path, monkeypatch)
    python = f"cp3{sys.version_info.minor}"
    versions = dict(each.split("==") for each in map(site.pinned, site.PACKAGES))
    for name, version in versions.items():
        wheels.write(tmp_path, name, version, f"{python}-{python}-manylinux_2_27_{platform.machine()}")
    with reach(sshd, python_over_there(tmp_path, "", "-S")) as machine:
        assert {"numpy", "PIL", "tokenizers"} <= machine.packages
        assert result(machine, SYSTEM)["versions"] == versions


@needs_sshd
@pytest.mark.parametrize(
    ("libc", "said"),
    [('["glibc", "2.17"]', "it has Linux with glibc 2.17"), ('["", ""]', "it has Linux with another C library")],
)
def test_a_machine_that_wheels_do_not_fit(sshd: Sshd, tmp_path: Path, libc: str, said: str) -> None:
    edits = f"""-e 's/"libc": [[][^]]*]/"libc": {libc}/' -e 's/"packages": [[][^]]*]/"packages": ["PIL"]/'"""
    python = python_over_there(tmp_path, f'-c*) {sys.executable} "$@" | sed {edits} ;;')
    with pytest.raises(DeviceError, match=f"lacks numpy, tokenizers; they can be sent to .* {said}$") as caught:
        reach(sshd, python).__enter__()
    assert caught.value.hint == f"install them over there, for {python}"
    assert list(sshd.there.iterdir()) == []


@pytest.mark.slow
@needs_sshd
def test_the_folder_goes_after_an_error_too(sshd: Sshd) -> None:
    with pytest.raises(ZeroDivisionError), reach(sshd):
        raise ZeroDivisionError
    assert list(sshd.there.iterdir()) == []


@pytest.mark.slow
@needs_sshd
def test_a_job_that_is_not_awaited_ends_over_there(sshd: Sshd, bundle: Bundle) -> None:
    with reach(sshd) as machine:
        job = endless(machine.put(bundle.path))
        answers = machine.ask(job, timeout_seconds=60)
        next(iter(answers))
        (child,) = _onboard(machine.folder)
        os.kill(child, signal.SIGSTOP)  # so that it notices nothing
        answers.close()  # type: ignore[attr-defined]
        _wait_until(lambda: running_in(machine.folder) == [])
        with pytest.raises(DeviceError, match="no answer within 4 s"):
            list(machine.ask(job, timeout_seconds=4))
        _wait_until(lambda: running_in(machine.folder) == [])
        answers = machine.ask(job, timeout_seconds=60)
        next(iter(answers))
        os.kill(_onboard(machine.folder)[0], signal.SIGKILL)
        with pytest.raises(OutOfMemory):
            list(answers)


@pytest.mark.slow
@needs_sshd
def test_a_lost_connection_is_found_again(sshd: Sshd, bundle: Bundle) -> None:
    told: list[str] = []
    with reach(sshd) as machine:
        folder, path = machine.folder, machine.put(bundle.path)
        answers = machine.ask(endless(path), timeout_seconds=60)
        next(iter(answers))
        assert running_in(folder)
        sshd.cut()
        with pytest.raises(ConnectionLost, match="lost"):
            list(answers)
        _wait_until(lambda: running_in(folder) == [])  # by themselves: stdin ended
        assert machine.put(bundle.path, lambda stage, _: told.append(stage)) == path
        assert told == []
        assert result(machine, timing(path))["engine_ms"]["median"] > 0
        assert machine.folder == folder
        assert len(list(sshd.there.iterdir())) == 1
        sshd.cut()
    assert list(sshd.there.iterdir()) == []


@pytest.mark.slow
@needs_sshd
def test_what_a_lost_connection_left_running_is_ended(sshd: Sshd, bundle: Bundle) -> None:
    with reach(sshd) as machine:
        answers = machine.ask(endless(machine.put(bundle.path)), timeout_seconds=60)
        next(iter(answers))
        (stuck,) = _onboard(machine.folder)
        os.kill(stuck, signal.SIGSTOP)
        sshd.cut()
        with pytest.raises(ConnectionLost):
            list(answers)
        assert _onboard(machine.folder) == [stuck]
        assert result(machine, SYSTEM)["cores"] >= 1
        _wait_until(lambda: running_in(machine.folder) == [])


@pytest.mark.slow
@needs_sshd
def test_a_machine_that_was_started_anew_is_sent_all_again(
    sshd: Sshd, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "PAUSES_SECONDS", (0.5,) * 10)
    with reach(sshd) as machine:
        path = machine.put(bundle.path)
        sshd.stop()
        shutil.rmtree(machine.folder)
        later = threading.Timer(1.5, sshd.start)
        later.start()
        assert result(machine, timing(path))["engine_ms"]["median"] > 0
        later.join()


@pytest.mark.slow
@needs_sshd
def test_what_was_not_sent_again_before_the_connection_was_lost_is_sent_after(sshd: Sshd, tmp_path: Path) -> None:
    again: list[str] = []

    def cut_at_the_second(stage: str, share: float | None) -> None:
        if sent and share == 0:
            again.append(stage)
            if "second" in stage and len(again) == 3:
                sshd.cut()

    sent: dict[Path, str] = {}
    with reach(sshd, progress=cut_at_the_second) as machine:
        for name in ("first", "second", "third"):
            (tmp_path / name).write_bytes(os.urandom(500_000))
        sent = {tmp_path / name: machine.put(tmp_path / name) for name in ("first", "second", "third")}
        sshd.cut()
        _wait_until(lambda: named(str(sshd.config)) == [])
        shutil.rmtree(machine.folder)  # as a board does that is started anew
        with pytest.raises(ConnectionLost):
            result(machine, SYSTEM)
        assert result(machine, SYSTEM)["cores"] >= 1
        assert all(Path(there).read_bytes() == here.read_bytes() for here, there in sent.items())
        assert [stage.split()[1].split("-")[0] for stage in again] == [
            "edgevlm", "first", "second", "second", "third"
        ]  # fmt: skip


@pytest.mark.slow
@needs_sshd
def test_a_connection_lost_while_sending_is_made_again(sshd: Sshd, tmp_path: Path) -> None:
    big, began = tmp_path / "big", []
    big.write_bytes(os.urandom(8_000_000))

    def trouble(_: str, share: float | None) -> None:
        if share == 0:
            began.append(True)
        elif share and share > 0.3 and len(began) == 1:
            sshd.cut()
        elif share and share > 0.3 and len(began) == 2:
            for client in named(str(sshd.config)):
                os.kill(client, signal.SIGKILL)

    with reach(sshd) as machine:
        there = Path(machine.put(big, trouble))
        assert len(began) == 3
        assert there.read_bytes() == big.read_bytes()
        _wait_until(lambda: len(list(Path(machine.folder).iterdir())) == 2)  # our sources and the file: no halves
        left_over = Path(machine.folder, "2", "left over")
        left_over.mkdir(parents=True)
        other = tmp_path / "other"
        other.write_bytes(b"whole")
        assert Path(machine.put(other)).read_bytes() == b"whole"
        assert not left_over.exists()
    assert list(sshd.there.iterdir()) == []


@pytest.mark.slow
@needs_sshd
def test_a_killed_job_leaves_no_temporary_files(sshd: Sshd, bundle: Bundle, tmp_path: Path) -> None:
    native = tmp_path / "native"
    native.write_text('#!/bin/sh\necho "$4" > "$0.folder"\nkill -KILL $PPID\n')  # its parent is the job
    native.chmod(0o755)
    with reach(sshd) as machine:
        with pytest.raises(OutOfMemory):
            result(machine, {**timing(machine.put(bundle.path)), "native": str(native)})
        left = Path((tmp_path / "native.folder").read_text().strip())
        assert left.is_dir()
        assert left.parent == Path(machine.folder)
    assert list(sshd.there.iterdir()) == []


@pytest.mark.slow
@needs_sshd
def test_a_worker_stopped_while_the_folder_is_made_removes_it(sshd: Sshd, bundle: Bundle) -> None:
    slow = sshd.folder / "slow-python"
    slow.write_text(f"""#!/bin/sh
case "$*" in
*edgevlm-python*) echo edgevlm-python 3 11 "$0" ;;
-S*) exec {sys.executable} "$@" ;;
*) answer=$({sys.executable} "$@"); sleep 3; echo "$answer" ;;
esac
""")
    slow.chmod(0o755)
    device = resolve(str(sshd.address), {})
    device = replace(device, profile=replace(device.profile, python=str(slow)))
    assignment = Assignment(device, (str(bundle.path),), (), Effort(), peers=False)
    worker = subprocess.Popen(
        [sys.executable, "-m", "edgevlm.bench.worker"],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env={**os.environ, "EDGEVLM_SSH_CONFIG": str(sshd.config)},
    )  # fmt: skip
    assert worker.stdin is not None
    worker.stdin.write(json.dumps(schema.write(assignment)).encode() + b"\n")
    worker.stdin.flush()
    _wait_until(lambda: list(sshd.there.iterdir()) != [], 60)
    worker.stdin.close()  # as the command does when it is stopped
    assert worker.wait(30) == 128 + signal.SIGTERM
    assert list(sshd.there.iterdir()) == []


@pytest.mark.slow
@needs_sshd
def test_a_machine_that_is_gone_is_given_up(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "PAUSES_SECONDS", (0.1, 0.2))
    told: list[str] = []
    with reach(sshd, progress=lambda stage, _: told.append(stage)) as machine:
        sshd.stop()
        with suppress(DeviceError):  # that it is lost may be noticed only now
            machine.put(Path(__file__))
        with pytest.raises(DeviceError, match=r"3 tries to connect again failed: .* refused the connection") as caught:
            machine.put(Path(__file__))
        assert not isinstance(caught.value, ConnectionLost)
    assert f"{machine.folder} stays on" in told[-1]


@pytest.mark.slow
@needs_sshd
def test_a_stopped_command_leaves_nothing(sshd: Sshd, bundle: Bundle, tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from edgevlm.process import interrupts
from edgevlm.devices.address import parse
from edgevlm.devices.ssh import Ssh
options = {{"python": "{sys.executable}", "config": Path("{sshd.config}")}}
with interrupts.clean_exit(), Ssh(parse("{sshd.address}"), **options) as m:
    path = m.put(Path("{bundle.path}"))
    for _ in m.ask({endless("?")!r} | {{"bundle": path}}, timeout_seconds=60):
        print("running", flush=True)
"""
    for number in (signal.SIGINT, signal.SIGKILL):
        command = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
        assert command.stdout is not None
        assert command.stdout.readline() == b"running\n"
        (folder,) = sshd.there.iterdir()
        assert running_in(folder)
        os.killpg(command.pid, number)  # as a terminal does
        assert command.wait(20) == (-number if number == signal.SIGKILL else 128 + number)
        command.stdout.close()
        _wait_until(lambda: not any(map(running_in, sshd.there.iterdir())) and named(str(sshd.config)) == [])
        assert (folder in sshd.there.iterdir()) == (number == signal.SIGKILL)


@needs_sshd
@pytest.mark.parametrize(
    ("known", "said", "hint"),
    [(None, "is not known here", "fingerprint"), ("other", "another host key", "remove line 1 of ")],
)
def test_host_keys_are_checked(sshd: Sshd, known: str | None, said: str, hint: str) -> None:
    sshd.know(known)
    before = (sshd.folder / "known_hosts").read_text()
    with pytest.raises(DeviceError, match=said) as caught, reach(sshd):
        pass
    assert hint in str(caught.value.hint)
    assert (sshd.folder / "known_hosts").read_text() == before


@needs_sshd
def test_a_machine_that_is_not_reached(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    sshd.identify("stranger")
    with pytest.raises(DeviceError, match="accepts none of your keys") as caught, reach(sshd):
        pass
    assert f"ssh-copy-id -F {sshd.config} -p" in str(caught.value.hint)
    sshd.stop()
    with pytest.raises(DeviceError, match="refused the connection"), reach(sshd):
        pass
    with pytest.raises(DeviceError, match=r"no host nobody\.invalid"), Ssh(parse("ssh://nobody.invalid")):
        pass
    monkeypatch.setenv("PATH", str(sshd.there))
    with pytest.raises(DeviceError, match="no ssh client") as caught, reach(sshd):
        pass
    assert "openssh-client" in str(caught.value.hint)


@pytest.mark.slow
@needs_sshd
def test_the_configuration_is_named_by_the_environment(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEVLM_SSH_CONFIG", str(sshd.config))
    with Ssh(sshd.address, python=sys.executable) as machine:
        assert result(machine, SYSTEM)["architecture"] == platform.machine()


@pytest.mark.slow
@needs_sshd
def test_pythons_that_will_not_do(sshd: Sshd) -> None:
    with pytest.raises(DeviceError, match=r"no Python /nowhere/bin/python3 on 127\.0\.0\.1"):
        reach(sshd, "/nowhere/bin/python3").__enter__()
    old = sshd.folder / "old python"
    old.write_text("#!/bin/sh\necho edgevlm-python 3 9 /usr/bin/python3.9\n")
    old.chmod(0o755)
    with pytest.raises(DeviceError, match=r"Python 3\.11 or newer on .*, got /usr/bin/python3\.9 is 3\.9"):
        reach(sshd, str(old)).__enter__()
    assert list(sshd.there.iterdir()) == []


def fill(path: Path) -> None:
    """Takes what space is left where the file will be."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(65_536))


@pytest.mark.slow
@needs_sshd
def test_no_space_is_said_before_sending(tmp_path: Path, bundle: Bundle) -> None:
    sshd = Sshd(tmp_path)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(sshd.there)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs to mount a tmpfs: {mounted.stderr.decode()}")
    try:
        sshd.start()
        big, told = tmp_path / "big", []
        big.write_bytes(bytes(8_000_000))
        with reach(sshd) as machine:
            with pytest.raises(DeviceError, match=r"no space left on .* MB free, 8\.0 MB needed") as caught:
                machine.put(big, lambda stage, share: told.append(share))
            assert "TMPDIR" in str(caught.value.hint)
            assert told == [0]
            filler = sshd.there / "filler"
            big.write_bytes(bytes(1_500_000))
            with pytest.raises(DeviceError, match="No space left on device"):
                machine.put(big, lambda stage, share: fill(filler) if share else None)
            filler.unlink()
            assert result(machine, {**SYSTEM, "file": machine.put(big)})["cores"] >= 1
        assert list(sshd.there.iterdir()) == []
    finally:
        sshd.stop()
        subprocess.run(["umount", "-l", str(sshd.there)], check=True)


@pytest.mark.slow
@needs_sshd
def test_a_temporary_folder_that_cannot_be_written_is_passed_over(tmp_path: Path) -> None:
    sshd = Sshd(tmp_path)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro,size=4k", "tmpfs", str(sshd.there)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs to mount a tmpfs: {mounted.stderr.decode()}")
    try:
        sshd.start()
        with reach(sshd) as machine:
            assert not machine.folder.startswith(str(sshd.there))
            assert result(machine, SYSTEM)["cores"] >= 1
        assert not Path(machine.folder).exists()
    finally:
        sshd.stop()
        subprocess.run(["umount", "-l", str(sshd.there)], check=True)


def _children(word: str) -> list[int]:
    """Those of this process."""
    return [each for each in named(word) if each in descendants(os.getpid())]


def _onboard(folder: str) -> list[int]:
    names = {each: Path(f"/proc/{each}/cmdline").read_bytes() for each in running_in(folder)}
    return [each for each, name in names.items() if b"edgevlm.onboard" in name]


def _wait_until(true: Any, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)
