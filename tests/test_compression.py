"""Folding, quantising, grouping and pruning, on graphs alone: what is decided, and what is left as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import library
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from edgevlm.bundle.integer_weights import StoredWeight
from edgevlm.bundle.recipe import BUILTIN, Activations, ParityLimits, Recipe, Weights
from edgevlm.bundle.spec import ComponentSpec, TensorSpec
from edgevlm.compression.compression import Compressed, compress
from edgevlm.compression.folding import fold_layer_norms, fold_output_scales
from edgevlm.compression.layers import find_layers
from edgevlm.compression.pruning import prune
from edgevlm.compression.quantisation import quantise
from edgevlm.errors import RecipeError
from edgevlm.graphs.program import Program
from edgevlm.process.progress import silent

COMPONENTS = ("clip_image", "clip_text", "siglip_image", "siglip_text", "hybrid", "grid")
QUICK = ("clip_text", "hybrid")
EACH = [pytest.param(each, marks=() if each in QUICK else pytest.mark.slow) for each in COMPONENTS]
RECIPES = ("int8", "int8-static", "int8-weights", "int4-weights", "prune-50-int8")
# Of networks with random weights, a few dozen wide.
LEAST_COSINES = {"int8": 0.9995, "int8-weights": 0.9995, "int8-static": 0.95, "int4-weights": 0.88}


def compressed(name: str, component: str) -> Compressed:
    return library.compressed(name, (component,))


def program(module: nn.Module, *shape: int) -> Program:
    """A module of float features as a component, its weights random but the same each time."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    example = torch.rand(shape, generator=generator) * 2
    module = module.eval().requires_grad_(False)
    output = TensorSpec("embedding", "float32", tuple(module(example).shape), "any")
    spec = ComponentSpec("encode_image", (TensorSpec("features", "float32", shape, "any"),), (output,))
    return Program(spec, module, (example,))


def graph_of(module: nn.Module, example: tuple[Tensor, ...]) -> GraphModule:
    return torch.export.export(module, example, strict=False).module(check_guards=False)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_untouched(module: nn.Module, before: dict[str, Tensor]) -> None:
    after = module.state_dict()
    assert list(after) == list(before)
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


def recipe(name: str = "int8", **weights: Any) -> Recipe:
    return replace(BUILTIN[name], weights=replace(BUILTIN[name].weights, **weights))


def by_layer(decided: Sequence[StoredWeight]) -> dict[str, StoredWeight]:
    return {weight.layer: weight for weight in decided}


def widened(weight: StoredWeight) -> np.ndarray:
    """`scale * values`, a scale a group of second indices."""
    values = weight.values.astype(np.float64).reshape(*weight.scale.shape, -1)
    return (values * weight.scale[..., None]).reshape(weight.values.shape)


# Folding


def scales_of_norms(graph: GraphModule) -> int:
    norms = graph.graph.find_nodes(op="call_function", target=torch.ops.aten.layer_norm.default)
    return sum(len(node.args) > 2 and node.args[2] is not None for node in norms)


@pytest.mark.parametrize("component", COMPONENTS)
def test_folding_leaves_answers_and_the_original_as_they_were(component: str) -> None:
    # In float64, where a wrong fold cannot pass for rounding.
    module = copy.deepcopy(library.layers()[component].module).double()
    inputs = [each.double() if each.is_floating_point() else each for each in library.layer_samples(component)[:4]]
    before = state(module)
    graph = graph_of(module, (inputs[0],))
    norms, muls = scales_of_norms(graph), count(graph, torch.ops.aten.mul.Tensor)
    fold_layer_norms(graph)
    fold_output_scales(graph)
    assert scales_of_norms(graph) < norms
    assert count(graph, torch.ops.aten.mul.Tensor) <= muls
    with torch.no_grad():
        for each in inputs:
            torch.testing.assert_close(graph(each), module(each), atol=1e-12, rtol=0)
    assert_untouched(module, before)


def count(graph: GraphModule, target: Any) -> int:
    return len(graph.graph.find_nodes(op="call_function", target=target))


class Residual(nn.Module):
    """A norm that a product and a sum read."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.product = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        normal = self.norm(x)
        return normal + self.product(normal)


class CalledTwice(nn.Module):
    """One product after two norms."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.product = nn.LayerNorm(8), nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.product(self.second(self.product(self.first(x))))


