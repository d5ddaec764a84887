"""The pictures below a folder, and what is passed over there; whatever takes a folder of pictures asks here."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgevlm.errors import DataError
from edgevlm.inputs.pictures import SUFFIXES
from edgevlm.process.notes import note
from edgevlm.process.terminal import visible

NO_PICTURE = "without a picture's ending"
HIDDEN = "hidden"
SYSTEM = "left by the system"
LINKED = "linked from elsewhere"
SPECIAL = "of a special kind, such as pipes"
_SYSTEM_NAMES = {
    *("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"),
    *("thumbs.db", "ehthumbs.db", "desktop.ini"),
}
_NAMED = 3


@dataclass(frozen=True)
class PassedOver:
    """Things of one kind that lie among pictures and were not taken for any.

    Attributes:
        what: Their kind, in words.
        count: How many there are; of a folder the content is not counted.
        such_as: Some of them, as paths below the folder; a folder's ends in a slash.
    """

    what: str
    count: int
    such_as: tuple[str, ...]

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.such_as) else ""
        return f"{self.count:,} {self.what} ({', '.join(self.such_as)}{more})"


class Tally:
    """Counts what is passed over, and remembers the first few names of each kind."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._names: dict[str, list[str]] = {}

    def add(self, what: str, name: str) -> None:
        """One more of a kind."""
        self._counts[what] += 1
        if self._counts[what] <= _NAMED:
            self._names.setdefault(what, []).append(printable(name))

    def passed_over(self) -> tuple[PassedOver, ...]:
        """All kinds, in the order in which the first of each was met."""
        return tuple(PassedOver(what, count, tuple(self._names[what])) for what, count in self._counts.items())


@dataclass(frozen=True)
class Found:
    """What lies below a folder.

    Attributes:
        pictures: Paths below it with forward slashes, sorted. A link to nowhere that is named as a picture is one: it
            is met when it is read.
        passed_over: All else.
    """

    pictures: tuple[str, ...]
    passed_over: tuple[PassedOver, ...]


def find_pictures(root: Path) -> Found:
    """Looks for pictures in a folder, at any depth; none is opened.

    Files count by their names, see `edgevlm.inputs.pictures.SUFFIXES`. Links to files are followed, and so are links
    to folders directly in `root`; those further down may lead back.

    Raises:
        DataError: a folder cannot be read.
    """
    tally = Tally()
    pictures = []
    waiting = [""]
    while waiting:
        above = waiting.pop()
        for name, is_folder in _entries(root, above, tally):
            path = above + name
            if is_folder:
                waiting.append(f"{path}/")
            elif is_picture(name):
                pictures.append(path)
            else:
                tally.add(NO_PICTURE, path)
    return Found(tuple(sorted(pictures)), tally.passed_over())


def subfolders(root: Path) -> list[str]:
    """The names of the folders directly in `root` that `find_pictures` looks into, sorted.

    Raises:
        DataError: it cannot be read.
    """
    return [name for name, is_folder in _entries(root, "", Tally()) if is_folder]


def say_passed_over(name: str, passed_over: Sequence[PassedOver]) -> None:
    """A note of what lies among the pictures of a folder, or of anything else that a user calls `name`."""
    if passed_over:
        note(f"{name}: passed over {'; '.join(map(str, passed_over))}")


def is_picture(name: str) -> bool:
    """Whether a file's name ends as a picture's does."""
    return name.lower().endswith(SUFFIXES)


def passed_over_by_name(name: str) -> str | None:
    """The kind of a file or folder that its name alone says to pass over; None for any other.

    macOS keeps a `._x.jpg` beside x.jpg on disks that are not its own, and in archives: no picture, for all its name.
    """
    if name.startswith("._") or name.lower() in _SYSTEM_NAMES:
        return SYSTEM
    return HIDDEN if name.startswith(".") else None


def printable(name: str) -> str:
    """A file's name as it can be shown anywhere: control characters, and bytes that are no UTF-8, become escapes."""
    return visible(name, one_line=True)


def listed(names: Iterable[str]) -> str:
    """The first five names, and how many more there are."""
    names = [printable(name) for name in names]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _entries(root: Path, above: str, tally: Tally) -> Iterator[tuple[str, bool]]:
    """Name of each file and folder in the folder `above`, sorted, and whether it is a folder; others are tallied."""
    folder = root / above
    try:
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror or error}") from error
    for entry in entries:
        mode = _mode(entry)
        slash = "/" if stat.S_ISDIR(mode) else ""
        if (what := passed_over_by_name(entry.name)) is not None:
            tally.add(what, f"{above}{entry.name}{slash}")
        elif slash and above and entry.is_symlink():
            tally.add(LINKED, f"{above}{entry.name}/")
        elif slash or stat.S_ISREG(mode):
            yield entry.name, bool(slash)
        else:
            tally.add(SPECIAL, f"{above}{entry.name}")


def _mode(entry: os.DirEntry[str]) -> int:
    """What an entry is, or what it links to; a link to nowhere counts as a file."""
    if entry.is_file(follow_symlinks=False):
        return stat.S_IFREG
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    try:
        return os.stat(entry.path).st_mode
    except OSError:
        return stat.S_IFREG
