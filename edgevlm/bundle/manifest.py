"""What `manifest.json` holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgevlm.bundle.integer_weights import WeightProof
from edgevlm.bundle.recipe import Recipe
from edgevlm.bundle.spec import (
    ComponentSpec,
    ImagePreprocessing,
    Source,
    TextPreprocessing,
)

FORMAT_VERSION = "1.3"
MANIFEST = "manifest.json"
SUFFIX = ".edgevlm"


@dataclass(frozen=True)
class BundledComponent:
    """A component and the file, or package folder, that answers it."""

    spec: ComponentSpec
    file: str


@dataclass(frozen=True)
class FileRecord:
    """What a file of the bundle must be."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class ParityCheck:
    """One comparison of the shipped file with the float reference.

    Attributes:
        component: Which component, or `zero-shot` for answers that need both towers.
        measure: `max_abs_error`, `min_cosine`, `centred_cosine`, `top1_agreement` or `finite`.
        value: What was measured.
        limit: What the recipe allows; None where the recipe sets no limit.
        passed: Whether the value is within the limit.
    """

    component: str
    measure: str
    value: float
    limit: float | None
    passed: bool


@dataclass(frozen=True)
class ParityReport:
    """All comparisons of one artefact.

    Attributes:
        evidence: `host-runtime` (the target's own runtime on the converting machine), `program-semantics` (the
            ML Program evaluator) or `device` (Apple's runtime).
        samples: Number of pictures compared.
        checks: The comparisons.
    """

    evidence: str
    samples: int
    checks: tuple[ParityCheck, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


@dataclass(frozen=True)
class Labels:
    """A baked label set: `classify` answers in this order.

    >>> labels = edgevlm.Labels(names=("a cat", "a dog"), templates=("a photo of {}", "a drawing of {}"))
    >>> labels.names.index("a dog")  # the column of its scores
    1

    Attributes:
        names: What the answers are called.
        templates: Texts in which `{}` stands for the name.
        texts: For each label the texts whose embeddings were averaged, where descriptions are part of them; None
            where they are the filled templates.
    """

    names: tuple[str, ...]
    templates: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...] | None = None


@dataclass(frozen=True)
class CalibrationRecord:
    """The data that ranges were measured on.

    Attributes:
        data: What a user called it.
        texts: The file that texts came from; None where they are the data's own.
        samples: Number of pictures.
        seed: Of their choice.
        fingerprint: Hash of what was chosen.
    """

    data: str
    texts: str | None
    samples: int
    seed: int
    fingerprint: str


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` holds. Field order is the file's.

    Attributes:
        estimated_peak_memory_bytes: What the target's engine adds to a process at most while it opens the artefact and
            runs the component that needs most: weights as it keeps them, activations, the mapped file and its own
            library. A target that does not say: weights in float32 and activations.
        compressed_size_bytes: What the artefact's files come to in a compressed download (deflate); since 1.1.
        calibration: What ranges were measured on; None where none were; since 1.1.
        weights: Proof for each component whose weights are integers; since 1.1.
        multiply_adds: Of each component's convolutions, matrix products and attention; since 1.2.
    """

    format_version: str
    name: str
    target: str
    components: Mapping[str, BundledComponent]
    image: ImagePreprocessing
    text: TextPreprocessing | None
    labels: Labels | None
    embedding_dim: int
    logit_scale: float
    embedding_space_id: str
    recipe: Recipe
    source: Source
    requires: Mapping[str, str]
    estimated_peak_memory_bytes: int
    parity: ParityReport | None
    tool_versions: Mapping[str, str]
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    compressed_size_bytes: int | None = None
    calibration: CalibrationRecord | None = None
    weights: tuple[WeightProof, ...] = ()
    multiply_adds: Mapping[str, int] = field(default_factory=dict)
