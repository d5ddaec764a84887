"""What the parts of an answer come to, of models that talk: the time to the first token, and the rate of the others."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from edgevlm.bench.results import Artefact, Emulated, Estimated, Measured
from edgevlm.bundle.dialogue import ENCODE_IMAGE
from edgevlm.onboard.answers import PROMPT, TOKEN
from edgevlm.onboard.figures import Times

_Of = TypeVar("_Of")
_Asked = TypeVar("_Asked", Measured, Estimated)


@dataclass(frozen=True)
class AnswerTimes:
    """Of one artefact on one device, with so many threads.

    Attributes:
        picture: None where only the rest was timed.
        prompt: With the picture's features.
        tokens: By how much of the context is taken, in positions, the least first.
    """

    device: str
    artefact: Artefact
    threads: int
    picture: Times | None
    prompt: Times
    tokens: dict[int, Times]

    @property
    def first_token_ms(self) -> float | None:
        """From pixels and ids to the first token."""
        return None if self.picture is None else self.picture.engine_ms.median + self.prompt.engine_ms.median


@dataclass(frozen=True)
class Band:
    """What nobody measured: between `low` and `high`, and most likely near `middle`."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class AnswerBands:
    """The same as `AnswerTimes`, estimated.

    Attributes:
        first_token_ms: From pixels and ids to the first token; None where a part of it was not asked for.
        tokens_per_second: By how much of the context is taken.
    """

    device: str
    artefact: Artefact
    threads: int
    first_token_ms: Band | None
    tokens_per_second: dict[int, Band]


@dataclass(frozen=True)
class TokenWork:
    """What a token makes one core of a device execute, and read.

    Attributes:
        instructions: By how much of the context is taken, the least first.
        reads_bytes: Weights and state.
    """

    device: str
    artefact: Artefact
    instructions: dict[int, int]
    reads_bytes: int | None

    @property
    def instructions_a_position(self) -> float | None:
        """How many more for each position that is taken, by a line through what was counted; None of one fill."""
        if len(self.instructions) < 2:
            return None
        return statistics.linear_regression([*self.instructions], [*self.instructions.values()]).slope


def answers(results: Sequence[Measured]) -> tuple[AnswerTimes, ...]:
    """What results come to of which the prompt was timed."""
    timed = {of: {name: each.times for name, each in parts.items()} for of, parts in _parts(results).items()}
    return tuple(
        AnswerTimes(*of, parts.get(ENCODE_IMAGE), parts[PROMPT], _tokens(parts))
        for of, parts in timed.items()
        if PROMPT in parts
    )


def estimated_answers(results: Sequence[Estimated]) -> tuple[AnswerBands, ...]:
    """What estimates come to, of models that talk."""
    bands = []
    for of, parts in _parts(results).items():
        first = [parts[name] for name in (ENCODE_IMAGE, PROMPT) if name in parts]
        whole = Band(*(sum(ms) for ms in zip(*map(_band, first), strict=True))) if len(first) == 2 else None
        tokens = {
            fill: Band(1e3 / each.high_ms, 1e3 / each.middle_ms, 1e3 / each.low_ms)
            for fill, each in _tokens(parts).items()
        }
        if PROMPT in parts or tokens:
            bands.append(AnswerBands(*of, whole, tokens))
    return tuple(bands)


def token_work(results: Sequence[Emulated]) -> tuple[TokenWork, ...]:
    """What was counted of tokens."""
    found: dict[tuple[str, Artefact], dict[str, Emulated]] = {}
    for each in results:
        if each.counts is not None and each.component.startswith(TOKEN):
            found.setdefault((each.device, each.artefact), {})[each.component] = each
    return tuple(
        TokenWork(
            *of,
            {fill: each.counts.instructions for fill, each in _tokens(parts).items() if each.counts is not None},
            next(iter(parts.values())).reads_bytes,
        )
        for of, parts in found.items()
    )


def _parts(results: Sequence[_Asked]) -> dict[tuple[str, Artefact, int], dict[str, _Asked]]:
    """By device, artefact and threads, what is known of each part."""
    found: dict[tuple[str, Artefact, int], dict[str, _Asked]] = {}
    for each in results:
        found.setdefault((each.device, each.artefact, each.threads), {})[each.component] = each
    return found


def _band(each: Estimated) -> tuple[float, float, float]:
    return each.low_ms, each.middle_ms, each.high_ms


def _tokens(parts: dict[str, _Of]) -> dict[int, _Of]:
    fills = sorted(int(name.removeprefix(TOKEN)) for name in parts if name.startswith(TOKEN))
    return {fill: parts[f"{TOKEN}{fill}"] for fill in fills}
