"""How near a device must come to golden's results: a number for each stage, and which answers are farther off."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from edgevlm.bundle.dialogue import LOGITS
from edgevlm.bundle.golden import SCORE_ERROR, Golden, Measure, Side, Tolerance, arithmetic
from edgevlm.bundle.manifest import Manifest
from edgevlm.inference.embeddings import cosines
from edgevlm.inputs.rows import SCORES
from edgevlm.parity.comparison import Answers, scale_of

_JPEG_MEAN_LEVELS = 4.0
"""Decoders differ in how they scale colour up: by 1.6 grey levels in the mean, and a picture turned wrongly by 20."""


def tolerances(golden: Golden, manifest: Manifest, sides: Mapping[Side, Answers]) -> tuple[Tolerance, ...]:
    """The tolerance of each stage, in the order of the stages.

    From the shipped file's own answers a device may be as far as its arithmetic takes it. From the reference's it may
    be as far as the recipe allows, or, where that is more, as far as the shipped file itself is on these samples and
    its arithmetic on top: what is near enough to the file's answers is near enough to the reference's.

    Args:
        golden: Whose pictures, texts and scores they are for.
        manifest: With the recipe's limits.
        sides: What the reference and the shipped file answered to golden's samples.
    """
    found = [
        Tolerance("png", "reference", "max_abs_error", 0.0),
        Tolerance("jpeg", "reference", "mean_abs_error", _JPEG_MEAN_LEVELS),
    ]
    if golden.texts:
        found.append(Tolerance("token_ids", "reference", "max_abs_error", 0.0))
    promised, apart = manifest.recipe.parity, arithmetic(manifest.recipe)
    for stage, measure, value in _distances(sides["reference"], sides["shipped"]):
        if measure == "min_cosine":
            own = apart.min_cosine
            turned = math.cos(min(_angle(value) + _angle(own), math.pi))
            farthest = turned if promised.min_cosine is None else min(turned, promised.min_cosine)
        else:
            scale = scale_of(stage.rpartition(".")[2], manifest.embedding.logit_scale)
            own = scale * apart.max_abs_error
            farthest = max(value + own, scale * (promised.max_abs_error or 0.0))
        found += [Tolerance(stage, "reference", measure, farthest), Tolerance(stage, "shipped", measure, own)]
    if any(golden.scores):
        found.append(
            Tolerance("scores", "reference", "max_abs_error", SCORE_ERROR * max(1.0, manifest.embedding.logit_scale))
        )
    return tuple(found)


def exceeded(allowed: tuple[Tolerance, ...], side: Side, expected: Answers, got: Answers) -> Iterator[str]:
    """What is farther off than a tolerance allows, in words.

    Args:
        allowed: Golden's.
        side: Whose answers are expected.
        expected: These.
        got: Those to hold against them.
    """
    limits = {(each.stage, each.measure): each.limit for each in allowed if each.beside == side}
    for stage, measure, value in _distances(expected, got):
        limit = limits[stage, measure]
        if not (value >= limit if measure == "min_cosine" else value <= limit):
            whose = "the shipped file's" if side == "shipped" else "the reference's"
            yield f"{stage}: {measure} is {value:.6g}, and the tolerance beside {whose} answers is {limit:.6g}"


def _distances(expected: Answers, got: Answers) -> Iterator[tuple[str, Measure, float]]:
    """Stage, measure and value of each output."""
    for component, outputs in got.items():
        for output, rows in outputs.items():
            stage, other = f"{component}.{output}", expected[component][output]
            yield stage, "max_abs_error", float(np.abs(rows.astype(np.float64) - other).max())
            if output not in (SCORES, LOGITS):
                yield stage, "min_cosine", float(cosines(other, rows).min())


def _angle(cosine: float) -> float:
    return math.acos(max(-1.0, min(1.0, cosine)))
