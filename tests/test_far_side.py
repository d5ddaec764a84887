"""What another machine is asked by ssh besides jobs, and what it is sent: a shell on this one stands for it."""

from __future__ import annotations

import errno
import io
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wheels

import edgevlm
from edgevlm.devices import far_side, site
from edgevlm.devices.address import Address
from edgevlm.devices.connection import FAILED, Connection
from edgevlm.devices.far_python import FarPython
from edgevlm.errors import ConnectionLost, DeviceError

Ask = Callable[..., list[Mapping[str, Any]]]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Ask:
    """What `far_side` says to a request, and to what follows it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def answers(request: Mapping[str, Any], more: bytes = b"") -> list[Mapping[str, Any]]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(request).encode() + b"\n" + more)))
        far_side.main()
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return answers


class Here(Connection):
    """A connection whose other end is this machine."""

    def __init__(self, before: str = "") -> None:
        super().__init__(Address("ssh", "here"))
        self.before, self.closed = before, False

    def command(self, words: str) -> list[str]:
        return ["sh", "-c", f"{self.before}{words}"]

    def close(self) -> None:
        self.closed = True
        super().close()


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def stream(folder: Path) -> bytes:
    """What is sent of a folder."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w|", format=tarfile.USTAR_FORMAT) as tar:
        tar.add(folder, arcname=folder.name)
    return held.getvalue() + far_side.WHOLE


def process_of(folder: str) -> subprocess.Popen[bytes]:
    """One that runs for a folder of ours."""
    return subprocess.Popen(["sleep", "60"], env={**os.environ, far_side.MARK: folder})


# What is done there


def test_a_folder_is_made_filled_found_again_and_removed(ask: Ask, tmp_path: Path) -> None:
    sent = tmp_path / "sent"
    (sent / "below").mkdir(parents=True)
    (sent / "below" / "file").write_bytes(b"content")
    (found,) = ask({"do": "settle", "folder": "", "sent": []})
    folder = found["done"]["folder"]
    assert Path(folder).parent == tmp_path.resolve()
    assert (found["done"]["architecture"], found["done"]["system"]) == (platform.machine(), platform.system())
    assert "numpy" in found["done"]["packages"]

    to = f"{folder}/0"
    request = {"do": "unpack", "folder": folder, "to": to, "size_bytes": 1}
    for _ in range(2):  # again where the answer was lost
        assert ask(request, stream(sent)) == [{"ready": True}, {"done": {}}]
        assert Path(to, "sent", "below", "file").read_bytes() == b"content"

    stuck = process_of(folder)
    for name in (".part-x", "1"):  # what a lost connection left
        Path(folder, name).mkdir()
    Path(folder, "job").touch()
    (found,) = ask({"do": "settle", "folder": folder, "sent": [to, f"{folder}/2"]})
    assert (found["done"]["folder"], found["done"]["missing"]) == (folder, [f"{folder}/2"])
    assert os.listdir(folder) == ["0"]
    assert stuck.wait(10) == -signal.SIGKILL

    shutil.rmtree(folder)  # as a board does that is started anew
    (found,) = ask({"do": "settle", "folder": folder, "sent": [to]})
    assert (found["done"]["folder"], found["done"]["missing"]) == (folder, [to])
    assert Path(folder).stat().st_mode & 0o777 == 0o700

    stuck, other = process_of(folder), process_of(f"{folder}x")
    assert ask({"do": "leave", "folder": folder, "remove": False}) == [{"done": {}}]
    assert stuck.wait(10) == -signal.SIGKILL
    assert Path(folder).is_dir()
    for _ in range(2):
        assert ask({"do": "leave", "folder": folder, "remove": True}) == [{"done": {}}]
        assert not Path(folder).exists()
    assert other.poll() is None
    other.kill()
    other.wait()


def test_what_is_cut_off_is_not_unpacked(ask: Ask, tmp_path: Path) -> None:
    """Between two files as well, where `tarfile` takes the end of the stream for the end of the archive."""
    sent, folder = tmp_path / "sent", tmp_path / "folder"
    for each in (sent, folder):
        each.mkdir()
    for name in ("first", "second", "third"):
        (sent / name).write_bytes(name.encode())
    whole = stream(sent)
    request = {"do": "unpack", "folder": str(folder), "to": str(folder / "0"), "size_bytes": 1}
    for end in (*range(0, 10 * tarfile.BLOCKSIZE, tarfile.BLOCKSIZE), len(whole) - 1):
        *_, last = ask(request, whole[:end])
        assert "failed" in last, end
        assert os.listdir(folder) == []
    *_, last = ask(request, whole)
    assert last == {"done": {}}
    assert sorted(os.listdir(folder / "0" / "sent")) == ["first", "second", "third"]


def test_no_space_is_said_before_anything_is_sent(ask: Ask, tmp_path: Path) -> None:
    (said,) = ask({"do": "unpack", "folder": str(tmp_path), "to": str(tmp_path / "0"), "size_bytes": 10**18})
    assert said["failed"]["code"] == errno.errorcode[errno.ENOSPC]
    assert "MB free, 1000000000000.0 MB needed" in said["failed"]["message"]


# A Python there


def test_a_python_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my python").symlink_to(sys.executable)
    found = FarPython.find(Here("echo 'Welcome to edgevlm-python'; "), "~/my python")
    assert (found.path, found.version) == (str(tmp_path / "my python"), platform.python_version().rpartition(".")[0])
    for number in (10, 12):
        script(tmp_path / f"python3.{number}", f"echo edgevlm-python 3 {number} /usr/bin/python3.{number}")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    script(tmp_path / "python3.13", "exit 1")
    assert FarPython.find(Here(), "").path == "/usr/bin/python3.12"


