"""The float reference behind the same seam as every target's session."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.spec import Array, ComponentSpec, ImagePreprocessing
from edgevlm.targets.boundary import find_component, validate_inputs
from edgevlm.targets.runtime import Closing

if TYPE_CHECKING:
    import torch

    from edgevlm.models.network import Network


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


def _reference(network: Network, image: ImagePreprocessing) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """transformers' own forward, between the programs' boundaries."""
    import torch

    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (image.mean, image.std))

    def encode_image(pixels: torch.Tensor) -> torch.Tensor:
        normalised = (pixels * image.rescale - mean.to(pixels.device)) / std.to(pixels.device)
        return _unit_norm(network.get_image_features(normalised, interpolate_pos_encoding=True).pooler_output)

    return {"encode_image": encode_image, "encode_text": text_reference(network)}


def text_reference(network: Network) -> Callable[[torch.Tensor], torch.Tensor]:
    """transformers' own forward of the text half of a `CLIPModel` or `SiglipModel`, which may be all there is.

    It takes int32 [N, L] and returns unit vectors, float32 [N, D], on the network's device.
    """

    def encode_text(token_ids: torch.Tensor) -> torch.Tensor:
        pooled = network.text_model(token_ids.long()).pooler_output
        # CLIP's projection lies beside its text model, SigLIP's inside.
        return _unit_norm(network.text_projection(pooled) if hasattr(network, "text_projection") else pooled)

    return encode_text


def _unit_norm(features: torch.Tensor) -> torch.Tensor:
    length: torch.Tensor = features.norm(dim=-1, keepdim=True)
    return features / length
