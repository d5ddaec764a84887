"""The float original as a session: what every artefact's answers are compared with, and every student learns from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.spec import Array, ComponentSpec, ImagePreprocessing
from edgevlm.errors import TensorError
from edgevlm.inputs.rows import Rows, inputs_of, is_answerable
from edgevlm.targets.boundary import find_component, validate_rows
from edgevlm.targets.runtime import Closing, State

if TYPE_CHECKING:
    import torch

    from edgevlm.models.network import Network

_ROWS_ON_A_CPU, _ROWS_ELSEWHERE = 8, 64
MOST_BATCHES = 8  # at once, which is memory

Forward = Callable[..., Any]
"""Tensors by position, in the order of a component's inputs -> one tensor, or a tuple, in that of its outputs."""


@dataclass(frozen=True)
class Head:
    """A component that goes on from another one's answer, so that this is computed once where both are asked."""

    of: str
    """The component whose outputs are taken, and whose inputs are the head's own as well."""
    forward: Forward


class Original(Closing):
    """A model's own float32 forward in torch, behind the seam of every target's session.

    `run` takes N rows at once where a device takes one, so that `ask(session, ...)` and `original.run` answer alike.

    Args:
        network: The modules that `functions` run; `to` moves them.
        functions: What each component computes, on rows of any number, on the network's device; and the components
            that heads go on from.
        specs: Names, dtypes and shapes, for one row, of the components that there are.

    Example:
        >>> original = catalogue.load("edgevlm-student").original
        >>> original.run("encode_image", {"pixels": pixels})["embedding"].shape   # pixels: float32 [200, 3, 64, 64]
        (200, 256)
    """

    evidence = "reference"

    def __init__(
        self,
        network: torch.nn.Module,
        functions: Mapping[str, Forward | Head],
        specs: Mapping[str, ComponentSpec],
    ) -> None:
        self.network = network
        self.specs = dict(specs)
        """Of each component."""
        self._functions = dict(functions)

    def to(self, device: str | torch.device) -> Self:
        """Moves the network, which the model's programs share weights with."""
        self.network.to(device)
        return self

    def forward(self, component: str, *tensors: torch.Tensor) -> Any:
        """The component's own forward, with gradients where the caller's mode has them.

        Args:
            component: Its name.
            tensors: Its inputs by position, N rows each, on any device.

        Returns:
            One tensor, or a tuple of them, on the network's device.

        Raises:
            TensorError: there is no such component, or this session is closed.
        """
        self._refuse_closed()
        find_component(self.specs, component)
        device = next((each.device for each in self.network.parameters()), None)
        return self._compute(component, *(tensor if device is None else tensor.to(device) for tensor in tensors))

    def _compute(self, component: str, *tensors: torch.Tensor) -> Any:
        function = self._functions[component]
        if not isinstance(function, Head):
            return function(*tensors)
        return function.forward(*_tuple(self._compute(function.of, *tensors)))

    def make_state(self, component: str) -> State:
        """Raises TensorError: no component of a dual encoder keeps a state from one run to the next."""
        raise TensorError(f"{component}: keeps no state from one run to the next", hint="run it without one")

    def run(
        self, component: str, inputs: Mapping[str, Array], state: State | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Answers N rows, in batches and without gradients.

        Args:
            component: Its name.
            inputs: By the names of its spec, [N, ...] each.
            state: None.

        Returns:
            The outputs of its spec, float32 [N, ...] each, owned by the caller.

        Raises:
            TensorError: this session is closed; there is no such component; or a name, dtype or shape is not what its
                spec says.
        """
        self._refuse_closed()
        spec = find_component(self.specs, component)
        return self._answer(spec, partial(self.forward, component), tuple(validate_rows(spec, inputs).values()))

    def answer(self, rows: Rows) -> dict[str, dict[str, NDArray[np.float32]]]:
        """What every component whose inputs are there answers to all rows: component -> output -> [N, ...].

        Raises:
            TensorError: a row is not what a component's spec says, or this session is closed.
        """
        self._refuse_closed()
        answers: dict[str, dict[str, NDArray[np.float32]]] = {}
        for name, spec in self.specs.items():
            if not is_answerable(spec, rows):
                continue
            function = self._functions[name]
            if isinstance(function, Head) and function.of in answers:
                answers[name] = self._answer(spec, function.forward, tuple(answers[function.of].values()))
            else:
                answers[name] = self.run(name, inputs_of(spec, rows))
        return answers

    def _answer(self, spec: ComponentSpec, forward: Forward, rows: Sequence[Array]) -> dict[str, NDArray[np.float32]]:
        import torch

        on_cpu = all(each.device.type == "cpu" for each in self.network.parameters())
        at_once = _ROWS_ON_A_CPU if on_cpu else _ROWS_ELSEWHERE

        def compute(start: int) -> list[NDArray[np.float32]]:
            # A copy: torch.from_numpy would hand the module the caller's memory.
            tensors = (torch.tensor(array[start : start + at_once]) for array in rows)
            with torch.no_grad():
                values = _tuple(forward(*tensors))
            return [value.to("cpu", torch.float32).numpy().copy() for value in values]

        starts = range(0, len(rows[0]), at_once)
        with _lone_threads() if on_cpu else nullcontext(map) as each_of:
            parts = list(each_of(compute, starts))
        return {
            tensor.name: np.concatenate([part[index] for part in parts])
            if parts
            else np.zeros((0, *tensor.shape[1:]), np.float32)
            for index, tensor in enumerate(spec.outputs)
        }

    def close(self) -> None:
        """Lets go of the network; a closed session answers no more."""
        self.specs.clear()
        self._functions.clear()
        vars(self).pop("network", None)

    def _refuse_closed(self) -> None:
        if not self._functions:
            raise TensorError("this session is closed", hint="load the model again")


@contextmanager
def _lone_threads() -> Iterator[Callable[..., Iterable[list[NDArray[np.float32]]]]]:
    """A `map` over threads, each of which computes alone.

    A batch that one thread computes has the same bits whatever their number, so that a bundle has the same bytes on
    every machine of a kind.
    """
    with lone_thread() as threads, ThreadPoolExecutor(min(threads, MOST_BATCHES)) as pool:
        yield pool.map


@contextmanager
def lone_thread() -> Iterator[int]:
    """Has torch compute on one thread, and gives how many there were.

    A sum that several divide among them depends, in its last bits, on how many there are.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def image_reference(network: Network, image: ImagePreprocessing) -> Forward:
    """transformers' own forward of a dual encoder's picture half, pixels in 0..255 -> unit vectors [N, D]."""
    import torch

    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (image.mean, image.std))

    def encode_image(pixels: torch.Tensor) -> torch.Tensor:
        normalised = (pixels * image.rescale - mean.to(pixels.device)) / std.to(pixels.device)
        return _unit_norm(network.get_image_features(normalised, interpolate_pos_encoding=True).pooler_output)

    return encode_image


