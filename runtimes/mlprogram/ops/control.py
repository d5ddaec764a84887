"""Branches and loops."""

from __future__ import annotations

import torch

from edgevlm.errors import BundleError, UnsupportedError
from edgevlm.runtimes.mlprogram.ops.registry import Branch, Values, op

MOST_ROUNDS = 1_000_000
"""A loop that goes on for longer is taken for one that never ends."""


@op("cond")
def cond(pred: bool, true_branch: Branch, false_branch: Branch) -> Values:
    return true_branch() if pred else false_branch()


@op("while_loop")
def while_loop(loop_vars: Values, condition: Branch, body: Branch) -> Values:
    for _ in range(MOST_ROUNDS):
        (goes_on,) = condition(*loop_vars)
        if not isinstance(goes_on, torch.Tensor) or goes_on.numel() != 1:
            raise BundleError("a loop's condition is not one truth value", hint="convert the model again")
        if not goes_on.item():
            return loop_vars
        loop_vars = body(*loop_vars)
    raise UnsupportedError(f"the loop has not ended after {MOST_ROUNDS:,} rounds")
