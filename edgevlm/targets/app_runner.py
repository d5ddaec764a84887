"""What apps have for models that talk: a runner of the target's own, which a second witness asks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from edgevlm.bundle.spec import F32

if TYPE_CHECKING:
    from edgevlm.bundle.bundle import Bundle

Part: TypeAlias = "list[int] | F32"
"""Of a dialogue, in the order of the positions: ids of words, or one picture or tile, float32 [3, H, W], as
`encode_image` takes it."""


class Runner(Protocol):
    """A target's own runner, which has loaded a bundle's file."""

    def ids(self, parts: Sequence[Part], most: int) -> list[int]:
        """A new dialogue's answer, each token the most probable one, the one that ends it perhaps among them.

        Args:
            parts: The dialogue.
            most: How many tokens are wanted at most.
        """


@runtime_checkable
class RunnerTarget(Protocol):
    """A runtime whose target has such a runner, which runs here too; most have none."""

    def runner_name(self, bundle: Bundle) -> str | None:
        """What the runner is called; None where it cannot hold the bundle."""

    def open_runner(self, bundle: Bundle) -> Runner:
        """Loads the bundle's file, into a process of its own alone: see `edgevlm.targets.isolation.IsolatedRunner`."""


def spell(ids: Iterable[int]) -> str:
    """Ids as a text, for runners that take or give nothing else.

    >>> spell([7, 12])
    '<7><12>'
    """
    return "".join(f"<{each}>" for each in ids)


def spelled(text: str) -> list[int]:
    """The ids that a text of `spell` stands for."""
    return [int(each) for each in re.findall(r"<(\d+)>", text)]


def spelling_vocabulary(size: int) -> dict[str, int]:
    """Of a tokenizer under which a text tells its ids."""
    return {spell([number]): number for number in range(size)}