class Tied(CalledTwice):
    """Two products of one weight, under two names, each with a bias of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(8, 8)
        self.other.weight = self.product.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.second(self.product(self.first(x))))


class ScaledAndTied(Tied):
    """The same, each product scaled by a number of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return self.other(x) * 3.0 + self.product(x) * 0.25


class ScaledAndRead(nn.Module):
    """A product that is read both scaled and as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.product = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        product = self.product(x)
        return product * 0.25 + product.relu()


@pytest.mark.parametrize("module", [Residual, CalledTwice, Tied, ScaledAndTied, ScaledAndRead])
def test_what_others_read_is_not_folded(module: Callable[[], nn.Module]) -> None:
    chosen = program(module(), 2, 8)
    graph = graph_of(chosen.module, chosen.example)
    norms, muls = scales_of_norms(graph), count(graph, torch.ops.aten.mul.Tensor)
    fold_layer_norms(graph)
    fold_output_scales(graph)
    assert (scales_of_norms(graph), count(graph, torch.ops.aten.mul.Tensor)) == (norms, muls)
    torch.testing.assert_close(graph(*chosen.example), chosen.module(*chosen.example), atol=1e-6, rtol=0)


class Attention(nn.Module):
    """A norm that three products read, one of them scaled, one without a bias."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8, bias=bias)
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        normal = self.norm(x)
        return (0.25 * self.query(normal) @ self.key(normal).T).softmax(-1) @ self.value(normal)


@pytest.mark.parametrize("bias", [True, False])
def test_a_norm_is_folded_into_all_its_products(bias: bool) -> None:
    chosen = program(Attention(bias), 5, 8)
    graph = graph_of(chosen.module, chosen.example)
    fold_layer_norms(graph)
    fold_output_scales(graph)
    assert (scales_of_norms(graph), count(graph, torch.ops.aten.mul.Tensor)) == (0, 0)
    torch.testing.assert_close(graph(*chosen.example), chosen.module(*chosen.example), atol=1e-6, rtol=0)


# int8


