"""Training with a recipe's pruning or rounding in place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from edgevlm.bundle.recipe import BUILTIN
from edgevlm.compression import recovery
from edgevlm.compression.pruning import prune
from edgevlm.compression.quantisation import quantise
from edgevlm.data.rendered import open_rendered
from edgevlm.distillation.distillation import Request, distill
from edgevlm.distillation.recipe import resolve as resolve_distillation
from edgevlm.errors import RecipeError
from edgevlm.inputs.pictures import preprocess
from edgevlm.models import builtin, catalogue
from edgevlm.models.students import folder as folders


def tower() -> nn.Module:
    return folders.read(builtin.FOLDERS[builtin.STUDENT]).image_tower


def pixels(count: int) -> torch.Tensor:
    student = folders.read(builtin.FOLDERS[builtin.STUDENT])
    data = open_rendered(f"scenes:train:{count}:5")
    return torch.cat([torch.from_numpy(preprocess(data.picture(index), student.image)) for index in range(count)])


def matrices(module: nn.Module) -> dict[str, torch.Tensor]:
    layers = {name: each for name, each in module.named_modules() if isinstance(each, nn.Linear | nn.Conv2d)}
    return {name: layer.weight.detach() for name, layer in layers.items()}


def steps(module: nn.Module, seen: torch.Tensor, count: int = 3) -> None:
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-3)
    for _ in range(count):
        optimiser.zero_grad()
        module(seen).square()[:, ::2].sum().backward()
        optimiser.step()


def test_pruned_weights_stay_zero_through_training() -> None:
    plain, seen = tower(), pixels(4)
    before = {name: weight.clone() for name, weight in matrices(plain).items()}
    prepared = recovery.prepare(plain, BUILTIN["prune-50"], seen[:1])
    steps(prepared, seen)
    assert all(torch.equal(before[name], weight) for name, weight in matrices(plain).items())
    recovery.finish(prepared, plain, seen[:1])
    for name, weight in matrices(plain).items():
        zeros = float((weight == 0).float().mean())
        assert 0.49 < zeros < 0.52, name
        smallest = before[name].abs() <= before[name].abs().flatten().median()
        assert float((weight[smallest] == 0).float().mean()) > 0.98, name
        assert not torch.equal(weight, before[name]), name


def test_the_conversion_prunes_what_training_held_at_zero_and_nothing_else() -> None:
    program = catalogue.load(builtin.STUDENT).programs["encode_image"]
    once = prune(program, BUILTIN["prune-50"])
    twice = prune(once, BUILTIN["prune-50"])
    for name, weight in matrices(once.module).items():
        assert torch.equal(weight, matrices(twice.module)[name]), name


@pytest.mark.parametrize("name", ["int8", "int8-static"])
def test_rounding_is_what_int8_does(name: str) -> None:
    plain, seen = tower().eval(), pixels(8)
    prepared = recovery.prepare(plain, BUILTIN[name], seen[:1])
    with torch.no_grad():
        for _ in range(3):
            prepared(seen)  # the ranges of activations follow what they see
        rounded, floats = prepared.eval()(seen), plain(seen)
    model = catalogue.load(builtin.STUDENT)
    samples = [row[None] for row in seen]
    quantised, _ = quantise(model.programs["encode_image"], BUILTIN[name], samples)
    with torch.no_grad():
        shipped = torch.cat([quantised.module(row) for row in samples])
    assert not torch.allclose(rounded, floats, atol=1e-4)
    # Training rounds each branch and each batch norm's convolution by itself; what ships has them in one.
    moved, shipped_moved = rounded - floats, shipped - floats
    assert 1 / 8 < float(moved.norm()) / float(shipped_moved.norm()) < 8


def test_rounding_has_gradients_and_leaves_float_weights() -> None:
    plain, seen = tower(), pixels(4)
    prepared = recovery.prepare(plain, BUILTIN["int8-static"], seen[:1])
    steps(prepared, seen, 1)
    assert all(parameter.grad is not None for parameter in prepared.parameters())
    recovery.finish(prepared, plain, seen[:1])
    for weight in matrices(plain).values():
        grid = weight.abs().flatten(1).amax(1).clamp_min(1e-8).reshape(-1, *[1] * (weight.ndim - 1)) / 127
        assert float(((weight / grid) - (weight / grid).round()).abs().max()) > 1e-3  # not rounded


@pytest.mark.slow
def test_a_run_leaves_a_student_with_exact_zeros_that_converts_to_the_same_ones(tmp_path: Path) -> None:
    recipe = resolve_distillation("recovery")
    schedule = replace(recipe.schedule, epochs=1, batch_size=16)
    request = Request(
        (builtin.TEACHER,),
        builtin.STUDENT,
        "scenes:train:48:2",
        replace(recipe, schedule=schedule),
        tmp_path / "student",
        compress=BUILTIN["prune-50"],
        workers=0,
        cache=tmp_path / "cache",
    )
    distilled = distill(request)
    student = folders.read(distilled.folder)
    assert student.provenance["compress"] == "prune-50"
    shares = [float((weight == 0).float().mean()) for weight in matrices(student.image_tower).values()]
    assert min(shares) > 0.49
    program = catalogue.load(distilled.folder).programs["encode_image"]
    pruned = prune(program, BUILTIN["prune-50"])
    for name, weight in matrices(program.module).items():
        assert torch.equal(weight, matrices(pruned.module)[name]), name


@pytest.mark.parametrize("name", ["fp16", "palette-4", "int4-weights"])
def test_a_recipe_without_anything_to_train_around_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match="expected pruned or int8 weights"):
        recovery.check(BUILTIN[name])
