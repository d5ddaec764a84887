"""Brace patterns, as shells and WebDataset write the names of many shards: `shards-{000..009}.tar`."""

from __future__ import annotations

import math
import re

from edgevlm.errors import DataError

LARGEST = 100_000
"""Most names that a pattern may stand for."""
_RANGE = re.compile(r"\{([0-9]{1,9})\.\.([0-9]{1,9})\}")


def has_braces(pattern: str) -> bool:
    """Whether a range is in it."""
    return _RANGE.search(pattern) is not None


def expand(pattern: str) -> list[str]:
    """The names that a pattern stands for, in order; as in bash, zeros in front of either end set the width of all.

    Several ranges give every combination, the last one changing fastest. A text without a range stands for itself.

    Raises:
        DataError: a range counts down, or the pattern stands for more than `LARGEST` names.
    """
    count = math.prod(int(last) - int(first) + 1 for first, last in _RANGE.findall(pattern) if int(first) <= int(last))
    if count > LARGEST:
        raise DataError(f"{pattern}: expected a pattern of at most {LARGEST:,} names, got one of {count:,}")
    found = _RANGE.search(pattern)
    if found is None:
        return [pattern]
    first, last = found.groups()
    if int(first) > int(last):
        raise DataError(f"{pattern}: expected a range that counts up, got {found.group()}")
    padded = any(end.startswith("0") and len(end) > 1 for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    numbers = [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]
    tails = expand(pattern[found.end() :])
    return [pattern[: found.start()] + number + tail for number in numbers for tail in tails]
