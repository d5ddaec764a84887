"""Branches and loops."""

from __future__ import annotations

import torch

from edgevlm.errors import BundleError
from edgevlm.runtimes.mlprogram.ops.registry import Branch, Values, op


@op("cond")
def cond(pred: bool, true_branch: Branch, false_branch: Branch) -> Values:
    return true_branch() if pred else false_branch()


@op("while_loop")
def while_loop(loop_vars: Values, condition: Branch, body: Branch) -> Values:
    while True:  # the plan counts what runs in nested blocks, and ends what never would
        (goes_on,) = condition(*loop_vars)
        if not isinstance(goes_on, torch.Tensor) or goes_on.numel() != 1:
            raise BundleError("a loop's condition is not one truth value", hint="convert the model again")
        if not goes_on.item():
            return loop_vars
        loop_vars = body(*loop_vars)
