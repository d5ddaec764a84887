"""Recovery training: the student is trained with its recipe's pruning or quantisation in place, and learns around it.

Pruned weights are held at zero by NNCF's masks. For int8, weights pass through the rounding of their grid, and where
the recipe fixes ranges the inputs of their layers through that of int8 activations, with straight-through gradients
(Jacob et al., arXiv 1712.05877). The rounding is torchao's: NNCF's own is a C++ extension that wants a compiler on the
machine that trains. A recipe that prunes and quantises is trained with the pruning alone, the larger loss by far.

What is saved is an ordinary student in float: its zeros are exact, and `edgevlm convert` decides on its integers anew.
"""

from __future__ import annotations

import copy

import nncf  # type: ignore[import-untyped]
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torchao.quantization.pt2e import MovingAverageMinMaxObserver  # type: ignore[import-untyped]
from torchao.quantization.pt2e.fake_quantize import FakeQuantize  # type: ignore[import-untyped]

from edgevlm.bundle.recipe import Recipe
from edgevlm.errors import RecipeError
from edgevlm.graphs.capture import plain_attention
from edgevlm.process.quiet import quiet

_LAYERS = nn.Linear | nn.Conv2d
_LEAST_SCALE = 1e-8


def check(recipe: Recipe) -> None:
    """Raises RecipeError for a recipe that there is nothing to train around."""
    if not recipe.weights.sparsity and recipe.weights.dtype != "int8":
        raise RecipeError(
            f"recipe {recipe.name}: expected pruned or int8 weights to train with, got {recipe.weights.dtype}",
            hint="int8, int8-static, prune-50 and prune-50-int8 can be trained back",
        )


def prepare(tower: nn.Module, recipe: Recipe, example: Tensor) -> nn.Module:
    """The tower with masks or rounding in place, in train mode, sharing no weight with the given one.

    Args:
        tower: Pixels [N, 3, H, W] -> unit vectors.
        recipe: One that `check` lets through.
        example: Pixels [1, 3, H, W].
    """
    made = copy.deepcopy(tower)
    if recipe.weights.sparsity:
        with quiet(), plain_attention():
            made = nncf.prune(
                made.eval(),
                nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_LOCAL,
                ratio=recipe.weights.sparsity,
                examples_inputs=example,
            )
    else:
        for layer in [each for each in made.modules() if isinstance(each, _LAYERS)]:
            parametrize.register_parametrization(layer, "weight", _RoundedWeight())
            if recipe.activations.ranges == "static":
                layer.rounded_input = _rounded_input()
                layer.register_forward_pre_hook(_round_input)
    return made.train().requires_grad_(True)


@torch.no_grad()
def finish(prepared: nn.Module, tower: nn.Module, example: Tensor) -> None:
    """Puts trained weights into the tower that was prepared: pruned ones with their zeros, others unrounded.

    Args:
        prepared: From `prepare`, trained.
        tower: What it was made from; changed in place.
        example: Pixels [1, 3, H, W].
    """
    made = copy.deepcopy(prepared).eval()
    if any("nncf" in name for name, _ in made.named_modules()):
        with quiet(), plain_attention():
            made = nncf.strip(made, strip_format=nncf.StripFormat.IN_PLACE, example_input=example)
    for layer in made.modules():
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    trained = made.state_dict()
    tower.load_state_dict({name: trained[name] for name in tower.state_dict()})


class _RoundedWeight(nn.Module):
    """A weight on its int8 grid: -127..127, a scale per output channel, as the conversion has it."""

    def forward(self, weight: Tensor) -> Tensor:
        largest = weight.detach().abs().flatten(1).amax(1)
        scale = (largest / 127).clamp_min(_LEAST_SCALE)
        return torch.fake_quantize_per_channel_affine(
            weight, scale, torch.zeros_like(scale, dtype=torch.int32), 0, -127, 127
        )


def _rounded_input() -> nn.Module:
    """Rounds to int8 in a range that follows what it sees."""
    made: nn.Module = FakeQuantize(
        observer=MovingAverageMinMaxObserver,
        quant_min=-128,
        quant_max=127,
        dtype=torch.int8,
        qscheme=torch.per_tensor_affine,
    )
    return made


def _round_input(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    rounded: Tensor = layer.rounded_input(inputs[0])  # type: ignore[operator]
    return (rounded, *inputs[1:])
