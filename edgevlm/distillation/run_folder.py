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

from edgevlm.distillation import checkpoints
from edgevlm.errors import OutputError
from edgevlm.locking import locked

_RUN, _METRICS, _DONE = "run.json", "metrics.jsonl", "config.json"


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
        """The metrics so far; a last line that was cut off by a crash is left out."""
        if not self.metrics.exists():
            return []
        found = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                break
        return found

    def finish(self) -> None:
        """Removes what only a running run needs."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)


@contextmanager
def open_run(path: Path, identity: Mapping[str, Any], *, force: bool) -> Iterator[RunFolder]:
    """Takes a folder for a run: a new one, or one that the same run was working in when it ended.

    Args:
        path: The folder.
        identity: Plain values that the run's result depends on.
        force: Throw away what another or a finished run left there.

    Raises:
        OutputError: another process is using it; it belongs to another run, or holds a finished student, and `force`
            is not set; or it is no run's folder.
    """
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path}: expected a folder, found a file", hint="choose another --out")
    path.mkdir(parents=True, exist_ok=True)
    with locked(path / ".run.lock", f"{path}: another run is using this folder"):
        _claim(path, identity, force=force)
        yield RunFolder(path)


def _claim(path: Path, identity: Mapping[str, Any], *, force: bool) -> None:
    others = [name for name in os.listdir(path) if name != ".run.lock"]
    record = path / _RUN
    text = json.dumps(identity, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
    if others and not record.is_file():
        raise OutputError(f"{path}: holds {others[0]}, so it is no run's folder", hint="choose an empty or new --out")
    if record.is_file() and not force:
        if (path / _DONE).exists():
            raise OutputError(f"{path}: holds a finished student", hint="--force trains anew, --out writes elsewhere")
        before = json.loads(record.read_text(encoding="utf-8"))
        differing = sorted(
            key for key in before.keys() | identity.keys() if before.get(key) != json.loads(text).get(key)
        )
        if differing:
            raise OutputError(
                f"{path}: holds an unfinished run with another {', '.join(differing)}",
                hint="--out writes elsewhere, --force throws that run away",
            )
        return
    for name in others:
        entry = path / name
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    write_atomically(record, text)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file whole, or not at all."""
    checkpoints.replace(path, content.encode() if isinstance(content, str) else content)
