"""Files and folders that are there whole or not at all, whoever reads or is killed meanwhile, and the cache's."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from edgevlm.conversion import cache
from edgevlm.errors import OutputError
from edgevlm.process import interrupts, scratch, store, writing
from edgevlm.process.exchange import Unsupported, exchange
from edgevlm.process.writing import discard, made, replacing, staged_folder, write_atomically

ROOT = Path(__file__).parent.parent
IMPORTS = """
import os, signal, sys
from pathlib import Path
from edgevlm.process import interrupts, scratch, store, writing
from edgevlm.process.exchange import Unsupported
from edgevlm.process.writing import replacing, staged_folder, write_atomically
path = Path(sys.argv[1])
def refuse(one, other):
    raise Unsupported(95, "not here")
"""
STOPPED = """
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup has every child ignore
with interrupts.clean_exit():
    with replacing(path) if path.suffix else staged_folder(path, replace=True) as new:
        file = new if path.suffix else new.folder / "a"
        file.write_text("new")
        signal.raise_signal(signal.{signal})
"""
KILLED = {
    "temporary folder": "with interrupts.temporary_folder(path.parent): stop()",
    "file": "with replacing(path / 'a') as new: new.write_text('half'); stop()",
    "folder": "with staged_folder(path, replace=True) as stage: (stage.folder / 'a').write_text('half'); stop()",
    "flush": "writing._flush = stop; write_atomically(path / 'a', 'new')",
    "exchange": "writing.exchange = stop\nwith staged_folder(path, replace=True): pass",
    "two renames": "writing.exchange = refuse; rename = Path.rename\n"
    "Path.rename = lambda one, other: (rename(one, other), stop())\n"
    "with staged_folder(path, replace=True): pass",
    "lock": "os.open = stop\nwith replacing(path / 'a'): pass",
    "removal": "(path.parent / 'gone').mkdir(); shutil = scratch.shutil; remove = shutil.rmtree\n"
    "shutil.rmtree = lambda *_, **__: stop()\nwriting.discard(path.parent / 'gone')",
    "cache": "store.folder = lambda: path.parent\nstore.fill('entry', stop)",
}
"""Where a process is killed while it works beside `path`."""


def run(code: str, path: Path) -> subprocess.CompletedProcess[str]:
    """A process of its own."""
    command = [sys.executable, "-c", IMPORTS + code, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def listing(folder: Path) -> dict[str, str]:
    """The files below it and what they hold."""
    return {str(each.relative_to(folder)): each.read_text() for each in folder.rglob("*") if each.is_file()}


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "größer\n")
    assert path.read_bytes() == "größer\n".encode()
    write_atomically(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert os.listdir(tmp_path) == ["a.txt"]


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


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_all_is_readable_for_whoever_may_read_new_files(mask: int, tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "inner").mkdir(mode=0o700)
        (folder / "inner" / "secret").touch(mode=0o600)  # as some libraries do
        (folder / "program").touch(mode=0o700)

    with umask(mask):
        with staged_folder(tmp_path / "made", replace=False) as stage:
            make(stage.folder)
            stage.folder.chmod(0o700)  # as a copy of a folder has it
        with replacing(tmp_path / "file") as new:
            new.touch(mode=0o600)
    modes = {str(each.relative_to(tmp_path)): each.stat().st_mode & 0o777 for each in tmp_path.rglob("*")}
    readable = 0o444 & ~mask
    assert modes == {
        "file": 0o600 | readable,
        "made": 0o700 | readable | readable >> 2,
        "made/inner": 0o700 | readable | readable >> 2,
        "made/inner/secret": 0o600 | readable,
        "made/program": 0o700 | readable,
    }


def test_files_are_on_the_disk_before_the_folders_that_name_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        flushed.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        assert not (tmp_path / "made").exists()
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    with staged_folder(tmp_path / "made", replace=True) as stage:
        (stage.folder / "inner").mkdir()
        (stage.folder / "inner" / "file").write_text("x")
    assert flushed == ["file", "inner", "made"]


@pytest.mark.parametrize("name", ["a.txt", "folder"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_command_leaves_what_was_there(name: str, number: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / name
    old = path if path.suffix else path / "a"
    old.parent.mkdir(exist_ok=True)
    old.write_text("old")
    done = run(STOPPED.replace("{signal}", number.name), path)
    assert (done.returncode, done.stderr) == (128 + number, "stopped: nothing was left half-written\n")
    assert listing(tmp_path) == {str(old.relative_to(tmp_path)): "old"}
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("where", KILLED)
def test_what_a_killed_process_leaves_the_next_one_removes(where: str, tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "a").write_text("old")
    done = run(f"def stop(*_, **__): os.kill(os.getpid(), signal.SIGKILL)\n{KILLED[where]}\n", path)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = [each for parent in (tmp_path, path) if parent.is_dir() for each in parent.glob(".edgevlm-*")]
    assert len(left) == 1  # or it was killed elsewhere
    scratch.sweep(left[0].parent)
    assert listing(tmp_path) == {"folder/a": "old"}
    assert os.listdir(tmp_path) == ["folder"]


def test_what_is_not_ours_or_has_a_living_owner_stays(tmp_path: Path) -> None:
    names = (".edgevlm-settings", ".edgevlm-0123456789AB", "edgevlm-0123456789ab", ".edgevlm-0123456789abc")
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / ".edgevlm-0123456789ab").write_text("a file")
    (tmp_path / ".edgevlm-ba9876543210").symlink_to(tmp_path / names[0])
    code = "with interrupts.temporary_folder(path): print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", IMPORTS + code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"\n"
        with interrupts.temporary_folder(tmp_path) as own:
            for _ in range(2):
                scratch.sweep(tmp_path)
            assert own.is_dir()
            assert len(list(tmp_path.iterdir())) == 8
        other.communicate()
    assert {each.name for each in tmp_path.iterdir()} == {*names, ".edgevlm-0123456789ab", ".edgevlm-ba9876543210"}


def test_many_may_work_and_sweep_in_one_folder_at_once(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(60):
                write_atomically(tmp_path / f"{number}", f"{turn}")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert listing(tmp_path) == {f"{number}": "59" for number in range(6)}
    assert len(os.listdir(tmp_path)) == 6


def test_a_reader_always_finds_a_whole_folder_while_it_is_replaced(tmp_path: Path) -> None:
    path, seen, ended = tmp_path / "folder", set(), threading.Event()

    def put(content: str) -> None:
        with staged_folder(path, replace=True) as stage:
            for name in "abc":
                (stage.folder / name).write_text(content)

    def read() -> None:
        while not ended.is_set():
            seen.update((path / name).read_text() for name in "abc")

    put("0")
    reader = threading.Thread(target=read)
    failed: list[object] = []
    before, threading.excepthook = threading.excepthook, failed.append
    try:
        reader.start()
        for turn in range(1, 150):
            put(f"{turn}")
        ended.set()
        reader.join()
    finally:
        threading.excepthook = before
    assert failed == []
    assert len(seen) > 5
    assert os.listdir(tmp_path) == ["folder"]


def test_two_change_places_in_one_step(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a").write_text("1")
    (tmp_path / "other").write_text("2")
    exchange(tmp_path / "one", tmp_path / "other")
    assert listing(tmp_path) == {"one": "2", "other/a": "1"}
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "one", tmp_path / "none")


def test_a_c_library_that_cannot_exchange_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    with pytest.raises(Unsupported):
        exchange(tmp_path, tmp_path)


@pytest.mark.parametrize("step", range(1, 3))
def test_a_signal_between_two_renames_waits_for_both(step: int, tmp_path: Path) -> None:
    code = f"""
