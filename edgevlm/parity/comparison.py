"""How far an artefact's answers are from the float reference's, and whether that is within the recipe's limits.

Everything here works on arrays: whose they are, and how they were computed, is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.manifest import ParityCheck
from edgevlm.bundle.recipe import ParityLimits
from edgevlm.bundle.spec import F32
from edgevlm.targets.runtime import Session

TIE = 1e-6
"""Scores closer than this are equal: float32 cosines carry an error of that size."""


@dataclass(frozen=True)
class Samples:
    """What both sides answer.

    Attributes:
        pixels: float32 [N, 3, H, W] in 0..255.
        token_ids: int32 [M, L].
    """

    pixels: F32
    token_ids: NDArray[np.int32]


@dataclass(frozen=True)
class Answers:
    """What one side answered; None where it has no such component.

    Attributes:
        image: float32 [N, D], from `encode_image`.
        text: float32 [M, D], from `encode_text`.
        scores: float32 [N, labels], from `classify`.
    """

    image: F32 | None
    text: F32 | None
    scores: F32 | None


def ask(session: Session, components: tuple[str, ...], samples: Samples, step: Callable[[float], None]) -> Answers:
    """Runs a session on every sample, one at a time, as a device would.

    Args:
        session: An open bundle.
        components: Which of the three components it has.
        samples: The inputs.
        step: Told the share that is done, 0..1.
    """
    inputs = {"encode_image": "pixels", "encode_text": "token_ids", "classify": "pixels"}
    outputs = {"encode_image": "embedding", "encode_text": "embedding", "classify": "scores"}
    rows = {name: samples.pixels if inputs[name] == "pixels" else samples.token_ids for name in components}
    total, done = sum(map(len, rows.values())), 0
    found: dict[str, F32] = {}
    for name, values in rows.items():
        answers = []
        for row in values:
            answers.append(session.run(name, {inputs[name]: row[None]})[outputs[name]][0])
            done += 1
            step(done / total)
        found[name] = np.stack(answers)
    return Answers(found.get("encode_image"), found.get("encode_text"), found.get("classify"))


def compare(
    reference: Answers, artefact: Answers, limits: ParityLimits, *, logit_scale: float = 1.0
) -> tuple[ParityCheck, ...]:
    """Every check that the two sides' common components allow.

    Embeddings are compared by largest absolute difference and least cosine, answers by the share of pictures
    with the same best text (`zero-shot`) or the same best label (`classify`). NaN and infinity fail by themselves.

    `max_abs_error` is an embedding's. A softmax passes on at most half of a logit's error, and a logit has
    `logit_scale` times a cosine's: so much more may scores differ, and no less than embeddings.
    """
    checks: list[ParityCheck] = []
    for component, expected, got in (
        ("encode_image", reference.image, artefact.image),
        ("encode_text", reference.text, artefact.text),
        ("classify", reference.scores, artefact.scores),
    ):
        if expected is not None and got is not None:
            factor = max(1.0, logit_scale / 2) if component == "classify" else 1.0
            checks += _compare_arrays(component, expected, got, limits, factor)
    expected_scores, scores = _zero_shot(reference), _zero_shot(artefact)
    if expected_scores is not None and scores is not None:
        checks.append(_top1("zero-shot", expected_scores, scores, limits))
    return tuple(checks)


def _zero_shot(answers: Answers) -> F32 | None:
    if answers.image is None or answers.text is None:
        return None
    scores: F32 = answers.image @ answers.text.T
    return scores


def _compare_arrays(component: str, expected: F32, got: F32, limits: ParityLimits, factor: float) -> list[ParityCheck]:
    finite = float(np.isfinite(got).mean())
    checks = [ParityCheck(component, "finite", finite, 1.0, finite == 1.0)]
    if finite < 1.0:
        return checks
    error = float(np.abs(got.astype(np.float64) - expected).max())
    allowed = None if limits.max_abs_error is None else factor * limits.max_abs_error
    checks.append(ParityCheck(component, "max_abs_error", error, allowed, allowed is None or error <= allowed))
    if component == "classify":
        return [*checks, _top1(component, expected, got, limits)]
    cosine = float(_cosines(expected, got).min())
    least = limits.min_cosine
    checks.append(ParityCheck(component, "min_cosine", cosine, least, least is None or cosine >= least))
    if np.ptp(expected, axis=0).any():
        checks.append(ParityCheck(component, "centred_cosine", _centred_cosine(expected, got), None, True))
    return checks


def _top1(component: str, expected: F32, got: F32, limits: ParityLimits) -> ParityCheck:
    """A pick also agrees where the reference's own best is ahead of it by less than float32 resolves: a tie."""
    picked = np.take_along_axis(expected, got.argmax(1)[:, None], axis=1)[:, 0]
    share = float((picked >= expected.max(1) - TIE).mean())
    least = limits.min_top1_agreement
    return ParityCheck(component, "top1_agreement", share, least, least is None or share >= least)


def _centred_cosine(expected: F32, got: F32) -> float:
    """The mean cosine once the reference's mean embedding is taken from both sides.

    Embeddings of one model share a large mean, so that plain cosines are near 1 whatever is left of the rest.
    """
    mean = expected.astype(np.float64).mean(0)
    return float(_cosines(expected - mean, got - mean).mean())


def _cosines(expected: F32, got: F32) -> NDArray[np.float64]:
    a, b = expected.astype(np.float64), got.astype(np.float64)
    cosines: NDArray[np.float64] = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return cosines
