"""Everything EdgeVLM raises on purpose.

EdgeVLMError
 ├── InputError                 exit 2: wrong use or bad input
 │    ├── CheckpointError           a model folder that cannot be read as what it says it is
 │    ├── RecipeError               a recipe with unknown keys or values
 │    ├── LabelError                a label file that cannot be baked
 │    ├── ImageError                a picture that cannot be decoded
 │    ├── DataError                 a dataset that cannot be read as what it says it is
 │    ├── EnrichmentError           descriptions that cannot be read, or a language model that does not answer
 │    ├── OutputError               an output that exists, cannot be written, or does not fit
 │    ├── BundleError               a bundle that is damaged or not one
 │    ├── DeviceError               a device that is unknown, not reached, or cannot run what it is asked to
 │    │    ├── ConnectionLost           one that was reached, and no longer is
 │    │    └── OutOfMemory              one that has too little memory for it
 │    ├── TensorError               a session input with the wrong name, dtype or shape
 │    └── UnsupportedError          an op, a target or a combination that EdgeVLM does not carry
 ├── CheckFailed                exit 1: the work was done and a check on it failed
 │    ├── ParityFailed
 │    └── TrainingFailed            a loss that is no longer a number
 ├── MissingDependency          exit 3: an optional package is not installed
 └── CannotTell                 exit 4: the work was done, and its result does not answer the question
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

_LONGEST_SHOWN = 100


class EdgeVLMError(Exception):
    """The root of every error that EdgeVLM raises on purpose.

    >>> try:
    ...     model = edgevlm.open("gone.edgevlm")
    ... except edgevlm.BundleError as error:  # one kind; `except edgevlm.EdgeVLMError` catches all
    ...     print(error.message, "-", error.hint)
    gone.edgevlm: expected a bundle folder, found nothing - a bundle is a folder whose name ends in .edgevlm

    Args:
        message: What was expected and what was found instead.
        hint: What to do about it; printed on a line of its own.
    """

    exit_code = 2

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InputError(EdgeVLMError):
    """The caller asked for something that cannot be done as asked."""


class CheckpointError(InputError):
    """A checkpoint is missing, incomplete, of an unknown family, or contradicts its config."""


class RecipeError(InputError):
    """A recipe has unknown keys, wrong types, or an impossible combination."""


class LabelError(InputError):
    """A label file is empty, has duplicates, or a label does not fit the model's context."""


class ImageError(InputError):
    """A picture is truncated, too large, or not a picture."""


class DataError(InputError):
    """A dataset is missing, damaged, of an unknown form, or lacks the words that a task needs."""


class EnrichmentError(InputError):
    """Descriptions of labels cannot be read, or the language model that should write them does not answer."""


class OutputError(InputError):
    """An output path exists already, cannot be written, or the disk is full."""


class BundleError(InputError):
    """A bundle is damaged, incomplete, of an unknown version, or not a bundle."""


class DeviceError(InputError):
    """A device is unknown, cannot be reached, lacks something, or cannot run what it is asked to."""


class ConnectionLost(DeviceError):
    """A device was reached and no longer is; what was asked of it can be asked again."""


class OutOfMemory(DeviceError):
    """A device killed what was asked of it for want of memory: it does not fit."""


class TensorError(InputError):
    """A session was given an input of the wrong name, dtype or shape, or a component it lacks."""


class UnsupportedError(InputError):
    """An op, a target or a combination that EdgeVLM does not carry (the message names it)."""


class CheckFailed(EdgeVLMError):
    """The work was done, and a check on its result failed."""

    exit_code = 1


class ParityFailed(CheckFailed):
    """An artefact's answers are further from the reference's than the recipe allows."""


class TrainingFailed(CheckFailed):
    """Training cannot go on: the loss is not finite."""


class MissingDependency(EdgeVLMError):
    """An optional package is not installed."""

    exit_code = 3

    def __init__(self, package: str, *, extra: str) -> None:
        super().__init__(
            f"this needs the package {package!r}, which is not installed",
            hint=f"pip install 'edgevlm[{extra}]'",
        )
        self._made_of = package, extra

    def __reduce__(self) -> tuple[Any, ...]:
        package, extra = self._made_of
        return partial(MissingDependency, extra=extra), (package,)


class CannotTell(EdgeVLMError):
    """The work was done, and what it found answers neither yes nor no: other or longer measurements would."""

    exit_code = 4


def to_json(error: EdgeVLMError) -> dict[str, Any]:
    """An error in plain values, for another process."""
    return {"kind": type(error).__name__, "message": error.message, "hint": error.hint}


def from_json(data: object, *, otherwise: type[EdgeVLMError]) -> EdgeVLMError:
    """The error that `to_json` wrote; of what is none, or one of an unknown kind, it makes an `otherwise`."""
    if not isinstance(data, Mapping):
        return otherwise(f"expected an error, got {str(data)[:200]}")
    hint = data.get("hint")
    kind = globals().get(str(data.get("kind")))
    if not (isinstance(kind, type) and issubclass(kind, EdgeVLMError)):
        kind = otherwise
    error = kind.__new__(kind)  # their arguments differ
    EdgeVLMError.__init__(
        error, str(data.get("message") or "no reason was given"), hint=None if hint is None else str(hint)
    )
    return error


def shown(value: object) -> str:
    """A wrong value as a message shows it: cut where it is long.

    >>> shown("two")
    "'two'"
    """
    try:
        text = repr(value)
    except Exception:  # such as an integer of more digits than Python writes out
        text = f"something of the type {type(value).__name__} that cannot be written out"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def debugging() -> bool:
    """Whether EDGEVLM_DEBUG=1 asks to see all: tracebacks, and what third parties say."""
    return os.environ.get("EDGEVLM_DEBUG", "") not in ("", "0")


@contextmanager
def named_failures(who: str) -> Iterator[None]:
    """Says who failed where a third party, which may raise anything, does."""
    try:
        yield
    except (EdgeVLMError, OSError):
        raise
    except Exception as error:
        if debugging():
            raise
        raise UnsupportedError(
            f"{who} failed with {type(error).__name__}: {str(error)[:500]}", hint="EDGEVLM_DEBUG=1 shows where"
        ) from error