writing.exchange = refuse
renames, rename = [], Path.rename
def stopping(path, target):
    rename(path, target)
    renames.append(target)
    if len(renames) == {step}:
        signal.raise_signal(signal.SIGINT)
Path.rename = stopping
with interrupts.clean_exit(), staged_folder(path, replace=True) as stage:
    (stage.folder / "a").write_text("new")
"""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("old")
    done = run(code, tmp_path / "folder")
    assert done.returncode == 128 + signal.SIGINT, done.stderr
    assert listing(tmp_path) == {"folder/a": "new"}
    assert os.listdir(tmp_path) == ["folder"]


def test_a_second_rename_that_fails_puts_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(one: Path, other: Path) -> None:
        shutil.rmtree(one)  # so that it cannot be renamed
        raise Unsupported(errno.EINVAL, "not here")

    monkeypatch.setattr(writing, "exchange", refuse)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("old")
    with pytest.raises(OutputError, match="cannot write"), staged_folder(tmp_path / "folder", replace=True):
        pass
    assert listing(tmp_path) == {"folder/a": "old"}
    assert os.listdir(tmp_path) == ["folder"]


def test_a_full_disk_is_said_plainly_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    message = rf"no disk space left while writing {path} \(\d+ MB free\)"
    with pytest.raises(OutputError, match=message), replacing(path) as new:
        new.symlink_to("/dev/full")  # which answers every write with ENOSPC
        new.write_text("new")
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


def test_folders_above_are_made_and_removed_again_unless_something_is_there_then(tmp_path: Path) -> None:
    with made(tmp_path / "a" / "b"), made(tmp_path / "a" / "c"):
        (tmp_path / "a" / "b" / "file").touch()
    assert [str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*")] == ["a", "a/b", "a/b/file"]
    with pytest.raises(ValueError), staged_folder(tmp_path / "x" / "y" / "z", replace=False):  # noqa: PT011
        raise ValueError
    with made(tmp_path / "a"):
        shutil.rmtree(tmp_path / "a" / "b")
    assert os.listdir(tmp_path) == ["a"]  # it was there before


def test_git_passes_over_a_folder_that_was_made_for_what_can_be_made_again(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name in ("there", "new", "above/new", "empty", "failed"):
        with suppress(ValueError), made(tmp_path / name, ignored=True):
            if name != "empty":
                (tmp_path / name / "file").touch()
            if name == "failed":
                (tmp_path / name / "file").unlink()
                raise ValueError
    files = {str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*") if each.is_file()}
    assert files == {"there/file", "new/file", "new/.gitignore", "above/new/file", "above/new/.gitignore"}
    with made(tmp_path / "new", ignored=True):
        (tmp_path / "new" / "file").unlink()
    assert os.listdir(tmp_path / "new") == [".gitignore"]  # made by an earlier command


def test_what_is_discarded_is_gone_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old" / "inner").mkdir(parents=True)
    gone = []
    rmtree = shutil.rmtree

    def watched(path: Path, **options: bool) -> None:
        gone.append(not (tmp_path / "old").exists())
        rmtree(path, **options)

    monkeypatch.setattr(shutil, "rmtree", watched)
    discard(tmp_path / "old")
    discard(tmp_path / "never there")
    assert gone == [True]
    assert os.listdir(tmp_path) == []


def test_another_process_may_be_quicker_to_make_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEVLM_CACHE_DIR", str(tmp_path))

    def make(folder: Path) -> None:
        (folder / "a").write_text("ours")
        (folder.parent / "b").write_text("not kept")
        (tmp_path / "part" / "one").mkdir(parents=True)
        (tmp_path / "part" / "one" / "a").write_text("theirs")

    assert store.fill("part/one", make) == tmp_path / "part" / "one"
    assert listing(tmp_path) == {"part/one/a": "theirs"}


def test_a_cache_that_cannot_be_written_says_how_to_name_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGEVLM_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="cannot write") as caught:
        store.fill("one", lambda folder: None)
    assert "EDGEVLM_CACHE_DIR" in str(caught.value.hint)


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
