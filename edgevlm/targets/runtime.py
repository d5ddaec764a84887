"""The seams: what a converter and a runtime must offer.

Nothing here imports a framework, so that a target can be listed, and a bundle inspected, without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.integer_weights import StoredWeight
from edgevlm.bundle.spec import F32, Array
from edgevlm.targets.inspection import OpCount

if TYPE_CHECKING:
    from edgevlm.bundle.bundle import Bundle


@dataclass(frozen=True)
class TracedOp:
    """One op of an artefact that ran, with what it computed.

    Attributes:
        name: The target's own name of its result.
        kind: The target's own name of the op.
        reads: Names of the earlier results, and inputs, that it reads; constants left out.
        value: Its result, dequantised where integers stand for real numbers.
        origin: What the file says of where it comes from, in whatever words; empty if it says nothing.
    """

    name: str
    kind: str
    reads: tuple[str, ...]
    value: F32
    origin: str = ""


class Session(Protocol):
    """An open bundle that can run; a context manager."""

    evidence: str
    """What its answers prove: `host-runtime`, `program-semantics` or `device`."""

    def run(self, component: str, inputs: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
        """Runs one component once.

        >>> with edgevlm.open("dist/edgevlm-student-coreml-fp16.edgevlm") as model:
        ...     (pixels,) = model.bundle.components["encode_image"].spec.inputs
        ...     answers = model.session.run("encode_image", {"pixels": np.zeros(pixels.shape, np.float32)})
        >>> answers["embedding"].shape == (1, model.bundle.manifest.embedding_dim)
        True

        Raises:
            TensorError: a name, dtype or shape is not what the component's spec says.
        """

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Closing:
    """What is closed at the end of a `with` block; sessions inherit it."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Runtime(Protocol):
    """Opens bundles of one target."""

    target: str

    def open(self, bundle: Bundle, *, threads: int | None = None) -> Session: ...

    def inspect(self, bundle: Bundle) -> dict[str, tuple[OpCount, ...]]:
        """What each component of the shipped file consists of."""

    def stored_weights(self, bundle: Bundle) -> dict[str, tuple[StoredWeight, ...]]:
        """The integer weights of each component, read back from the shipped file."""

    def trace(self, bundle: Bundle, component: str, inputs: Mapping[str, Array]) -> tuple[TracedOp, ...]:
        """Runs one component once, and returns what each of its ops computed, in the order in which they ran."""