@pytest.mark.parametrize("component", EACH)
@pytest.mark.parametrize("name", RECIPES)
def test_integers_are_of_a_grid_that_every_target_holds(name: str, component: str) -> None:
    decided = compressed(name, component).decided[component]
    layers = {layer.name: layer for layer in find_layers(graph_of(*module_and_example(component)))}
    for weight in decided:
        low, high = (-127, 127) if weight.bits == 8 else (-8, 7)
        rows, columns = weight.values.shape[:2]
        assert weight.values.dtype == np.int8
        assert low <= weight.values.min() < 0 < weight.values.max() <= high
        assert np.isfinite(weight.scale).all()
        assert weight.scale.min() > 0
        assert not weight.zero_point.any()
        assert weight.scale.shape == (rows, columns // 32 if weight.bits == 4 else 1)
        assert weight.values.shape == layers[weight.layer].shape
        if weight.bits == 8:  # each row uses its whole range, but one that pruning has emptied
            assert set(np.abs(weight.values.astype(int)).reshape(rows, -1).max(1)) <= {127, 0}
    left = set(layers) - {weight.layer for weight in decided}
    depthwise = {name for name, layer in layers.items() if layer.kind == "depthwise"}
    assert left == (depthwise if BUILTIN[name].activations.ranges == "dynamic" else set())


def module_and_example(component: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    chosen = library.layers()[component]
    return chosen.module, chosen.example


@pytest.mark.parametrize("component", EACH)
@pytest.mark.parametrize(("name", "least"), LEAST_COSINES.items())
def test_a_quantised_program_answers_much_as_the_float_one(name: str, least: float, component: str) -> None:
    chosen, inputs = library.layers()[component], library.layer_samples(component)[:8]
    got = library.embed(compressed(name, component).programs[component], inputs)
    cosines = (got * library.embed(chosen, inputs)).sum(1)
    assert least < cosines.min() < 1 - 1e-7  # it is not the float one either


@pytest.mark.parametrize("component", EACH)
@pytest.mark.parametrize("name", RECIPES)
def test_compression_leaves_the_original_as_it_was(name: str, component: str) -> None:
    module = library.layers()[component].module
    before = state(copy.deepcopy(module))
    library.compressed.__wrapped__(name, (component,))
    assert_untouched(module, before)


class Zeros(nn.Module):
    """A padding token and an output channel that training left at nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.product = nn.Embedding(6, 8), nn.Linear(8, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.product(self.table(ids.int()).mean(1))


@pytest.mark.parametrize("name", ["int8", "int8-static"])
def test_a_row_of_zeros_has_a_positive_scale(name: str) -> None:
    chosen = program(Zeros(), 1, 3)
    chosen.module.table.weight[2] = 0  # type: ignore[index, operator, union-attr]
    chosen.module.product.weight[1] = 0  # type: ignore[index, operator, union-attr]
    inputs = [torch.tensor([[0.0, float(each), 2.0]]) for each in range(6)]
    made, decided = quantise(replace(chosen, example=(inputs[0],)), BUILTIN[name], inputs)
    table, product = (by_layer(decided)[layer] for layer in ("table", "product"))
    for weight, row in ((table, 2), (product, 1)):
        assert not weight.values[row].any()
        assert np.float16(weight.scale[row, 0]) > 0
    for each in inputs:
        torch.testing.assert_close(made.module(each), chosen.module(each), atol=0.1, rtol=0)


SIGNS: dict[str, Callable[[Tensor], Tensor]] = {
    "positive": lambda weight: weight.abs(),
    "negative": lambda weight: -weight.abs(),
    "constant": lambda weight: torch.full_like(weight, 0.25),
    "zero": torch.zeros_like,
    "denormal": lambda weight: torch.full_like(weight, 1e-41),
}


@pytest.mark.parametrize("name", ["int8", "int8-static"])
@pytest.mark.parametrize("kind", SIGNS)
def test_weights_of_one_sign_have_the_grid_of_all_others(kind: str, name: str) -> None:
    chosen = program(Zeros(), 1, 3)
    floats = {layer: chosen.module.get_submodule(layer).weight for layer in ("table", "product")}
    for weight in floats.values():
        weight.copy_(SIGNS[kind](weight))  # type: ignore[operator]
    inputs = [torch.tensor([[0.0, float(each), 2.0]]) for each in range(6)]
    _, decided = quantise(replace(chosen, example=(inputs[0],)), BUILTIN[name], inputs)
    for layer, weight in by_layer(decided).items():
        assert not weight.zero_point.any()
        assert (np.float16(weight.scale) > 0).all()
        exact = floats[layer].numpy()  # type: ignore[operator]
        assert (np.abs(widened(weight) - exact) <= 0.5001 * weight.scale).all()
        assert set(np.abs(weight.values).max(1)) == ({0} if kind in ("zero", "denormal") else {127})


class Alike(nn.Module):
    """Two products of one input that are equal, what is computed of them, and a third of another input."""

    def __init__(self) -> None:
        super().__init__()
        self.key, self.value, self.later = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.up, self.gate = nn.Linear(8, 16), nn.Linear(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        key, value = self.key(x), self.value(x)
        return self.later(key * value) @ (self.up(key.tanh()) + self.gate(value.tanh()))


def alike() -> Program:
    chosen = program(Alike(), 8, 8)
    for name, equal in (("value", "key"), ("later", "key"), ("gate", "up")):
        chosen.module.get_submodule(name).load_state_dict(chosen.module.get_submodule(equal).state_dict())
    return chosen


@pytest.mark.parametrize(
    ("kept", "layers"),
    [
        ((), {"key", "later", "up"}),
        (("*/key",), {"value", "later", "up", "gate"}),
        (("*/key", "*/value"), {"later", "up"}),
        (("*/gate",), {"key", "later", "up"}),
    ],
)
def test_layers_that_compute_the_same_are_decided_once(kept: tuple[str, ...], layers: set[str]) -> None:
    chosen = alike()
    before = state(chosen.module)
    made, decided = quantise(chosen, recipe(float_layers=kept), ())
    assert set(by_layer(decided)) == layers
    torch.testing.assert_close(made.module(*chosen.example), chosen.module(*chosen.example), atol=0.2, rtol=0.05)
    assert_untouched(chosen.module, before)


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_layers_that_differ_in_a_bit_are_both_decided(part: str) -> None:
    chosen = alike()
    value = getattr(chosen.module.value, part)  # type: ignore[union-attr]
    value.view(-1)[0] = torch.nextafter(value.view(-1)[0], torch.tensor(9.0))
    _, decided = quantise(chosen, recipe(), ())
    assert {"key", "value", "up", "gate"} <= set(by_layer(decided))


class InPlace(Alike):
    def forward(self, x: Tensor) -> Tensor:
        first = self.key(x)
        x.add_(1)
        return first + self.value(x)


def test_layers_with_a_write_between_them_are_both_decided() -> None:
    chosen = program(InPlace(), 8, 8)
    chosen.module.value.load_state_dict(chosen.module.key.state_dict())  # type: ignore[union-attr]
    _, decided = quantise(chosen, recipe(), ())
    assert set(by_layer(decided)) == {"key", "value"}


@pytest.mark.parametrize(("module", "layer"), [(CalledTwice, "product"), (Tied, "other")])
def test_a_weight_that_two_products_read_is_refused_by_name(module: Callable[[], nn.Module], layer: str) -> None:
    with pytest.raises(RecipeError, match=f"NNCF left {layer} in floating point") as caught:
        quantise(program(module(), 2, 8), BUILTIN["int8"], ())
    assert "float_layers" in str(caught.value.hint)


def test_layers_that_the_recipe_keeps_stay_in_float() -> None:
    kept = recipe(float_layers=("clip_image/blocks.*.attention.*", "*/projection"))
    decided = compress(only("clip_image"), kept, {}, silent).decided["clip_image"]
    assert set(by_layer(decided)) == {"patch_embedding", "blocks.0.mlp.fc1", "blocks.0.mlp.fc2"}


def only(*components: str) -> dict[str, Program]:
    return {name: library.layers()[name] for name in components}


@pytest.mark.parametrize("name", ["int8", "int4-weights", "prune-50", "palette-4"])
def test_an_unknown_layer_is_refused_before_the_long_work(name: str) -> None:
    told: list[str] = []
    with pytest.raises(RecipeError, match=r"'clip_image/blokcs\.\*' names no layer: .* clip_image/patch_embedding"):
        compress(
            only("clip_image"),
            recipe(name, float_layers=("*/projection", "clip_image/blokcs.*")),
            {},
            lambda stage, share: told.append(stage),
        )
    assert told == []


def test_a_recipe_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(RecipeError, match="clip_image has no layer left to quantise"):
        compress(only("clip_image"), recipe(float_layers=("*",)), {}, silent)


# Static ranges


def static(**activations: Any) -> Recipe:
    return replace(BUILTIN["int8-static"], activations=Activations(ranges="static", **activations))


class Mlp(nn.Module):
    """Two products, the first of which sees a feature that is far larger than the others, as transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).relu())


