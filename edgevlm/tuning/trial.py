"""One recipe that was tried."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgevlm.bundle.recipe import ParityLimits, Recipe
from edgevlm.tuning.score import Score


@dataclass(frozen=True)
class Trial:
    """One recipe, converted and measured.

    Attributes:
        recipe: As it would be written to a file.
        score: Of the artefact on the task.
        size_bytes: Of the artefact's files.
        compressed_size_bytes: The same in a compressed download.
        latency_ratio: CPU time of one picture and one text, or of one token, against float32's on the same runtime,
            here; None where this machine's time says nothing of a device's (Core ML off Apple).
        drop: Accuracy lost, in points (hundredths).
        kept: Least cosine and agreement with the float model on the samples that every conversion is proved on.
        error: Why there is no artefact, or none whose answers are numbers; the other figures are zero then.
    """

    recipe: Recipe
    score: Score
    size_bytes: int
    compressed_size_bytes: int
    latency_ratio: float | None
    drop: float
    kept: ParityLimits = field(default_factory=ParityLimits)
    error: str | None = None
