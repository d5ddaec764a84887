"""How well a model does that was compressed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """How well one set of answers does.

    Attributes:
        accuracy: Share of the pictures that were given their own words, or of the questions that were answered rightly,
            0..1.
        agreement: Share of them that were given the words that the float model gives them, right or wrong; of a model
            that talks, share of the float model's tokens that were the most probable, 0..1.
        distance: From the float model: 1 minus the mean cosine of picture embeddings, the float model's mean embedding
            removed; of a model that talks, the mean Kullback-Leibler divergence of a token's probabilities, in nats.
    """

    accuracy: float
    agreement: float
    distance: float
