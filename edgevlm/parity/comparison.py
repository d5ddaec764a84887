"""How far an artefact's answers are from the float reference's, and whether that is within the recipe's limits.

Everything here works on arrays: whose they are, and how they were computed, is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import combinations
from typing import TypeAlias

import numpy as np

from edgevlm.bundle.dialogue import LOGITS
from edgevlm.bundle.manifest import ParityCheck
from edgevlm.bundle.recipe import ParityLimits
from edgevlm.bundle.spec import F32, ComponentSpec
from edgevlm.inference.embeddings import centred_cosine, cosines
from edgevlm.inputs.rows import EMBEDDING, SCORES, Rows, inputs_of, is_answerable
from edgevlm.targets.runtime import Session

TIE = 1e-6
"""Scores closer than this are equal: float32 cosines carry an error of that size."""


Answers: TypeAlias = Mapping[str, Mapping[str, F32]]
"""What one side answered: component -> output -> rows, float32 [N, ...]."""


def ask(
    session: Session, specs: Iterable[ComponentSpec], rows: Rows, step: Callable[[float], None] = lambda share: None
) -> dict[str, dict[str, F32]]:
    """Runs a session's components on every row, one at a time, as a device would.

    Args:
        session: An open bundle.
        specs: The components to ask; those that there are no rows for are left out.
        rows: [N, ...] by the names of the inputs.
        step: Called with the share that is done, 0..1.
    """
    asked = {spec: inputs_of(spec, rows) for spec in specs if is_answerable(spec, rows)}
    total, done = sum(len(next(iter(inputs.values()))) for inputs in asked.values()), 0
    found: dict[str, dict[str, F32]] = {}
    for spec, inputs in asked.items():
        answers = []
        for row in range(len(next(iter(inputs.values())))):
            answers.append(session.run(spec.name, {name: each[row : row + 1] for name, each in inputs.items()}))
            done += 1
            step(done / total)
        found[spec.name] = {
            output.name: np.concatenate([answer[output.name] for answer in answers]) for output in spec.outputs
        }
    return found


def compare(
    reference: Answers, artefact: Answers, limits: ParityLimits, *, logit_scale: float = 1.0
) -> tuple[ParityCheck, ...]:
    """Every check that the two sides' common outputs allow.

    An output is compared by largest absolute difference, and by the least cosine of its rows, or, where it is
    `scores`, by the share of rows with the same best one; `logits` by the difference alone. Two components that answer
    with an `embedding` are compared as an app uses them, too: by the share of pictures with the same best text
    (`zero-shot`). NaN and infinity fail by themselves.

    `max_abs_error` is an embedding's. A logit has `logit_scale` times a cosine's error, and softmax and sigmoid pass on
    at most half of that: so much more may these differ, and no less than embeddings.
    """
    checks: list[ParityCheck] = []
    for component, outputs in artefact.items():
        for output, got in outputs.items():
            expected = reference.get(component, {}).get(output)
            if expected is not None:
                name = component if len(outputs) == 1 else f"{component}.{output}"
                checks += _compare_output(name, output, expected, got, limits, logit_scale)
    both = [component for component in artefact if component in reference]
    expected_scores, got_scores = (zero_shot({each: side[each] for each in both}) for side in (reference, artefact))
    for expected, got in zip(expected_scores, got_scores, strict=True):
        checks.append(_top1("zero-shot", expected, got, limits))
    return tuple(checks)


def scale_of(output: str, logit_scale: float) -> float:
    """How many times an embedding's largest error an output of that name may be off; see `compare`."""
    return max(1.0, logit_scale * {LOGITS: 1.0, SCORES: 0.5}.get(output, 0.0))


def zero_shot(answers: Answers) -> list[F32]:
    """For each two components with an `embedding`, the cosines of every row of one with every row of the other."""
    embeddings = [outputs[EMBEDDING] for outputs in answers.values() if EMBEDDING in outputs]
    return [images @ texts.T for images, texts in combinations(embeddings, 2)]


def _compare_output(
    name: str, output: str, expected: F32, got: F32, limits: ParityLimits, logit_scale: float
) -> list[ParityCheck]:
    finite = float(np.isfinite(got).mean())
    checks = [ParityCheck.of(name, "finite", finite, 1.0)]
    if finite < 1.0:
        return checks
    factor = scale_of(output, logit_scale)
    error = float(np.abs(got.astype(np.float64) - expected).max())
    allowed = None if limits.max_abs_error is None else factor * limits.max_abs_error
    checks.append(ParityCheck.of(name, "max_abs_error", error, allowed))
    if output == SCORES:
        return [*checks, _top1(name, expected, got, limits)]
    if output == LOGITS:
        return checks
    cosine = float(cosines(expected, got).min())
    checks.append(ParityCheck.of(name, "min_cosine", cosine, limits.min_cosine))
    if np.ptp(expected, axis=0).any():
        checks.append(ParityCheck.of(name, "centred_cosine", centred_cosine(expected, got), None))
    return checks


def _top1(component: str, expected: F32, got: F32, limits: ParityLimits) -> ParityCheck:
    """A pick also agrees where the reference's own best is ahead of it by less than float32 resolves: a tie."""
    picked = np.take_along_axis(expected, got.argmax(1)[:, None], axis=1)[:, 0]
    share = float((picked >= expected.max(1) - TIE).mean())
    return ParityCheck.of(component, "top1_agreement", share, limits.min_top1_agreement)
