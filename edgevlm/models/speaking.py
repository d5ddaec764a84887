"""The float original of a model that talks, as a session: transformers' own forward, its own cache as the state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.spec import Array, ComponentSpec
from edgevlm.errors import TensorError
from edgevlm.models.reference import MOST_BATCHES, Forward, lone_thread
from edgevlm.targets.boundary import find_component, validate_dialogue, validate_inputs
from edgevlm.targets.runtime import Closing

if TYPE_CHECKING:
    import torch

Decode = Callable[..., Any]
"""A cache, embeddings [1, T, W], positions [1, T] without padding, and what else `decode` takes -> logits [1, V]."""


@dataclass(frozen=True, eq=False)
class Said:
    """What was said in a dialogue so far.

    Attributes:
        component: Which keeps it.
        cache: transformers' own.
        session: Which made it.
    """

    component: str
    cache: Any
    session: SpeakingOriginal


class SpeakingOriginal(Closing):
    """A generator's own float32 forward in torch, behind the seam of every target's session.

    Args:
        network: transformers' own, in eval mode.
        functions: What each component without a state computes.
        decode: What `decode` computes.
        specs: Names, dtypes and shapes of the components.
    """

    evidence = "reference"

    def __init__(
        self,
        network: torch.nn.Module,
        functions: Mapping[str, Forward],
        decode: Decode,
        specs: Mapping[str, ComponentSpec],
    ) -> None:
        self.network = network
        self.specs = dict(specs)
        self._functions = dict(functions)
        self._decode: Decode | None = decode

    def make_state(self, component: str) -> Said:
        """A dialogue that nothing was said in yet.

        Raises:
            TensorError: there is no such component, or it keeps no state.
        """
        from transformers import DynamicCache

        if not find_component(self.specs, component).state:
            raise TensorError(f"{component}: keeps no state")
        return Said(component, DynamicCache(), self)

    def run(
        self, component: str, inputs: Mapping[str, Array], state: Said | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Runs one component once.

        Args:
            component: Its name.
            inputs: By the names of its spec.
            state: What `make_state` gave, of a component that keeps one; the run changes it.

        Returns:
            The outputs of its spec, float32, owned by the caller.

        Raises:
            TensorError: there is no such component; a name, dtype or shape is not what its spec says; a token id is
                beyond the vocabulary, or a position beyond the context; or a component that keeps a state is asked
                without one, with another session's, or about positions behind those that it has.
        """
        import torch

        if self._decode is None:
            raise TensorError("this session is closed", hint="load the model again")
        spec = find_component(self.specs, component)
        arrays = validate_inputs(spec, inputs)
        validate_dialogue(self.specs, component, arrays)
        tensors = [torch.from_numpy(np.array(array)) for array in arrays.values()]
        with torch.no_grad(), lone_thread():
            if spec.state:
                cache = self._own(component, state)
                embeddings, positions, *others = tensors
                there = positions[0] >= 0
                _go_back(cache, int(positions[0, 0]))
                found = self._decode(cache, embeddings[:, there], positions[:, there].long(), *others)
            else:
                found = self._functions[component](*tensors)
        answers = found if isinstance(found, tuple) else (found,)
        return {
            tensor.name: answer.to(torch.float32).numpy().copy()
            for tensor, answer in zip(spec.outputs, answers, strict=True)
        }

    def run_each(self, component: str, inputs: Sequence[Mapping[str, Array]]) -> list[dict[str, NDArray[np.float32]]]:
        """Runs a component that keeps no state once for each of the inputs, on a thread each: the same bits as alone.

        Args:
            component, inputs: See `run`.

        Raises:
            TensorError: see `run`.
        """
        with lone_thread() as threads, ThreadPoolExecutor(min(threads, MOST_BATCHES)) as pool:
            return list(pool.map(partial(self.run, component), inputs))

    def _own(self, component: str, state: Said | None) -> Any:
        if not isinstance(state, Said) or state.component != component or state.session is not self:
            got = "none" if state is None else "one of another session or component"
            raise TensorError(f"{component}: expected a state of this session, got {got}", hint="make_state makes one")
        return state.cache

    def close(self) -> None:
        """Lets go of the network; a closed session answers no more."""
        self._functions.clear()
        self._decode = None
        vars(self).pop("network", None)


def _go_back(cache: Any, first: int) -> None:
    """Forgets what stands from a position on: it is about to be put there anew."""
    there = cache.get_seq_length()
    if not 0 <= first <= there:
        raise TensorError(f"expected positions that go on from one of 0 to {there}, got {first}")
    if first < there:
        cache.crop(first - there)
