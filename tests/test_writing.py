"""Files and folders that are there whole or not at all, and the cache's folders that are made once."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgevlm.conversion import cache
from edgevlm.errors import OutputError
from edgevlm.process import store
from edgevlm.process.writing import folder_beside, replacing, staged_folder, write_atomically

ROOT = Path(__file__).parent.parent
STOPPED = """
import signal, sys
from pathlib import Path
from edgevlm.process import interrupts
from edgevlm.process.writing import replacing, staged_folder
path = Path(sys.argv[1])
with interrupts.clean_exit():
    with replacing(path) if path.suffix else staged_folder(path, replace=True) as new:
        file = new if path.suffix else new.folder / "a"
        file.write_text("new")
        signal.raise_signal(signal.{signal})
"""


def listing(folder: Path) -> dict[str, str]:
    """The files below it and what they hold."""
    return {str(each.relative_to(folder)): each.read_text() for each in folder.rglob("*") if each.is_file()}


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "größer\n")
    assert path.read_bytes() == "größer\n".encode()
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()
    write_atomically(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert os.listdir(tmp_path) == ["a.txt"]


def current_umask() -> int:
    """That of this process."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_until_the_block_ends_the_old_file_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as new:
        new.write_text("new")
        assert path.read_text() == "old"
    assert listing(tmp_path) == {"a.txt": "new"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_ends_the_block_early_leaves_the_old_file_alone(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as new:
        new.write_text("half")
        raise error
    assert listing(tmp_path) == {"a.txt": "old"}


@pytest.mark.parametrize("name", ["a.txt", "folder"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_leaves_what_was_there(name: str, number: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / name
    old = path if path.suffix else path / "a"
    old.parent.mkdir(exist_ok=True)
    old.write_text("old")
    code = STOPPED.replace("{signal}", number.name)
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (128 + number, "stopped: nothing was left half-written\n")
    assert listing(tmp_path) == {str(old.relative_to(tmp_path)): "old"}
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("step", range(1, 3))
def test_a_signal_between_the_renames_of_a_replacement_waits_for_both(step: int, tmp_path: Path) -> None:
    code = f"""
import pathlib, signal, sys
from edgevlm.process import interrupts
from edgevlm.process.writing import staged_folder
renames, rename = [], pathlib.Path.rename
def stopping(path, target):
    rename(path, target)
    renames.append(target)
    if len(renames) == {step}:
        signal.raise_signal(signal.SIGINT)
pathlib.Path.rename = stopping
with interrupts.clean_exit(), staged_folder(pathlib.Path(sys.argv[1]), replace=True) as stage:
    (stage.folder / "a").write_text("new")
"""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("old")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "folder")], capture_output=True, check=False)
    assert done.returncode == 128 + signal.SIGINT, done.stderr
    assert listing(tmp_path) == {"folder/a": "new"}
    assert os.listdir(tmp_path) == ["folder"]


def test_a_full_disk_is_said_plainly_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    (tmp_path / f".a.txt.{os.getpid()}").symlink_to("/dev/full")  # which answers every write with ENOSPC
    with pytest.raises(OutputError, match=rf"no disk space left while writing {path} \(\d+ MB free\)"):
        write_atomically(path, "new")
    assert listing(tmp_path) == {"a.txt": "old"}
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_that_is_not_ones_own_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file" / "a.txt", Path("/proc/nowhere/a.txt")):
        with pytest.raises(OutputError, match=f"cannot write {path}: "):
            write_atomically(path, "new")
    with pytest.raises(OutputError, match="cannot write"), staged_folder(tmp_path / "file" / "a", replace=True):
        pass


def test_a_folder_that_came_in_the_meantime_is_not_replaced_unasked(tmp_path: Path) -> None:
    made = tmp_path / "made"
    with pytest.raises(OutputError, match=os.strerror(errno.ENOTEMPTY)), staged_folder(made, replace=False) as stage:
        (stage.folder / "a").write_text("ours")
        made.mkdir()
        (made / "a").write_text("theirs")
    assert listing(tmp_path) == {"made/a": "theirs"}


def test_a_folder_beside_is_removed_unless_it_is_renamed(tmp_path: Path) -> None:
    with folder_beside(tmp_path / "above" / "made") as folder:
        assert folder.parent == tmp_path / "above"
        assert folder.stat().st_mode & 0o777 == 0o755
    assert os.listdir(tmp_path / "above") == []


def test_another_process_may_be_quicker_to_make_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEVLM_CACHE_DIR", str(tmp_path))

    def make(folder: Path) -> None:
        (folder / "a").write_text("ours")
        (folder.parent / "b").write_text("not kept")
        (tmp_path / "part" / "one").mkdir(parents=True)
        (tmp_path / "part" / "one" / "a").write_text("theirs")

    assert store.fill("part/one", make) == tmp_path / "part" / "one"
    assert listing(tmp_path) == {"part/one/a": "theirs"}


@pytest.mark.parametrize("changed", ["edgevlm/models/model.py", "converters/half.py", "runtimes/mlprogram/plan.py"])
def test_a_change_anywhere_in_the_sources_makes_another_key(changed: str, tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("*.safetensors", "*.jsonl", "__pycache__")
    for name in ("edgevlm", "converters", "runtimes", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    (tmp_path / "pyproject.toml").touch()  # a checkout has one
    before = key_in(tmp_path)
    assert before == cache.key({"model": "m"})
    with (tmp_path / "benchmarks" / "tables.py").open("a") as file:
        file.write("# changed\n")
    assert key_in(tmp_path) == before
    with (tmp_path / changed).open("a") as file:
        file.write("# changed\n")
    assert key_in(tmp_path) != before


def key_in(checkout: Path) -> str:
    """The cache's key of one conversion, as the sources of a checkout have it."""
    code = "from edgevlm.conversion import cache; print(cache.key({'model': 'm'}))"
    environment = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=checkout
    )
    return done.stdout.strip()
