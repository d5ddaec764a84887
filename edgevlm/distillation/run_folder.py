"""A run's folder: what it is a run of, its checkpoints, its metrics. One run at a time; killed, it goes on.

OUT/run.json             what the run is made from; another run cannot take its place by accident
OUT/metrics.jsonl        a line every few steps: losses, learning rate, pictures a second
OUT/losses.png           the same as a picture
OUT/skipped.txt          pictures that could not be read, and why
OUT/checkpoints/         the last two, while it runs
OUT/config.json, ...     the student, when it is done
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgevlm import schema
from edgevlm.errors import OutputError
from edgevlm.process import scratch
from edgevlm.process.locking import locked
from edgevlm.process.writing import made, write_atomically

_RUN, _METRICS, _DONE, _LOCK = "run.json", "metrics.jsonl", "config.json", ".run.lock"
_SAID = 40
_ANEW = "--force throws the run away and trains anew"


@dataclass(frozen=True)
class RunFolder:
    """An opened folder."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Where they lie."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """The metrics' file."""
        return self.path / _METRICS

    def log(self, entry: Mapping[str, Any]) -> None:
        """Adds a line to the metrics."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def rewind(self, step: int) -> None:
        """Takes back the metrics of steps after `step`, which will be made again."""
        kept = [line for line in self.lines() if line["step"] <= step]
        write_atomically(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))

    def lines(self) -> list[dict[str, Any]]:
        """The metrics so far, each with its `step`; a last line that was cut off by a crash is left out.

        Raises:
            OutputError: the file cannot be read, or holds something else.
        """
        if not self.metrics.exists():
            return []
        whole, _, _ = schema.read_text(self.metrics, "text", error=OutputError, hint=_ANEW).rpartition("\n")
        found = []
        for number, line in enumerate(filter(None, whole.split("\n")), 1):
            where = f"{self.metrics}: line {number}"
            entry = schema.parse_json(line, where=where, error=OutputError, hint=_ANEW)
            if not isinstance(entry, dict) or not isinstance(entry.get("step"), int):
                raise OutputError(f"{where}: expected an object with a step", hint=_ANEW)
            found.append(entry)
        return found

    def claim(self, identity: Mapping[str, Any], *, force: bool) -> None:
        """Makes the folder this run's, or finds that it is already.

        Args:
            identity: Plain values that the run's result depends on.
            force: Throw away what another or a finished run left here.

        Raises:
            OutputError: it holds an unfinished run of another identity, or a damaged one, and `force` is not set.
        """
        record = self.path / _RUN
        now = json.loads(json.dumps(identity))
        if record.is_file() and not force:
            before = schema.read_json(record, error=OutputError, hint=_ANEW)
            if differing := _differences(before, now):
                raise OutputError(
                    f"{self.path}: holds an unfinished run with another {', '.join(differing)}",
                    hint="go on with that one's options, write elsewhere with --out, or throw it away with --force",
                )
            return
        (self.path / _DONE).unlink(missing_ok=True)  # first: a folder that has lost something is no student
        for name in os.listdir(self.path):
            entry = self.path / name
            if name not in (_LOCK, _RUN):  # while the record is there, it is a run's folder, even if this is killed
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        write_atomically(record, json.dumps(now, indent=2, ensure_ascii=False, sort_keys=True) + "\n")

    def finish(self) -> None:
        """Removes what only a running run needs."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)


@contextmanager
def open_run(path: Path, *, force: bool) -> Iterator[RunFolder]:
    """Takes a folder for a run, which may `claim` it; a new one that is left unclaimed is removed again.

    Args:
        path: A new folder, or one that a run was working in.
        force: Take it even if it holds a finished student.

    Raises:
        OutputError: another process is using it; it is no run's folder; or it holds a finished student, and `force` is
            not set.
    """
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path}: expected a folder, found a file", hint="choose another --out")
    with made(path), locked(path / _LOCK, f"{path}: another run is using this folder"):
        scratch.sweep(path)
        _refuse_others(path, force=force)
        yield RunFolder(path)


def _refuse_others(path: Path, *, force: bool) -> None:
    others = [name for name in os.listdir(path) if name != _LOCK]
    if others and not (path / _RUN).is_file():
        raise OutputError(f"{path}: holds {others[0]}, so it is no run's folder", hint="choose an empty or new --out")
    if (path / _DONE).exists() and not force:
        raise OutputError(f"{path}: holds a finished student", hint="--force trains anew, --out writes elsewhere")


def _differences(before: Any, now: Any, where: str = "") -> list[str]:
    """Where two trees of plain values differ, with both values where they are short."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(before.keys() | now.keys())
        inside = f"{where}." if where else ""
        return [each for key in keys for each in _differences(before.get(key), now.get(key), f"{inside}{key}")]
    if before == now:
        return []
    values = f" ({json.dumps(before)} there, {json.dumps(now)} here)"
    return [where + (values if len(values) <= _SAID else "")]