def text_reference(network: Network) -> Forward:
    """transformers' own forward of the text half of a `CLIPModel` or `SiglipModel`, which may be all there is.

    It takes int32 [N, L] and returns unit vectors, float32 [N, D], on the network's device.
    """

    def encode_text(token_ids: torch.Tensor) -> torch.Tensor:
        pooled = network.text_model(token_ids.long()).pooler_output
        # CLIP's projection lies beside its text model, SigLIP's inside.
        return _unit_norm(network.text_projection(pooled) if hasattr(network, "text_projection") else pooled)

    return encode_text


def classifier_reference(label_embeddings: torch.Tensor, logit_scale: float, logit_bias: float | None) -> Head:
    """Scores and logits of each baked label, [N, L]: the softmax, or with a bias the sigmoid, of scaled cosines."""

    def classify(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = logit_scale * images @ label_embeddings.to(images).T
        if logit_bias is None:
            return logits.softmax(-1), logits
        return (logits + logit_bias).sigmoid(), logits + logit_bias

    return Head("encode_image", classify)


def _tuple(answer: Any) -> tuple[torch.Tensor, ...]:
    return answer if isinstance(answer, tuple) else (answer,)


def _unit_norm(features: torch.Tensor) -> torch.Tensor:
    length: torch.Tensor = features.norm(dim=-1, keepdim=True)
    return features / length
