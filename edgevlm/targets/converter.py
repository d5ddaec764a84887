"""The seam of conversion: what a target's converter must offer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np

from edgevlm.bundle.recipe import Recipe
from edgevlm.bundle.spec import Array
from edgevlm.graphs.program import Programs
from edgevlm.process.progress import Progress, silent

if TYPE_CHECKING:
    from edgevlm.bundle.dialogue import Dialogue
    from edgevlm.bundle.manifest import Manifest
    from edgevlm.graphs.outline import Outline


@dataclass(frozen=True)
class Unsupported:
    """Something that a target cannot hold, with the nearest thing that it can.

    >>> Unsupported("the precision fp16", instead="--recipe fp32").instead
    '--recipe fp32'
    """

    what: str
    instead: str


@dataclass(frozen=True)
class BundleFile:
    """A file, or a folder that the target regards as one, which `Converter.lower` wrote.

    >>> file = BundleFile("model.tflite", components=("encode_image", "encode_text"), requires={"LiteRT": "2.18.0"})
    >>> file.pictures
    ()

    Attributes:
        path: Relative to the `out_dir` that `lower` was given.
        components: Names of the components that it answers.
        requires: Least version of each platform or runtime that can load it, e.g. `{"iOS": "16"}`.
        pictures: Names of the inputs that it takes as pictures rather than as the arrays of their specs.
    """

    path: str
    components: tuple[str, ...]
    requires: Mapping[str, str] = field(default_factory=dict)
    pictures: tuple[str, ...] = ()


Verdict = Literal["fits", "near", "mask", "underflow", "overflow"]


@dataclass(frozen=True)
class OpRange:
    """What the values of one op span in float32, over all samples, and what float16 would make of them.

    >>> place, kind, peak = "encode_image/blocks.3.mlp.fc1", "linear", 1310.08
    >>> OpRange(place, kind, "fp16", peak, 1e-4, 8.0, 0.0, None, "fits", ()).headroom
    50.0

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
    """Lowers programs to one target.

    >>> from edgevlm.targets import registry
    >>> converter = registry.converter("executorch")  # examples/custom_target.py is one of somebody's own
    >>> [each.instead for each in converter.unsupported({}, edgevlm.Recipe.load("fp32"))]
    []
    """

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

    def lower(
        self, programs: Programs, recipe: Recipe, out_dir: Path, progress: Progress = silent
    ) -> tuple[BundleFile, ...]:
        """Writes the artefact below `out_dir`. The same programs give the same bytes.

        Args:
            programs: Under the name that the file has for each, mostly its component's, which is `spec.name`. Of a
                component that is run with several lengths there is one for each, and weights are stored once.
            recipe: Which made them.
            out_dir: An empty folder.
            progress: Told how far it is.
        """


@runtime_checkable
class Arranger(Protocol):
    """A converter in whose file the components of a model that talks stand its own way.

    Of any other target there is a function for each length of each component; see `graphs.program.unrolled`.
    """

    def arrange(self, programs: Programs, dialogue: Dialogue) -> Programs:
        """The functions of the file, by the names that it has for them; asked before anything is compressed.

        Args:
            programs: By component.
            dialogue: Whose.
        """


@runtime_checkable
class Forecaster(Protocol):
    """A converter that can also say beforehand what its artefact will take; a target of one's own need not.

    >>> from edgevlm.targets import registry
    >>> isinstance(registry.converter("tflite"), Forecaster)
    True
    """

    def forecast(self, outlines: Mapping[str, Outline], recipe: Recipe) -> Footprint:
        """What is expected of an artefact; asked before anything is converted, its own packages perhaps not installed.

        Args:
            outlines: By component, with what the recipe makes of each constant.
            recipe: One that the target does not refuse.
        """


@runtime_checkable
class Describer(Protocol):
    """A converter whose files have a place for what the manifest says: names, licence, labels; most have none.

    >>> from edgevlm.targets import registry
    >>> isinstance(registry.converter("coreml"), Describer)
    True
    """

    def describe(self, manifest: Manifest, folder: Path) -> None:
        """Writes that into the files that `lower` wrote. The same manifest gives the same bytes.

        Args:
            manifest: Of the bundle that they are part of; its sizes, proofs and list of files are not known yet.
            folder: What `lower` was given.
        """


@dataclass(frozen=True)
class Footprint:
    """What an artefact takes, or is expected to.

    >>> Footprint(2_000_000, 9_000_000, 3_000_000, {"iOS": "16"}, "as Core ML plans it").peak_memory_bytes
    12000000

    Attributes:
        size_bytes: Of the files that an app ships.
        anonymous_bytes: Most memory of the engine's own while it opens the artefact and runs the component that needs
            most: packed weights, activations, bookkeeping. What the process had before is not counted.
        mapped_bytes: Pages of files that are resident beside it, the artefact's and the engine's library's. The system
            may drop them and read them again.
        requires: Least version of each platform or runtime, as in `BundleFile.requires`.
        basis: How the memory came about, in words.
    """

    size_bytes: int
    anonymous_bytes: int
    mapped_bytes: int
    requires: Mapping[str, str]
    basis: str

    @property
    def peak_memory_bytes(self) -> int:
        return self.anonymous_bytes + self.mapped_bytes
