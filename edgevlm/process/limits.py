"""How large the numbers may be that a caller gives, from the command line as from Python.

An integer of Python's has any number of digits; those of torch, of runtimes in C++ and of JSON's readers do not, and
each makes something else of one that is too large.
"""

from __future__ import annotations

from edgevlm.errors import InputError, shown

MOST = 2**31 - 1
"""Of what is counted, where nothing less is said."""
LARGEST_SEED = 2**63 - 1
MOST_THREADS = 1024
"""More than a machine has cores that runs a model of this size."""
MOST_WORKERS = 1024
"""Processes that read ahead."""
MOST_EPOCHS = 1_000_000
MOST_PICTURES = 1_000_000
"""Of one step of training."""
LONGEST_SIDE = 8192
"""Of a student's pictures, in pixels: one of more would pass Pillow's limit."""


def check_whole(name: str, value: object, least: int, most: int, hint: str | None = None) -> None:
    """Refuses what is no whole number between two ends.

    >>> check_whole("seed", -1, 0, 9)
    Traceback (most recent call last):
        ...
    edgevlm.errors.InputError: seed: expected a whole number from 0 to 9, got -1

    Raises:
        InputError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(f"{name}: expected a whole number from {least:,} to {most:,}, got {shown(value)}", hint=hint)