def wide_inputs(spread: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    loud = torch.ones(16).index_fill(0, torch.tensor([3]), 60.0)
    return [spread * loud * torch.randn(4, 16, generator=generator) for _ in range(24)]


def test_ranges_come_from_the_samples() -> None:
    chosen = program(Mlp(), 4, 16)
    scales = []
    for spread in (1.0, 10.0):
        made, _ = quantise(chosen, static(), wide_inputs(spread))
        first, *_ = made.module.graph.find_nodes(  # type: ignore[union-attr, operator]
            op="call_function", target=torch.ops.quantized_decomposed.quantize_per_tensor.default
        )
        scales.append(first.args[1])
    assert scales[1] == pytest.approx(10 * scales[0], rel=0.1)


def errors(chosen: Program, recipe: Recipe, inputs: list[Tensor]) -> Tensor:
    made, _ = quantise(chosen, recipe, inputs)
    return torch.cat([made.module(each) - chosen.module(each) for each in inputs])


def test_smooth_quant_shares_a_loud_features_range_with_its_weights() -> None:
    chosen, inputs = program(Mlp(), 4, 16), wide_inputs()
    chosen.module.up.weight[:, 3] /= 60  # type: ignore[index, operator, union-attr]
    plain, smooth = (errors(chosen, static(smooth_quant=alpha), inputs).abs().mean() for alpha in (None, 0.5))
    assert smooth < 0.7 * plain


def test_bias_correction_takes_back_a_shift_of_the_mean() -> None:
    chosen = program(nn.Linear(64, 16), 4, 64)
    inputs = [2 + torch.randn(4, 64, generator=torch.Generator().manual_seed(seed)) for seed in range(24)]
    plain, corrected = (
        errors(chosen, static(bias_correction=each), inputs).mean(0).abs().mean() for each in (False, True)
    )
    assert corrected < 0.8 * plain


# int4


class Widths(nn.Module):
    """Products of 96, 64 and 40 inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(96, 64), nn.Linear(64, 40), nn.Linear(40, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x).relu()).relu())


@pytest.mark.parametrize(
    ("group_size", "bits"),
    [
        (32, {"a": 4, "b": 4, "c": 8}),
        (64, {"a": 8, "b": 4, "c": 8}),
        (8, {"a": 4, "b": 4, "c": 4}),
        (128, {"a": 8, "b": 8, "c": 8}),
    ],
)
def test_int4_takes_the_widths_that_its_groups_divide(group_size: int, bits: dict[str, int]) -> None:
    chosen = program(Widths(), 2, 96)
    made, decided = quantise(chosen, recipe("int4-weights", group_size=group_size), ())
    assert {weight.layer: weight.bits for weight in decided} == bits
    for weight in decided:
        float_weight = chosen.module.get_submodule(weight.layer).weight.numpy()  # type: ignore[union-attr, operator]
        groups = weight.values.shape[1] // group_size if weight.bits == 4 else 1
        assert weight.scale.shape == (len(weight.values), groups)
        # int8 rounds to the nearest; int4's one value beyond its range, 8, becomes 7.
        steps = np.abs(widened(weight) - float_weight).reshape(*weight.scale.shape, -1) / weight.scale[..., None]
        assert steps.max() <= (1.01 if weight.bits == 4 else 0.5001)
        if weight.bits == 4:
            assert np.median(steps) < 0.3
            np.testing.assert_array_equal(weight.scale, weight.scale.astype(np.float16).astype(np.float32))
    with torch.no_grad():
        torch.testing.assert_close(made.module(*chosen.example), chosen.module(*chosen.example), atol=2, rtol=0.3)


class Many(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(32, 32) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.parametrize(("share", "fewest", "most"), [(1.0, 10, 10), (0.5, 4, 5), (0.25, 1, 2)])
def test_int4_share_leaves_some_int8(share: float, fewest: int, most: int) -> None:
    _, decided = quantise(program(Many(10), 1, 32), recipe("int4-weights", int4_share=share), ())
    assert len(decided) == 10
    assert fewest <= sum(weight.bits == 4 for weight in decided) <= most


def test_int4_respects_layers_kept_in_float() -> None:
    _, decided = quantise(program(Widths(), 2, 96), recipe("int4-weights", float_layers=("encode_image/a",)), ())
    assert {weight.layer: weight.bits for weight in decided} == {"b": 4, "c": 8}


# Pruning


def zeros(module: nn.Module) -> dict[str, float]:
    kinds = nn.Linear | nn.Conv2d | nn.Embedding
    return {
        name: float((each.weight == 0).float().mean())
        for name, each in module.named_modules()
        if isinstance(each, kinds)
    }


@pytest.mark.parametrize("component", ["clip_text", "hybrid"])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_pruning_zeroes_the_smallest_of_each_weight(component: str, share: float) -> None:
    chosen = library.layers()[component]
    pruned = prune(chosen, recipe("prune-50", sparsity=share))
    before = dict(chosen.module.named_modules())
    for name, found in zeros(pruned.module).items():
        was, now = before[name].weight, pruned.module.get_submodule(name).weight
        assert found == pytest.approx(share, abs=2 / was.numel() + 1e-6), name
        assert torch.equal(now[now != 0], was[now != 0])
        assert was[now == 0].abs().max() <= now[now != 0].abs().min()
    assert list(pruned.module.state_dict()) == list(chosen.module.state_dict())


def test_pruning_leaves_the_layers_that_the_recipe_keeps_and_no_others() -> None:
    chosen = program(Many(12), 1, 32)
    pruned = prune(chosen, recipe("prune-50", float_layers=("encode_image/layers.1",)))
    assert zeros(pruned.module) == {f"layers.{index}": 0.0 if index == 1 else 0.5 for index in range(12)}


@pytest.mark.parametrize("component", EACH)
def test_pruned_weights_stay_zero_in_int8(component: str) -> None:
    for weight in compressed("prune-50-int8", component).decided[component]:
        assert (weight.values == 0).mean() > 0.49, weight.layer


def test_recipes_without_integers_decide_none() -> None:
    made = compress(only("clip_image"), Recipe("f", "fp16", "", ParityLimits(), Weights()), {}, silent)
    assert made.decided == {}
    assert made.programs == only("clip_image")