def test_pythons_that_are_not_there_or_too_old(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"no Python /nowhere/python3 on here") as caught:
        FarPython.find(Here(), "/nowhere/python3")
    assert "apt install python3" in str(caught.value.hint)
    old = script(tmp_path / "old", "echo edgevlm-python 3 9 /usr/bin/python3.9")
    with pytest.raises(DeviceError, match=r"Python 3\.11 or newer on here, got /usr/bin/python3\.9 is 3\.9"):
        FarPython.find(Here(), old)
    with pytest.raises(DeviceError, match=r"Python 3\.11 or newer on here, got none"):
        FarPython.find(Here("PATH=/nowhere; "), "")
    lost = Here(f"echo Connection closed >&2; exit {FAILED}; ")
    with pytest.raises(ConnectionLost, match="the connection to here was lost: Connection closed"):
        FarPython.find(lost, "")
    assert lost.closed


def test_a_python_does_what_it_is_asked(tmp_path: Path) -> None:
    python = FarPython(Here(), sys.executable, "3.11")
    sent = tmp_path / "sent"
    sent.mkdir()
    folder = python.do({"do": "settle", "folder": str(tmp_path / "folder"), "sent": []})["folder"]
    request = {"do": "unpack", "folder": folder, "to": f"{folder}/0", "size_bytes": 1}
    assert python.do(request, lambda pipe: pipe.write(stream(sent))) == {}  # type: ignore[func-returns-value]
    assert os.listdir(f"{folder}/0") == ["sent"]
    for change, said, hint in (
        ({"size_bytes": 10**18}, "no space left on here: .* MB needed", "set TMPDIR over there"),
        ({"folder": f"{folder}/nothing"}, "here: .*No such file", "None"),
        ({"do": "settle", "folder": "/sys/edgevlm", "sent": []}, "no permission on here", "set TMPDIR over there"),
    ):
        with pytest.raises(DeviceError, match=said) as caught:
            python.do(request | change, lambda pipe: None)
        assert hint in str(caught.value.hint)
    assert python.do({"do": "leave", "folder": folder, "remove": True}) == {}
    assert not Path(folder).exists()


def test_a_python_that_dies_or_gives_no_answer(tmp_path: Path) -> None:
    request = {"do": "settle", "folder": "", "sent": []}
    for text, kind, said in (
        ("kill -SEGV $$", DeviceError, "SIGSEGV"),
        ("echo no such module >&2; exit 3", DeviceError, "exit code 3 and without a result: no such module"),
        ("sleep 1", ConnectionLost, "the connection to here was lost"),
    ):
        connection = Here()
        with pytest.raises(kind, match=said):
            FarPython(connection, script(tmp_path / "python", text), "3.11").do(request, seconds=0.2)
        assert connection.closed == (kind is ConnectionLost)


# What it is sent


def test_wheels_of_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels.only_from(tmp_path, monkeypatch)
    wheels.write(tmp_path, "thing", "1.5", "cp312-cp312-manylinux_2_27_aarch64")
    wheels.write(tmp_path, "thing", "1.6", "cp312-cp312-manylinux_2_39_aarch64")  # for a newer C library
    wheels.write(tmp_path, "thing", "1.7", "cp312-cp312-manylinux_2_27_x86_64")
    told: list[str] = []
    for _ in range(2):
        found = site.site_packages(
            ["thing"], python="3.12", architecture="aarch64", progress=lambda stage, _: told.append(stage)
        )
        assert (found / "thing" / "__init__.py").read_text() == "__version__ = '1.5'\n"
    assert told == ["fetching thing for manylinux2014_aarch64, Python 3.12"]  # once
    with pytest.raises(
        DeviceError, match=r"cannot fetch thing==2 for .* and Python 3\.12: ERROR: No matching"
    ) as caught:
        site.site_packages(["thing==2"], python="3.12", architecture="aarch64")
    assert "pip and a network" in str(caught.value.hint)
    with pytest.raises(DeviceError, match="expected a machine of x86_64 or aarch64, got armv7l"):
        site.site_packages(["thing"], python="3.12", architecture="armv7l")


def test_versions_are_those_that_are_installed_here() -> None:
    assert site.pinned("numpy") == f"numpy=={np.__version__}"
    assert site.pinned("nothing-of-that-name") == "nothing-of-that-name"


def test_our_sources_are_found_in_a_folder_of_any_name(tmp_path: Path) -> None:
    """`builtin` is what the folder of the models is called that are not sent."""
    checkout = tmp_path / "builtin"
    for name in ("edgevlm", "runtimes", "converters", "benchmarks"):
        shutil.copytree(
            Path(edgevlm.__file__).parents[1] / name,
            checkout / name,
            ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"),
        )
    (checkout / "pyproject.toml").touch()
    code = "from edgevlm.devices.site import own_sources; print(own_sources())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=checkout,
        env={**os.environ, "EDGEVLM_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=True,
    )
    sent = Path(done.stdout.strip()) / "edgevlm"
    assert (sent / "onboard" / "__main__.py").is_file()
    assert (sent / "runtimes" / "tflite" / "__init__.py").is_file()
    assert not (sent / "models" / "builtin").exists()
    assert not (sent / "converters").exists()
