"""The components that converters lower, run by torch as they are, behind the seam of every target's session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.spec import Array
from edgevlm.graphs.program import Programs

if TYPE_CHECKING:
    import torch


class ProgramSession:
    """Programs in float32; a state is passed in and out, a tensor each.

    Args:
        programs: By the names of the components.
    """

    def __init__(self, programs: Programs) -> None:
        self.programs = dict(programs)

    def make_state(self, component: str) -> list[torch.Tensor]:
        """Zeros."""
        import torch

        return [torch.zeros(each.shape) for each in self.programs[component].spec.state]

    def run(
        self, component: str, inputs: Mapping[str, Array], state: list[torch.Tensor] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Runs one component once.

        Args:
            component: Its name.
            inputs: By the names of its spec.
            state: What `make_state` gave, of a component that keeps one; the run changes it.

        Returns:
            The outputs of its spec, float32.
        """
        import torch

        program = self.programs[component]
        given = [torch.from_numpy(np.array(inputs[each.name])) for each in program.spec.inputs]
        with torch.no_grad():
            found = program.module(*given, *(state or ()))
        answers = found if isinstance(found, tuple) else (found,)
        outputs = program.spec.outputs
        if state is not None:
            state[:] = answers[len(outputs) :]
        return {each.name: answer.numpy() for each, answer in zip(outputs, answers, strict=False)}

    def close(self) -> None:
        """Lets go of the programs."""
        self.programs.clear()
