"""Sets a share of each weight to zero with NNCF: the smallest magnitudes.

Unstructured pruning shrinks what is stored sparsely, a Core ML package, and what is compressed on its way to a device.
A .tflite and a .pte stay as large as they were, and no target gets faster: for that, see
`edgevlm.compression.structured`.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from fnmatch import fnmatchcase

import nncf  # type: ignore[import-untyped]
import torch
from torch import nn

from edgevlm.capture import plain_attention, quiet
from edgevlm.interfaces import Program
from edgevlm.recipe import Recipe


def prune(program: Program, recipe: Recipe) -> Program:
    """The program with `recipe.weights.sparsity` of each weight set to zero.

    Args:
        program: In float32; its module is left as it is.
        recipe: One with a sparsity; its `float_layers` are left as they are here as well.
    """
    nncf.set_log_level(40)  # errors only
    kept = [
        name
        for name, module in program.module.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding)
        and any(fnmatchcase(f"{program.spec.name}/{name}", pattern) for pattern in recipe.weights.float_layers)
    ]
    with quiet(), torch.no_grad(), plain_attention():
        pruned = nncf.prune(
            copy.deepcopy(program.module),
            nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_LOCAL,
            ratio=recipe.weights.sparsity,
            ignored_scope=nncf.IgnoredScope(patterns=[f"{name.replace('.', '/')}.*" for name in kept]),
            examples_inputs=program.example,
        )
        stripped = nncf.strip(pruned, strip_format=nncf.StripFormat.IN_PLACE, example_input=program.example)
    return replace(program, module=stripped.eval().requires_grad_(False))
