"""What the parts of an answer come to, of models that talk: the time to the first token, and the rate of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgevlm.bench.results import Artefact, Measured
from edgevlm.bundle.dialogue import ENCODE_IMAGE
from edgevlm.onboard.answers import PROMPT, TOKEN
from edgevlm.onboard.figures import Times


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


def answers(results: Sequence[Measured]) -> tuple[AnswerTimes, ...]:
    """What results come to of which the prompt was timed."""
    found: dict[tuple[str, Artefact, int], dict[str, Times]] = {}
    for each in results:
        found.setdefault((each.device, each.artefact, each.threads), {})[each.component] = each.times
    return tuple(
        AnswerTimes(*of, parts.get(ENCODE_IMAGE), parts[PROMPT], _tokens(parts))
        for of, parts in found.items()
        if PROMPT in parts
    )


def _tokens(parts: dict[str, Times]) -> dict[int, Times]:
    fills = sorted(int(name.removeprefix(TOKEN)) for name in parts if name.startswith(TOKEN))
    return {fill: parts[f"{TOKEN}{fill}"] for fill in fills}
