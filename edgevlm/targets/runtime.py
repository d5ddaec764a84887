"""The seams: what a converter and a runtime must offer.

Nothing here imports a framework, so that a target can be listed, and a bundle inspected, without one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.integer_weights import StoredWeight
from edgevlm.bundle.manifest import BundledComponent
from edgevlm.bundle.spec import F32, Array, ComponentSpec
from edgevlm.errors import TensorError, UnsupportedError
from edgevlm.targets.boundary import find_component, length_of, validate_dialogue, validate_inputs
from edgevlm.targets.inspection import OpCount

if TYPE_CHECKING:
    from edgevlm.bundle.bundle import Bundle

P = TypeVar("P")


@dataclass(frozen=True)
class TracedOp:
    """One op of an artefact that ran, with what it computed.

    >>> bundle = edgevlm.Bundle.open("dist/edgevlm-student-coreml-fp16.edgevlm")
    >>> from edgevlm.targets import registry
    >>> (pixels,) = bundle.components["encode_image"].spec.inputs
    >>> given = {"pixels": np.zeros(pixels.shape, np.float32)}
    >>> trace = registry.runtime("coreml").trace(bundle, "encode_image", given)
    >>> trace[-1].value.shape == (1, bundle.manifest.embedding.dim)
    True

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


@dataclass(eq=False)
class State:
    """What a component keeps from one run to the next: its session makes it, and its runs change it.

    Attributes:
        component: Whose.
        arrays: By the names of the component's spec, float32.
        session: `id` of the session.
        number: By which a session in another process knows it.
    """

    component: str
    arrays: dict[str, NDArray[np.float32]]
    session: int
    number: int = 0


