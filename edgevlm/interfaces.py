"""The seams: what a converter and a runtime must offer.

Nothing here imports a framework, so that a target can be listed, and a bundle inspected, without one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgevlm.recipe import Recipe
from edgevlm.spec import ComponentSpec
from edgevlm.stored import StoredWeight

if TYPE_CHECKING:
    import torch

    from edgevlm.bundle import Bundle
    from edgevlm.footprint import Footprint, Outline

F32 = NDArray[np.float32]
Array = F32 | NDArray[np.int32]
Progress = Callable[[str, float | None], None]
"""Told what is being done, and the share of it that is done where that is known."""


@dataclass(frozen=True)
class Program:
    """One component in float32 torch, ready to be lowered.

    Attributes:
        spec: Names, dtypes and shapes at the boundary.
        module: In eval mode, without gradients; its `forward` takes the inputs of `spec` by position and
            returns the outputs (one tensor, or a tuple of them).
        example: Inputs that `module` accepts, of the shapes in `spec`.
    """

    spec: ComponentSpec
    module: torch.nn.Module
    example: tuple[torch.Tensor, ...]


Programs = Mapping[str, Program]


@dataclass(frozen=True)
class Unsupported:
    """Something that a target cannot hold, with the nearest thing that it can."""

    what: str
    instead: str


@dataclass(frozen=True)
class BundleFile:
    """A file, or a folder that the target regards as one, which `Converter.lower` wrote.

    Attributes:
        path: Relative to the `out_dir` that `lower` was given.
        components: Names of the components that it answers.
        requires: Least version of each platform or runtime that can load it, e.g. `{"iOS": "16"}`.
    """

    path: str
    components: tuple[str, ...]
    requires: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class OpCount:
    """How many ops of one kind a component has, in which precision, and who runs them.

    Attributes:
        kind: The target's own name of the op.
        count: Number of such ops in the component's graph.
        dtype: Element type that the op computes in, e.g. `fp16`.
        runs_on: `xnnpack`, `portable`, `evaluator`, ...
        weights: Type that its weights are stored in where those are integers, e.g. `int8`; else empty.
    """

    kind: str
    count: int
    dtype: str
    runs_on: str
    weights: str = ""


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


AdviceKind = Literal["system", "refused", "accuracy", "neural engine", "speed"]


@dataclass(frozen=True)
class Advice:
    """Something about a shipped file that its maker should know before it meets a device.

    Attributes:
        kind: `system`: the least version of the system; `refused`: it will not load or run; `accuracy`: answers may be
            wrong; `neural engine`: work that is done elsewhere; `speed`: slower or larger than it need be.
        where: The ops, inputs or states that it is about.
        message: What was seen, and what to do.
        source: Address of who says so.
    """

    kind: AdviceKind
    where: str
    message: str
    source: str


@dataclass(frozen=True)
class PackageValue:
    """An input, state or output of a package's function.

    Attributes:
        role: Which of them it is.
        dtype: The target's own name of its element type.
        shape: None where a size varies, None altogether where the rank does.
        picture: For a picture, its channel order.
        sizes: For each axis the least and the greatest size, None for no bound, where they come from a range.
        choices: The shapes that are allowed, where they are enumerated.
    """

    name: str
    role: Literal["input", "state", "output"]
    dtype: str
    shape: tuple[int | None, ...] | None
    picture: str | None = None
    sizes: tuple[tuple[int, int | None], ...] | None = None
    choices: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class PackageFunction:
    """One function of a package, with what it takes, keeps and returns, and its ops."""

    name: str
    values: tuple[PackageValue, ...]
    ops: tuple[OpCount, ...]


@dataclass(frozen=True)
class Package:
    """What is in a target's own package, whoever wrote it.

    Attributes:
        functions: The default one first.
        declares: The least version of each platform that it says it needs; empty where the format's version is unknown.
        needs: The least version that has all that it uses.
        because: What of it needs that version; empty where any version that takes such packages does.
        files: Sizes in bytes, by path.
    """

    functions: tuple[PackageFunction, ...]
    declares: Mapping[str, str]
    needs: Mapping[str, str]
    because: tuple[str, ...]
    files: Mapping[str, int]
    advice: tuple[Advice, ...]


@dataclass(frozen=True)
class OpCoverage:
    """Whether a runtime of ours knows an op of its target's format, and what shows it.

    Attributes:
        kind: The target's own name of the op.
        opsets: The opsets that defined it, the oldest first.
        oracles: What its results are compared with by tests; empty for an op that is not covered.
        reason: Why it is not covered; empty for one that is.
    """

    kind: str
    opsets: tuple[str, ...]
    oracles: tuple[str, ...]
    reason: str = ""

    @property
    def covered(self) -> bool:
        return bool(self.oracles)


Verdict = Literal["fits", "near", "mask", "underflow", "overflow"]


@dataclass(frozen=True)
class OpRange:
    """What the values of one op span in float32, over all samples, and what float16 would make of them.

    Attributes:
        place: `component/module` that it stands in, such as `encode_image/blocks.3.mlp.fc1`.
        kind: ATen's name of it, such as `linear`; `constant` is a weight, a bias or a mask.
        precision: What the target computes it in.
        peak: Largest magnitude.
        least: Smallest magnitude but zero.
        typical: Root mean square, zeros aside.
        below_normal: Share of the values, zeros aside, that are below float16's smallest normal number, 6.1e-5.
        sum_of_squares: Largest one that the op, a norm, adds up inside; None elsewhere.
        verdict: `near` is within a factor of four of 65,504; `mask` is beyond it, and harmless. The converters say
            what the others mean (`converters/audit.py`).
        float32_ops: Places to keep in float32 so that the values survive; empty where they do anyway.
    """

    place: str
    kind: str
    precision: Literal["fp32", "fp16"]
    peak: float
    least: float
    typical: float
    below_normal: float
    sum_of_squares: float | None
    verdict: Verdict
    float32_ops: tuple[str, ...]

    @property
    def headroom(self) -> float:
        """How many times larger the values could be in float16."""
        return float(np.finfo(np.float16).max) / self.peak


class Converter(Protocol):
    """Lowers programs to one target."""

    target: str

    def unsupported(self, programs: Programs, recipe: Recipe) -> tuple[Unsupported, ...]:
        """What this target cannot hold; asked before the long work starts."""

    def audit(
        self, programs: Programs, recipe: Recipe, samples: Mapping[str, Array], progress: Progress
    ) -> tuple[OpRange, ...]:
        """What the values of every op span; asked before an fp16 conversion. Nothing where arithmetic is float32.

        Args:
            programs: In float32.
            recipe: Whose `float32_ops` stay in float32.
            samples: Rows by the name of the input tensor.
            progress: Told how far it is.

        Raises:
            RecipeError: `recipe.float32_ops` names something that is not there.
        """

    def lower(self, programs: Programs, recipe: Recipe, out_dir: Path) -> tuple[BundleFile, ...]:
        """Writes the artefact below `out_dir`. The same programs give the same bytes."""


@runtime_checkable
class Forecaster(Protocol):
    """A converter that can also say beforehand what its artefact will take; a target of one's own need not."""

    def forecast(self, outlines: Mapping[str, Outline], recipe: Recipe) -> Footprint:
        """What is expected of an artefact; asked before anything is converted, its own packages perhaps not installed.

        Args:
            outlines: By component, with what the recipe makes of each constant.
            recipe: One that the target does not refuse.
        """


class Session(Protocol):
    """An open bundle that can run; a context manager."""

    evidence: str
    """What its answers prove: `host-runtime`, `program-semantics` or `device`."""

    def run(self, component: str, inputs: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
        """Runs one component once.

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


@runtime_checkable
class Adviser(Protocol):
    """A runtime that can also say what its target's devices make of a bundle; most cannot."""

    def advice(self, bundle: Bundle) -> dict[str, tuple[Advice, ...]]:
        """What is known against each component."""


@runtime_checkable
class PackageReader(Protocol):
    """A runtime that can also look into its target's own packages outside a bundle."""

    def read_package(self, path: Path) -> Package: ...


@runtime_checkable
class Evaluator(Protocol):
    """A runtime that computes its target's ops itself, and so can say which."""

    def op_coverage(self) -> tuple[OpCoverage, ...]:
        """Every op of the format, by name."""
