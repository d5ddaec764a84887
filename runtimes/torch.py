"""The float reference behind the same seam as every target's session."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.spec import Array, ComponentSpec
from edgevlm.targets.boundary import find_component, validate_inputs
from edgevlm.targets.runtime import Closing

if TYPE_CHECKING:
    import torch


class TorchSession(Closing):
    """Components as torch callables, such as modules in eval mode; what a bundle's answers are compared with.

    Args:
        callables: Component name -> callable that takes the inputs of its spec by position and returns one tensor
            or a tuple of them.
        specs: Names, dtypes and shapes of the same components.
    """

    evidence = "reference"

    def __init__(self, callables: Mapping[str, Callable[..., Any]], specs: Mapping[str, ComponentSpec]) -> None:
        self._components = {name: (specs[name], function) for name, function in callables.items()}

    def run(self, component: str, inputs: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
        """Runs one component once, without gradients.

        Returns:
            The outputs of the component's spec as float32, owned by the caller.

        Raises:
            TensorError: there is no such component; or a name, dtype or shape is not what its spec says.
        """
        import torch

        spec, function = find_component(self._components, component)
        arrays = validate_inputs(spec, inputs)
        with torch.inference_mode():
            # A copy: torch.from_numpy would hand the module the caller's memory.
            answer = function(*(torch.tensor(array) for array in arrays.values()))
        answers: tuple[torch.Tensor, ...] = answer if isinstance(answer, tuple) else (answer,)
        return {
            tensor.name: value.detach().to(torch.float32).numpy().copy()
            for tensor, value in zip(spec.outputs, answers, strict=True)
        }

    def close(self) -> None:
        """Lets go of the callables; a closed session has no components."""
        self._components.clear()
