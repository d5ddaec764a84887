"""What the components of a model that talks take while dialogues are put: rows that an audit measures ranges on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.dialogue import DECODE
from edgevlm.bundle.spec import Array
from edgevlm.graphs.program import Program, Programs
from edgevlm.graphs.session import ProgramSession
from edgevlm.inference.generator import Seen
from edgevlm.inputs.chat import Message
from edgevlm.inputs.pictures import Picture
from edgevlm.inputs.rows import PIXELS, Rows
from edgevlm.process.progress import Progress

if TYPE_CHECKING:
    import torch

    from edgevlm.models.talker import Talker

_MOST = 32
"""Rows of a component without a state; of `decode`, one a dialogue, since a state is large."""


def audited(programs: Programs) -> dict[str, Program]:
    """Each component as an audit runs it: for as many rows as it takes at once, its state among its inputs."""
    return {
        name: program.explicit(program.lengths[-1]) if program.spec.lengths else program
        for name, program in programs.items()
    }


def dialogue_rows(
    model: Talker,
    asked: Sequence[tuple[Picture | None, str]],
    progress: Progress,
    see: Callable[[Picture], Seen] | None = None,
) -> Rows:
    """Puts dialogues, and keeps what the components are given.

    Args:
        model: Its components are run in float32, but for `encode_image`: the original says what it answers.
        asked: Pictures, and a question about each.
        progress: Told of each dialogue.
        see: How the original sees a picture, where it may have seen it before.

    Returns:
        By the names of the inputs of `audited`, without the batch's axis: of `decode` the last run of each dialogue
        that takes as many rows as it can, with the state as it was before; of the others what is not the same again.
    """
    recorder, see = _Recorder(model.programs), see or model.generator.see
    asking = model.through(recorder)
    for number, (picture, question) in enumerate(asked):
        progress("putting dialogues", number / len(asked))
        seen = None if picture is None else see(picture)
        for tile in () if seen is None else seen.pixels:
            recorder.keep({PIXELS: tile[None]})
        written = asking.write([Message("user", question, 0 if seen is None else 1)], seen)
        asking.begin(asking.place(), written, seen)
        recorder.end_dialogue()
    return {name: np.stack(rows) for name, rows in recorder.rows.items()}  # type: ignore[misc]


class _Recorder(ProgramSession):
    """Keeps what is asked."""

    def __init__(self, programs: Programs) -> None:
        super().__init__(programs)
        self.rows: dict[str, list[Array]] = {}
        self._kept: set[bytes] = set()
        self._decoded: dict[str, Array] = {}

    def run(
        self, component: str, inputs: Mapping[str, Array], state: list[torch.Tensor] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        spec = self.programs[component].spec
        given = {tensor.name: inputs[tensor.name] for tensor in spec.inputs}
        if all(given[tensor.name].shape == tensor.at((spec.lengths or (1,))[-1]) for tensor in spec.inputs):
            if component == DECODE:
                before = {tensor.name: part for tensor, part in zip(spec.state, state or (), strict=True)}
                kept: dict[str, Array] = {name: np.asarray(part, np.float32) for name, part in before.items()}
                self._decoded = given | kept
            else:
                self.keep(given)
        return super().run(component, inputs, state)

    def keep(self, given: Mapping[str, Array]) -> None:
        """Keeps what a component without a state takes, once."""
        content = hashlib.sha256(b"".join(name.encode() + array.tobytes() for name, array in given.items())).digest()
        if content not in self._kept:
            self._kept.add(content)
            self._keep(given)

    def end_dialogue(self) -> None:
        """Keeps the last run of `decode`."""
        self._keep(self._decoded)
        self._decoded = {}

    def _keep(self, given: Mapping[str, Array]) -> None:
        for name, array in given.items():
            rows = self.rows.setdefault(name, [])
            if len(rows) < _MOST:
                rows.append(array[0])
