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

from edgevlm.bundle.recipe import Recipe
from edgevlm.graphs.capture import plain_attention
from edgevlm.graphs.program import Program
from edgevlm.process.quiet import quiet


def prune(program: Program, recipe: Recipe) -> Program:
    """The program with `recipe.weights.sparsity` of each weight set to zero.

    Args:
        program: In float32; its module is left as it is.
        recipe: One with a sparsity; its `float_layers` are left as they are here as well.
    """
    chosen = {
        f"{name}.weight"
        for name, module in program.module.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding)
        and not any(fnmatchcase(f"{program.spec.name}/{name}", pattern) for pattern in recipe.weights.float_layers)
    }
    # NNCF prunes every constant of a product, such as a pooling head's query, and then cannot write buffers back.
    tensors = (*program.module.named_parameters(), *program.module.named_buffers())
    others = [name for name, _ in tensors if name not in chosen]
    with quiet(), torch.no_grad(), plain_attention():
        pruned = nncf.prune(
            copy.deepcopy(program.module),
            nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_LOCAL,
            ratio=recipe.weights.sparsity,
            ignored_scope=nncf.IgnoredScope(names=others, validate=False),
            examples_inputs=program.example,
        )
        stripped = nncf.strip(pruned, strip_format=nncf.StripFormat.IN_PLACE, example_input=program.example)
    return replace(program, module=stripped.eval().requires_grad_(False))
