"""What reaches a terminal: texts of others literally, whatever the terminal can show, and JSON that is JSON."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import library
import pytest
from click.testing import CliRunner
from PIL import Image

import edgevlm
from edgevlm.cli import main
from edgevlm.errors import CheckpointError, OutputError
from edgevlm.process import store, terminal
from edgevlm.process.paths import user_path

PRODUCT = Path(terminal.__file__).parents[1]
HOSTILE = "a [bold]b[/] [/x] :smile: \x1b[2J\x9b1m\u202e\u2028\r\x07"
SHOWN = r"a [bold]b[/] [/x] :smile: \x1b[2J\x9b1m\u202e\u2028\r\x07"


def test_what_a_terminal_would_obey_is_written_out(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.say(HOSTILE)
    terminal.say(HOSTILE, err=True)
    terminal.table(HOSTILE, ("name", f">{HOSTILE}"), [(HOSTILE, terminal.Cell(HOSTILE, "red"))])
    said = capsys.readouterr()
    assert said.err == SHOWN + "\n"
    assert said.out.count(SHOWN) == 5
    assert set(said.out + said.err) & set("\x1b\x9b\u202e\u2028\r\x07") == set()
    assert terminal.visible("é 猫\t\n") == "é 猫\t\n"


def test_json_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    data = {"name": HOSTILE + "é\udcff", "numbers": [float("nan"), float("inf"), 1.5], "more": {"x": -float("inf")}}
    terminal.print_json(data)
    text = capsys.readouterr().out

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    found = json.loads(text, parse_constant=refuse)
    assert found == {"schema_version": 1, "name": data["name"], "numbers": [None, None, 1.5], "more": {"x": None}}
    assert not re.search("[\x7f-\x9f\u2028-\u202e\udcff]", text)


def test_commands_print_through_the_terminal() -> None:
    found = [
        path.name
        for folder in (PRODUCT / "commands", PRODUCT / "bench" / "report")
        for path in folder.rglob("*.py")
        if re.search(r"click\.echo|click\.secho|rich\.markup", path.read_text())
    ]
    assert found == []


def test_the_texts_of_a_bundle_and_of_a_user_are_shown_literally(tmp_path: Path) -> None:
    bundle = library.student("tflite", "int8")
    picture = tmp_path / "holiday [red] 1[b].png"
    Image.new("RGB", (64, 64)).save(picture)
    for asked in (("--text", "[/b] a star"), ("--labels", "[/b] a star, [red]b")):
        done = CliRunner().invoke(main, ["run", str(bundle.path), str(picture), *asked])
        assert done.exit_code == 0, done.output
        assert picture.name in done.output.replace("\n", "")
        assert "[/b] a star" in done.output
    gone = CliRunner().invoke(main, ["run", str(bundle.path), "[/]\x1b[31m.png", "--text", "a star"])
    assert gone.exit_code == 2
    assert r"[/]\x1b[31m.png: no such file" in gone.output


def _edgevlm(*arguments: str | Path, **changes: str | None) -> subprocess.CompletedProcess[bytes]:
    environment = {name: value for name, value in (os.environ | changes).items() if value is not None}
    command = [sys.executable, "-m", "edgevlm", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, timeout=120)


@pytest.mark.parametrize(
    "encoding", ["ascii", *(pytest.param(each, marks=pytest.mark.slow) for each in ("latin-1", "cp1252"))]
)
def test_an_output_that_is_not_utf8(encoding: str) -> None:
    bundle = library.student("tflite", "int8")
    picture = bundle.path / "golden" / "grey.png"
    shown = _edgevlm("run", bundle.path, picture, "--labels", "猫, a star", PYTHONIOENCODING=encoding)
    assert shown.returncode == 0, shown.stderr
    assert rb"\u732b" in shown.stdout
    assert b"#" in shown.stdout
    data = _edgevlm("run", bundle.path, picture, "--labels", "猫, a star", "--json", PYTHONIOENCODING=encoding)
    (answer,) = json.loads(data.stdout.decode(encoding))["answers"]
    assert list(answer["scores"]) == ["猫", "a star"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_a_full_output_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "edgevlm", "devices"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr == f"error: the output cannot be written: {os.strerror(errno.ENOSPC)}\n"
    with open("/dev/full", "w") as full:  # errors go nowhere, and what came of them is told all the same
        command = [sys.executable, "-m", "edgevlm", "verify", "gone", "--json"]
        assert subprocess.run(command, stdout=subprocess.PIPE, stderr=full, timeout=120).returncode == 2


@pytest.mark.parametrize(("value", "raised"), [("1", CheckpointError), ("0", SystemExit), ("", SystemExit)])
def test_whoever_asks_for_all_gets_the_traceback(
    value: str, raised: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEVLM_DEBUG", value)
    done = CliRunner().invoke(main, ["convert", "./gone", "--target", "coreml"])
    assert isinstance(done.exception, raised)
    assert done.exit_code == (1 if raised is CheckpointError else 2)


def test_whoever_reads_may_have_enough() -> None:
    command = [sys.executable, "-m", "edgevlm", "devices"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == b""
        assert running.wait(120) == 1


def test_what_the_system_says_of_a_path_is_one_line() -> None:
    for command in (("inspect", "x" * 400), ("convert", "x" * 400, "--target", "coreml")):
        done = CliRunner().invoke(main, list(command))
        assert done.exit_code == 2
        (said,) = [line for line in done.output.splitlines() if not line.startswith("  try: ")]
        assert said.startswith(f"error: {'x' * 400}: ")
        assert said.endswith(os.strerror(errno.ENAMETOOLONG))


def test_a_user_without_a_home_folder_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unknown(user: int) -> None:
        raise KeyError(user)

    for name in ("HOME", "EDGEVLM_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("pwd.getpwnam", unknown)
    with pytest.raises(OutputError, match="this user has none") as raised:
        store.folder()
    assert "EDGEVLM_CACHE_DIR" in (raised.value.hint or "")
    assert user_path("~/model") == Path("~/model")
    assert user_path("~nobody/model") == Path("~nobody/model")
    monkeypatch.setenv("EDGEVLM_CACHE_DIR", str(tmp_path))
    assert store.folder() == tmp_path


@pytest.mark.parametrize("closed", ["0", "1", "2"])
def test_a_stream_that_the_shell_has_closed(closed: str) -> None:
    command = f"exec {sys.executable} -m edgevlm devices --json {closed}>&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"" if closed == "1" else json.loads(done.stdout)


def test_a_stop_while_python_imports_is_no_traceback() -> None:
    program = (
        "import signal, sys\n"
        "class Stop:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'edgevlm.commands.convert': signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Stop())\n"
        "from edgevlm.__main__ import program\n"
        "program()\n"
    )
    done = subprocess.run([sys.executable, "-c", program, "devices"], capture_output=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGHUP")
def test_what_nohup_ignores_stays_ignored() -> None:
    program = (
        "import signal\n"
        "from edgevlm.process import interrupts\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "with interrupts.clean_exit(): signal.raise_signal(signal.SIGHUP)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("command", ["convert --target coreml", "inspect x", "search x y", "run x y.png", "devices"])
def test_a_current_folder_that_is_gone(command: str, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    script = f"cd gone; rmdir ../gone; exec {sys.executable} -m edgevlm {command}"
    package = {"PYTHONPATH": str(Path(edgevlm.__file__).parent.parent)}
    run = partial(subprocess.run, cwd=tmp_path, env=os.environ | package, capture_output=True, text=True, timeout=120)
    done = run(["bash", "-c", script])
    assert "Traceback" not in done.stderr
    assert (done.returncode, done.stderr.startswith("error: ")) == ((0, False) if command == "devices" else (2, True))