class Session(Protocol):
    """An open bundle that can run; a context manager. Several threads may use one."""

    evidence: str
    """What its answers prove: `host-runtime`, `program-semantics` or `device`."""

    def make_state(self, component: str) -> State:
        """What a component keeps from run to run, before the first; see `SerialSession.make_state`."""

    def run(
        self, component: str, inputs: Mapping[str, Array], state: State | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Runs one component once.

        >>> with edgevlm.open("dist/edgevlm-student-coreml-fp16.edgevlm") as model:
        ...     (pixels,) = model.bundle.components["encode_image"].spec.inputs
        ...     answers = model.session.run("encode_image", {"pixels": np.zeros(pixels.shape, np.float32)})
        >>> answers["embedding"].shape == (1, model.bundle.manifest.embedding.dim)
        True

        Raises:
            TensorError: a name, dtype or shape is not what the component's spec says.
        """

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def refuse_fork(what: str, opener: int) -> None:
    """Refuses to serve a fork of the process that opened a session.

    Args:
        what: What was asked.
        opener: The id of that process.

    Raises:
        UnsupportedError: this is another one.
    """
    if os.getpid() != opener:
        raise UnsupportedError(
            f"{what}: this session was opened by process {opener}, of which this one is a fork: a runtime's threads "
            "are not copied with it, and both would read from one pipe",
            hint='open the bundle in the new process, or start that with multiprocessing.get_context("spawn")',
        )


class Closing:
    """What is closed at the end of a `with` block; sessions inherit it.

    >>> class Opened(Closing):
    ...     def close(self) -> None:
    ...         print("closed")
    >>> with Opened():
    ...     pass
    closed
    """

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SerialSession(Closing, Generic[P]):
    """A session whose components run one at a time: a thread that asks while another is served waits for its turn.

    >>> from edgevlm.bundle import TensorSpec
    >>> class Scaling(SerialSession[float]):
    ...     evidence = "host-runtime"
    ...     def _compute(self, spec, program, arrays):
    ...         return {"y": np.float32(program) * arrays["x"]}
    >>> x, y = (TensorSpec(name, "float32", (1, 2), "numbers") for name in "xy")
    >>> with Scaling({"double": (ComponentSpec("double", (x,), (y,)), 2.0)}) as session:
    ...     answers = session.run("double", {"x": np.ones((1, 2), np.float32)})
    >>> answers["y"]
    array([[2., 2.]], dtype=float32)

    An interpreter computes in memory of its own, so two threads in one at once would read each other's numbers. To wait
    costs nothing where nobody else asks. Threads that are to be served side by side open a session each, which holds
    the weights once more.

    Args:
        functions: What the files answer, by their own names: its spec, and what the target's runtime runs for it.
        components: What is asked; the functions themselves where None.
    """

    evidence: str

    def __init__(
        self,
        functions: Mapping[str, tuple[ComponentSpec, P]],
        components: Mapping[str, BundledComponent] | None = None,
    ) -> None:
        self._functions = dict(functions)
        self._components = {name: BundledComponent(spec, "") for name, (spec, _) in functions.items()}
        if components is not None:
            self._components = dict(components)
        self._specs = {name: component.spec for name, component in self._components.items()}
        self._closed = False
        self._turn = threading.Lock()
        self._process = os.getpid()

    def make_state(self, component: str) -> State:
        """What a component keeps from run to run, before the first.

        Raises:
            TensorError: there is no such component, or it keeps nothing.
        """
        spec = self._stateful(component)
        return State(component, {each.name: np.zeros(each.shape, np.float32) for each in spec.state}, id(self))

    def _stateful(self, component: str) -> ComponentSpec:
        if self._closed:
            raise TensorError("this session is closed", hint="open the bundle again")
        spec = find_component(self._components, component).spec
        if not spec.state:
            raise TensorError(f"{component}: keeps no state from one run to the next", hint="run it without one")
        return spec

    def run(
        self, component: str, inputs: Mapping[str, Array], state: State | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Runs one component once.

        Args:
            component: Its name.
            inputs: By the names of its spec.
            state: Of a component that keeps one, what `make_state` gave; the run changes it.

        Returns:
            The outputs of the component's spec, owned by the caller.

        Raises:
            TensorError: the session is closed; there is no such component; a name, dtype or shape is not what its
                spec says; a state is missing, or another session's or component's; a position is beyond the context;
                or a value is none that there is a row for, such as a token id beyond the vocabulary.
            BundleError: the component cannot be loaded, or answers otherwise than its spec says.
            UnsupportedError: this process is a fork of the one that opened the session.
        """
        refuse_fork(component, self._process)
        with self._turn:
            if self._closed:
                raise TensorError("this session is closed", hint="open the bundle again")
            asked = find_component(self._components, component)
            arrays = validate_inputs(asked.spec, inputs)
            validate_dialogue(self._specs, component, arrays)
            length = length_of(asked.spec, arrays)
            spec, program = self._functions[asked.function(length)]
            if asked.spec.lengths:
                spec = asked.spec.explicit(length, spec.name)
            if not asked.spec.state:
                return self._compute(spec, program, arrays)
            return self._compute_on(self._own(component, state), spec, program, arrays)

    def _compute_on(
        self, state: State, spec: ComponentSpec, program: P, arrays: Mapping[str, Array]
    ) -> dict[str, NDArray[np.float32]]:
        """The same of one that keeps a state, which is changed; here it goes in and out."""
        answers = self._compute(spec, program, {**arrays, **state.arrays})
        written = {each.name: each.written for each in spec.inputs if each.name in state.arrays}
        state.arrays = {name: answers.pop(now) for name, now in written.items()}
        return answers

    def _own(self, component: str, state: State | None) -> State:
        if state is None or state.component != component or state.session != id(self):
            got = "none" if state is None else "one of another session or component"
            raise TensorError(f"{component}: expected a state of this session, got {got}", hint="make_state makes one")
        return state

    def _compute(self, spec: ComponentSpec, program: P, arrays: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
        """One component's answer to inputs that are known to be right."""
        raise NotImplementedError

    def close(self) -> None:
        """Lets go of what the runtime holds; a closed session answers no more.

        Raises:
            UnsupportedError: another thread is being served just now.
        """
        if not self._turn.acquire(blocking=False):
            raise UnsupportedError(
                "this session cannot be closed while another thread runs it",
                hint="wait for that thread first, for example with thread.join()",
            )
        try:
            self._closed = True
            self._components.clear()
            self._functions.clear()
        finally:
            self._turn.release()


class Runtime(Protocol):
    """Opens bundles of one target.

    >>> bundle = edgevlm.Bundle.open("dist/edgevlm-student-coreml-fp16.edgevlm")
    >>> from edgevlm.targets import registry
    >>> with registry.runtime(bundle.manifest.target).open(bundle, threads=1) as session:
    ...     evidence = session.evidence
    >>> evidence
    'program-semantics'
    """

    target: str

    def open(self, bundle: Bundle, *, threads: int | None = None) -> Session: ...

    def inspect(self, bundle: Bundle) -> dict[str, tuple[OpCount, ...]]:
        """What each component of the shipped file consists of."""

    def stored_weights(self, bundle: Bundle) -> dict[str, tuple[StoredWeight, ...]]:
        """The integer weights of each component, read back from the shipped file: each once for every op that reads it.

        So layers of equal weights, which a file stores once, are found as often as they are computed.
        """

    def trace(self, bundle: Bundle, component: str, inputs: Mapping[str, Array]) -> tuple[TracedOp, ...]:
        """Runs one component once, and returns what each of its ops computed, in the order in which they ran.

        One that keeps a state finds it as it is before the first run.
        """
