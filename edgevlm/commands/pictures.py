"""Pictures as commands take them: files and folders, of which some cannot be read.

One bad picture among many costs no answer: the others are answered, and the command ends with exit code 2 and the bad
ones named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from edgevlm.errors import ImageError, InputError

if TYPE_CHECKING:
    from edgevlm.inputs.folders import PassedOver
    from edgevlm.process.progress import Progress

T = TypeVar("T")
_NAMED = 20


@dataclass(frozen=True)
class Given:
    """The pictures that a command line names.

    Attributes:
        paths: Files as they were given; of each folder all pictures below it.
        passed_over: What else lies in the folders, by folder.
    """

    paths: tuple[str, ...]
    passed_over: Mapping[str, Sequence[PassedOver]]


@dataclass(frozen=True)
class Answers(Generic[T]):
    """What was answered, a picture at a time.

    Attributes:
        found: Each picture that could be read, and the answer.
        unreadable: Of each of the others, why not.
    """

    found: tuple[tuple[str, T], ...]
    unreadable: Mapping[str, ImageError]


def read_given(arguments: Sequence[str]) -> Given:
    """The pictures of a command line; what is passed over in folders is named in a note.

    Raises:
        InputError: a folder has no pictures.
        DataError: a folder cannot be read.
    """
    from edgevlm.inputs.folders import find_pictures, say_passed_over

    paths: list[str] = []
    passed_over = {}
    for argument in arguments:
        if not Path(argument).is_dir():
            paths.append(argument)
            continue
        found = find_pictures(Path(argument))
        say_passed_over(argument, found.passed_over)
        if not found.pictures:
            raise InputError(f"{argument}: expected pictures, found none in the folder or below it")
        paths.extend(str(Path(argument, name)) for name in found.pictures)
        passed_over[argument] = found.passed_over
    return Given(tuple(paths), passed_over)


def ask_each(paths: Sequence[str], ask: Callable[[str], T], progress: Progress) -> Answers[T]:
    """Asks about one picture after another, past those that cannot be read."""
    found: list[tuple[str, T]] = []
    unreadable: dict[str, ImageError] = {}
    for index, path in enumerate(paths):
        progress(f"asking about picture {index + 1:,} of {len(paths):,}", index / len(paths))
        try:
            found.append((path, ask(path)))
        except ImageError as error:
            unreadable[path] = error
    return Answers(tuple(found), unreadable)


def told(given: Given, unreadable: Mapping[str, ImageError]) -> dict[str, Any]:
    """What JSON says of the pictures that were not answered."""
    return {
        "unreadable": [{"image": path, "error": error.message} for path, error in unreadable.items()],
        "passed_over": [
            {"folder": folder} | asdict(each) for folder, kinds in given.passed_over.items() for each in kinds
        ],
    }


def refuse_unreadable(unreadable: Mapping[str, ImageError], count: int) -> None:
    """Ends a command that has answered all it could.

    Args:
        unreadable: The pictures that could not be read.
        count: How many were asked about in all.

    Raises:
        ImageError: there are any; the message names them.
    """
    from edgevlm.inputs.folders import printable

    if not unreadable:
        return
    reasons = [printable(e.message if path in e.message else f"{path}: {e.message}") for path, e in unreadable.items()]
    if count == 1:
        raise ImageError(reasons[0], hint=next(iter(unreadable.values())).hint)
    more = [f"and {len(reasons) - _NAMED:,} more; --json lists all"] if len(reasons) > _NAMED else []
    lines = "\n  ".join([*reasons[:_NAMED], *more])
    raise ImageError(f"{len(reasons):,} of {count:,} pictures cannot be read; the others are answered:\n  {lines}")
