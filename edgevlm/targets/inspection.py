"""What a runtime can tell of an artefact: its ops, advice, packages and coverage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from edgevlm.bundle.bundle import Bundle


@dataclass(frozen=True)
class OpCount:
    """How many ops of one kind a component has, in which precision, and who runs them.

    >>> bundle = edgevlm.Bundle.open("dist/edgevlm-student-coreml-fp16.edgevlm")
    >>> from edgevlm.targets import registry
    >>> counts = registry.runtime("coreml").inspect(bundle)["encode_image"]
    >>> {each.runs_on for each in counts}
    {'evaluator'}

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


AdviceKind = Literal["system", "refused", "accuracy", "neural engine", "speed"]
Addressee = Literal["app", "model", "converter"]


@dataclass(frozen=True)
class Advice:
    """Something about a shipped file that should be known before it meets a device.

    Attributes:
        to: Who can act on it. `app`: whoever embeds the file, and chooses the recipe, what the app computes itself, and
            on which devices that is tried; `model`: who designs and trains the network; `converter`: who writes its
            graph, which is EdgeVLM for a bundle.
        kind: `system`: the least version of the system; `refused`: it will not load or run; `accuracy`: answers may be
            wrong; `neural engine`: work that is done elsewhere; `speed`: slower or larger than it need be.
        where: The ops, inputs or states that it is about.
        message: What was seen, and what to do.
        source: Address of who says so.
    """

    to: Addressee
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

    >>> bundle = edgevlm.Bundle.open("dist/edgevlm-student-coreml-fp16.edgevlm")
    >>> from edgevlm.targets import registry
    >>> package = registry.runtime("coreml").read_package(bundle.path / "encode_image.mlpackage")
    >>> [value.name for value in package.functions[0].values if value.role == "input"]
    ['pixels']

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


@runtime_checkable
class Adviser(Protocol):
    """A runtime that can also say what its target's devices, or the runners that apps have, make of a bundle.

    >>> bundle = edgevlm.Bundle.open("dist/edgevlm-student-coreml-fp16.edgevlm")
    >>> from edgevlm.targets import registry
    >>> sorted(registry.runtime("coreml").advice(bundle))
    ['encode_image', 'encode_text']
    """

    def advice(self, bundle: Bundle) -> dict[str, tuple[Advice, ...]]:
        """What is known against each component."""


@runtime_checkable
class PackageReader(Protocol):
    """A runtime that can also look into its target's own packages outside a bundle."""

    def read_package(self, path: Path) -> Package: ...


@runtime_checkable
class Evaluator(Protocol):
    """A runtime that computes its target's ops itself, and so can say which.

    >>> from edgevlm.targets import registry
    >>> coverage = registry.runtime("coreml").op_coverage()
    >>> [each.covered for each in coverage if each.kind == "conv"]
    [True]
    """

    def op_coverage(self) -> tuple[OpCoverage, ...]:
        """Every op of the format, by name."""
