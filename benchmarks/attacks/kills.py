"""Processes that are killed at each step of writing something: what lies there then is the old or the new, whole."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

import edgevlm
from edgevlm.bench import results
from edgevlm.benchmarks.attacks import readers
from edgevlm.benchmarks.attacks.outcomes import Outcome, tell
from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.export import export_for_app
from edgevlm.distillation.run_folder import open_run
from edgevlm.distillation.teacher_cache import Store
from edgevlm.enrichment.descriptions import Author, Descriptions, Entry
from edgevlm.errors import EdgeVLMError
from edgevlm.inference import index
from edgevlm.testing import FakeModel

_STEPS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.truncate", "shutil.copyfile"}
"""What Python tells its audit hooks of, and changes files: `open` where it is to write."""
_FIRST = "edgevlm-student-coreml-fp32.edgevlm"
_WRITES = os.O_WRONLY | os.O_RDWR


@dataclass(frozen=True)
class Writing:
    """Something that is written.

    Attributes:
        prepare: Makes what is to lie in the folder before: the old.
        write: Writes the new into it.
        read: What is there, in plain values; raises where that is neither the old nor the new.
        is_long: Whether it takes so many seconds that only some of its steps are tried.
    """

    prepare: Callable[[Path], object]
    write: Callable[[Path], object]
    read: Callable[[Path], object]
    is_long: bool = False


def attack(name: str, writing: Writing, number: int, scratch: Path) -> Outcome:
    """Kills the writing at its step of that number, looks, and writes again. One without so many steps is whole."""
    folder = scratch / "place"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    writing.prepare(folder)
    try:
        before = writing.read(folder)
        _in_fork(partial(_killed, writing, folder, number))
        between = writing.read(folder)
        _in_fork(partial(writing.write, folder))
        after = writing.read(folder)
    except EdgeVLMError as error:
        return Outcome("kills", name, number, "lost", f"{type(error).__name__}: {error.message[:200]}")
    except Exception as error:
        return Outcome("kills", name, number, "traceback", tell(error))
    litter = [each.name for each in folder.rglob(".edgevlm-*")]
    if between not in (before, after) or before == after or litter:
        return Outcome("kills", name, number, "lost", f"{before} became {between}, then {after}; left: {litter}"[:400])
    return Outcome("kills", name, number, "whole")


def steps(writing: Writing, scratch: Path) -> int:
    """How many steps a writing has."""
    folder = scratch / "counted"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    writing.prepare(folder)
    reading, telling = os.pipe()

    def count() -> None:
        seen = _watch(None)
        writing.write(folder)
        os.write(telling, str(seen[0]).encode())

    _in_fork(count)
    os.close(telling)
    with os.fdopen(reading) as told:
        return int(told.read() or 0)


def _killed(writing: Writing, folder: Path, number: int) -> None:
    _watch(number)
    writing.write(folder)


def _watch(last: int | None) -> list[int]:
    """Counts steps from now on, and kills this process before the one of that number."""
    seen = [0]

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if event not in _STEPS:
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & _WRITES):
            return
        if seen[0] == last:
            os.kill(os.getpid(), signal.SIGKILL)
        seen[0] += 1

    sys.addaudithook(note)
    return seen


def _in_fork(work: Callable[[], object]) -> None:
    """Does it in a process of its own; that it is killed is no failure, any other end is.

    Raises:
        RuntimeError: it failed.
    """
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if ended not in (0, -signal.SIGKILL):
        raise RuntimeError(f"expected to be killed or to end, got exit code {ended}")


# What is written


def writings(bundle: Bundle) -> Mapping[str, Writing]:
    """All of it by name.

    Args:
        bundle: The built-in student's by the recipe int8, which a conversion takes from the cache.
    """
    read = partial(_read_bundle, bundle.path.name)
    old = partial(_write_old, bundle.path.name)
    first = Writing(partial(_write_old, _FIRST), _convert_first, partial(_read_bundle, _FIRST), is_long=True)
    return {
        "first conversion": first,
        "conversion": Writing(old, partial(_convert, bundle.manifest.target), read),
        "export for an app": Writing(old, partial(export_for_app, bundle, force=True), read),
        "index": Writing(partial(_index, count=1), partial(_index, count=3), _read_index),
        "results of a benchmark": Writing(partial(_results, count=1), partial(_results, count=2), _read_results),
        "descriptions": Writing(partial(_describe, text="old"), partial(_describe, text="new"), _read_descriptions),
        "a run": Writing(partial(_run, force=False, name="old"), partial(_run, force=True, name="new"), _read_run),
        "a teacher's answers": Writing(lambda folder: None, _fill_store, _read_store),
    }


def _write_old(name: str, folder: Path) -> None:
    """Another bundle under the name of the new one."""
    readers.write_bundle(folder / name)


def _convert(target: str, folder: Path) -> None:
    edgevlm.convert(target=target, recipe="int8", out=folder, force=True)


def _convert_first(folder: Path) -> None:
    """With a cache that is empty at first."""
    os.environ["EDGEVLM_CACHE_DIR"] = str(folder / "cache")
    edgevlm.convert(target="coreml", recipe="fp32", image_only=True, out=folder, force=True)


def _read_bundle(name: str, folder: Path) -> object:
    return Bundle.open(folder / name).digest


def _index(folder: Path, count: int) -> None:
    names = [f"{number}.png" for number in range(count)]
    pictures = folder / "pictures"
    if not pictures.exists():
        pictures.mkdir()
        for number in range(3):
            Image.new("RGB", (4, 4), (number, 0, 0)).save(pictures / f"{number}.png")
    with FakeModel() as model:
        index.write(folder / "index.safetensors", pictures, names, model)


def _read_index(folder: Path) -> object:
    return index.load(folder / "index.safetensors").names


def _results(folder: Path, count: int) -> None:
    failed = results.Failed("pi", None, "not reached")
    results.write(folder / "results.jsonl", [replace(failed, device=f"pi-{number}") for number in range(count)])


def _read_results(folder: Path) -> object:
    return [each.device for each in results.read(folder / "results.jsonl")]


def _describe(folder: Path, text: str) -> None:
    entry = Entry((text,), authors=("me",))
    Descriptions({"me": Author("file", "me")}, {"a cat": entry}).write(folder / "descriptions.json")


def _read_descriptions(folder: Path) -> object:
    return Descriptions.read(folder / "descriptions.json").labels["a cat"].descriptions


def _run(folder: Path, *, force: bool, name: str) -> None:
    with open_run(folder / "run", force=force) as run:
        run.claim({"name": name}, force=force)


def _read_run(folder: Path) -> object:
    return (folder / "run" / "run.json").read_text()


def _fill_store(folder: Path) -> None:
    Store(folder / "store", 1500).fill(lambda rows: (np.ones((len(rows), 1, 4), np.float32), {}), lambda done: None)


def _read_store(folder: Path) -> object:
    """The shards that are there are whole; those that are not are made again."""
    store = Store(folder / "store", 1500)
    try:
        return float(store.open().take([0, 1499]).sum())
    except FileNotFoundError:
        return None
