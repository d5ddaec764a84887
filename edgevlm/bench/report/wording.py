"""Figures and names as text: one way to write each, on every page."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from edgevlm.bench.report.answers import Band
from edgevlm.bench.results import Artefact, Evidence
from edgevlm.onboard.figures import Memory

UNKNOWN = "–"
"""What stands for a figure that is not there."""

WORDS: dict[Evidence, str] = {
    "measured": "measured",
    "emulated": "emulated",
    "estimated": "estimated",
    "none": "failed",
}
"""What a reader is told of how a figure came about."""

GLYPHS: dict[Evidence, str] = {"measured": "●", "emulated": "■", "estimated": "◇", "none": "✕"}
"""The shapes of the badges, where they cannot be drawn."""

MEANINGS: dict[Evidence, str] = {
    "measured": "Clocked on the named machine itself.",
    "emulated": "Counted, or its memory watched, on an emulator of the device; an emulator's time says nothing of the "
    "device's and is never shown.",
    "estimated": "Computed from counts and the device's published figures: trust the band from low to high, not its "
    "middle.",
    "none": "The device or the artefact gave no figure; the message says why.",
}
PEER_MEANING = "The same model made and run by another toolchain, for comparison."
ERROR_MEANING = (
    "One is called faster than another where the difference exceeds its error: of measured times the interval of all "
    "ratios between their processes' medians, of estimates the bands. Where it does not, no order is meant."
)

_LONGEST = 64  # characters of a label
_DIRECTIONS = {"\u200e", "\u200f", "\u061c", *map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}


def banded(band: Band | None) -> str:
    """What is most likely, and from where to where it is expected: `50.0 (12.5 to 100)`."""
    return UNKNOWN if band is None else f"{number(band.middle)} ({number(band.low)} to {number(band.high)})"


def number(value: float | None, digits: int = 3) -> str:
    """A figure with so many significant digits, and every digit before the point: `0.0123`, `12.3`, `1,234`."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    places = max(0, digits - 1 - size)
    if round(abs(value), places) >= 10 ** (size + 1):  # 9.999 is written 10.0
        places = max(0, places - 1)
    return f"{value:,.{places}f}"


def count(value: int | None) -> str:
    """A whole number."""
    return UNKNOWN if value is None else f"{value:,}"


def megabytes(size_bytes: int | None) -> str:
    """In 10^6 bytes."""
    return UNKNOWN if size_bytes is None else number(size_bytes / 1e6)


def cosine(accuracy: float | None) -> str:
    """The centred cosine with the float model; six decimals, for it is close to one."""
    return UNKNOWN if accuracy is None or not math.isfinite(accuracy) else f"{accuracy:.6f}"


def own_memory(memory: Memory) -> str:
    """An artefact's own peak, and in brackets what Python and its libraries had taken before."""
    own = f"{megabytes(memory.own_bytes)} MB"
    return f"{own} ({megabytes(memory.before_bytes)} Python's)" if memory.before_bytes else own


def threads(several: int) -> str:
    """`CPU, 1 thread`, `CPU, 4 threads`; `accelerator` for none of the CPU's."""
    return f"CPU, {several} thread{'' if several == 1 else 's'}" if several else "accelerator"


def share(part: float | None) -> str:
    """A part of one, in percent."""
    return UNKNOWN if part is None or not math.isfinite(part) else f"{100 * part:.0f}"


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def clean(text: str) -> str:
    """A text from outside without what a page cannot hold or what would disorder it, each such character spelt out.

    These are control characters except line ends and tabs, halves of surrogate pairs, and marks that turn the
    direction of all that follows.
    """
    return "".join(
        f"\\u{ord(each):04x}"
        if (unicodedata.category(each) in ("Cc", "Cs") and each not in "\n\t") or each in _DIRECTIONS
        else each
        for each in text.replace("\r\n", "\n")
    )


def one_line(text: str) -> str:
    """The same, its white space as single spaces."""
    return " ".join(clean(text).split())


def shortened(text: str, most: int) -> str:
    """The text, or its beginning and end, in not more than so many characters."""
    if len(text) <= most:
        return text
    kept = most - 1
    return f"{text[: kept - kept // 3]}…{text[len(text) - kept // 3 :]}"


@dataclass(frozen=True)
class Names:
    """What a report calls its artefacts: by the fewest words that tell them apart.

    Attributes:
        artefacts: In the order in which they are numbered, from 1.
    """

    artefacts: tuple[Artefact, ...]

    @classmethod
    def of(cls, artefacts: Iterable[Artefact]) -> Names:
        """Names for these, in order of first appearance."""
        return cls(tuple(dict.fromkeys(artefacts)))

    def number(self, artefact: Artefact) -> int:
        """Its number in this report, from 1."""
        return self.artefacts.index(artefact) + 1

    def label(self, artefact: Artefact) -> str:
        """Recipe and target where that is enough; the model, its name or its number too where it is not."""
        return self._labels[artefact]

    @cached_property
    def _labels(self) -> dict[Artefact, str]:
        described: list[tuple[str, ...]] = [(each.recipe, each.target) for each in self.artefacts]
        if len({each.model for each in self.artefacts}) > 1 or len(set(described)) < len(described):
            described = [(each.model, each.recipe, each.target) for each in self.artefacts]
        if len(set(described)) < len(described):
            described = [(each.name, each.target) for each in self.artefacts]
        labels = [" · ".join(filter(None, map(one_line, words))) or "unnamed" for words in described]
        labels = [shortened(each, _LONGEST) for each in labels]
        if len(set(labels)) < len(labels):
            labels = [f"{label} · {index}" for index, label in enumerate(labels, 1)]
        return dict(zip(self.artefacts, labels, strict=True))
