"""What becomes of decided weights in each target's file, read back and run from what is shipped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import library
import numpy as np
import pytest
import torch
from library import LOWERED, QUICK
from numpy.typing import NDArray
from torch import nn

from edgevlm.bundle.bundle import Bundle, seal
from edgevlm.bundle.embedding_space import embedding_space_id
from edgevlm.bundle.integer_weights import StoredWeight, WeightProof, prove
from edgevlm.bundle.recipe import BUILTIN, Activations, ParityLimits, Recipe, Weights
from edgevlm.bundle.spec import ComponentSpec, TensorSpec
from edgevlm.compression.calibration import CalibrationData, CalibrationSource
from edgevlm.compression.compression import compress
from edgevlm.compression.layers import find_layers
from edgevlm.conversion import pipeline
from edgevlm.conversion.pipeline import verify_weights
from edgevlm.conversion.prepared import Prepared
from edgevlm.converters.coreml import weights as coreml_weights
from edgevlm.errors import CheckFailed
from edgevlm.graphs.capture import unlifted
from edgevlm.graphs.program import Program
from edgevlm.models import catalogue
from edgevlm.process.progress import silent
from edgevlm.targets import registry
from edgevlm.targets.inspection import OpCount

TARGETS = ("coreml", "executorch", "tflite")
RECIPES = ("int8", "int8-static", "int8-weights", "int4-weights")
REFUSED = [("executorch", "int8-weights")]
BOTH = [
    pytest.param(target, recipe, marks=() if (target, recipe) in QUICK else pytest.mark.slow)
    for recipe in RECIPES
    for target in TARGETS
    if (target, recipe) not in REFUSED
]
SCALES = {"coreml": {8: "float16", 4: "float16"}, "tflite": {8: "float32", 4: "float16"}}
SCALES["executorch"] = {8: "float32", 4: "bfloat16"}
XNNPACK = ("executorch", "tflite")


def found(bundle: Bundle) -> dict[str, tuple[StoredWeight, ...]]:
    return registry.runtime(bundle.manifest.target).stored_weights(bundle)


def proofs(target: str, recipe: str) -> dict[str, WeightProof]:
    stored = found(library.layer_bundle(target, recipe))
    decided = library.compressed(recipe, LOWERED).decided
    return {name: prove(name, decided[name], stored[name]) for name in LOWERED}


@pytest.mark.parametrize(("target", "recipe"), BOTH)
def test_every_decided_weight_is_in_the_file_and_no_other(target: str, recipe: str) -> None:
    stored = found(library.layer_bundle(target, recipe))
    for name, proof in proofs(target, recipe).items():
        decided = library.compressed(recipe, LOWERED).decided[name]
        assert proof.lost == ()
        assert proof.identical == proof.decided == len(decided) == len(stored[name])
        assert Counter(weight.bits for weight in stored[name]) == Counter(weight.bits for weight in decided)
        assert {weight.bits: weight.scale_type for weight in stored[name]}.items() <= SCALES[target].items()


@pytest.mark.parametrize("recipe", ["int8", *(pytest.param(each, marks=pytest.mark.slow) for each in RECIPES[1:])])
def test_layers_of_each_kind_are_among_them(recipe: str) -> None:
    kinds = set()
    for name in LOWERED:
        graph = unlifted(library.layers()[name].module, library.layers()[name].example)
        decided = {weight.layer for weight in library.compressed(recipe, LOWERED).decided[name]}
        kinds |= {layer.kind for layer in find_layers(graph) if layer.name in decided}
    dynamic = BUILTIN[recipe].activations.ranges == "dynamic"
    assert kinds == {"linear", "conv2d", "embedding"} | (set() if dynamic else {"depthwise"})


class Xnnpack(torch.fx.Interpreter):
    """A quantised graph as XNNPACK computes it, whoever calls it.

    Inputs of integer layers are int8 in ranges of their own, a token, place or picture each. Scales of groups are
    bfloat16, also where the file has them more exactly.
    """

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is torch.ops.quantized_decomposed.dequantize_per_channel_group.default:
            integers, scale, *rest = args
            return super().call_function(target, (integers, scale.bfloat16().float(), *rest), kwargs)
        if target in PRODUCTS and "dequantize" in str(self._current.args[1].target):
            x, weight, *rest = args
            if weight.ndim == 4:
                x = as_it_comes(x, (1,)) if weight.shape[2:] == (1, 1) else as_it_comes(x, (1, 2, 3))
            else:
                x = as_it_comes(x, (-1,))
            args = (x, weight, *rest)
        return super().call_function(target, args, kwargs)

    def run_node(self, node: torch.fx.Node) -> Any:
        self._current = node
        return super().run_node(node)


PRODUCTS = (torch.ops.aten.linear.default, torch.ops.aten.conv2d.default, torch.ops.aten.conv2d.padding)


def as_it_comes(x: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """Quantised to int8 in the range that it has along those axes, and widened again."""
    low, high = x.amin(axes, keepdim=True).clamp(max=0), x.amax(axes, keepdim=True).clamp(min=0)
    scale = (high - low) / 255
    zero_point = (-128 - low / scale).round().clamp(-128, 127)
    return (((x / scale).round() + zero_point).clamp(-128, 127) - zero_point) * scale


def expected(target: str, recipe: str, component: str, inputs: tuple[torch.Tensor, ...]) -> NDArray[np.float32]:
    program = library.compressed(recipe, LOWERED).programs[component]
    if target not in XNNPACK or BUILTIN[recipe].activations.ranges != "dynamic":
        return library.embed(program, inputs)
    graph = Xnnpack(program.module)  # type: ignore[arg-type]
    with torch.no_grad():
        return np.concatenate([graph.run(each).numpy() for each in inputs])


@pytest.mark.parametrize("component", LOWERED)
@pytest.mark.parametrize(("target", "recipe"), BOTH)
def test_the_file_answers_as_the_quantised_graph_does(target: str, recipe: str, component: str) -> None:
    inputs = library.layer_samples(component)[:6]
    got = library.layer_answers(target, recipe, component, inputs)
    error = np.abs(got - expected(target, recipe, component, inputs)).max()
    static = BUILTIN[recipe].activations.ranges == "static"
    if target == "coreml":
        assert error < (0.03 if static else 2e-3)  # float16, which may tip an activation to the next of its 256 steps
    elif static and component == "hybrid":
        assert error < 0.03  # so may convolutions with their ReLU in one kernel, and sums in integers
    else:
        assert error < 1e-6


def heavy(rows: tuple[OpCount, ...]) -> list[OpCount]:
    """Products and convolutions."""
    kinds = {"fullyconnected", "linear", "conv", "conv2d", "depthwiseconv2d"}
    return [row for row in rows if row.kind.lower().replace("_", "") in kinds]


@pytest.mark.parametrize(("target", "recipe"), [each for each in BOTH if each.values[0] in XNNPACK])
def test_xnnpack_takes_every_product_and_those_decided_in_integers(target: str, recipe: str) -> None:
    bundle = library.layer_bundle(target, recipe)
    for component, rows in registry.runtime(target).inspect(bundle).items():
        assert {row.runs_on for row in heavy(rows)} == {"xnnpack"}
        decided = library.compressed(recipe, LOWERED).decided[component]
        in_integers: Counter[str] = Counter()
        for row in heavy(rows):
            if row.weights:
                in_integers[row.weights] += row.count
                assert row.dtype == "int8"
        expected = Counter(f"int{weight.bits}" for weight in decided if weight.layer != "token_embedding")
        if recipe == "int8-weights":  # widened once, when the file is loaded
            assert in_integers == {}
            widened = sum(row.count for row in rows if row.kind == "DEQUANTIZE")
            assert widened == expected.total()
        else:
            assert in_integers == expected


@pytest.mark.parametrize(
    "recipe",
    [
        "int8",
        *(pytest.param(recipe, marks=pytest.mark.slow) for recipe in ("int4-weights", "int8-static", "int8-weights")),
    ],
)
def test_core_ml_says_what_each_product_reads(recipe: str) -> None:
    rows = registry.runtime("coreml").inspect(library.layer_bundle("coreml", recipe))
    for component in LOWERED:
        decided = library.compressed(recipe, LOWERED).decided[component]
        counted: Counter[str] = Counter()
        for row in heavy(rows[component]):
            if row.weights:
                counted[row.weights] += row.count
        expected = Counter(f"int{weight.bits}" for weight in decided if weight.layer != "token_embedding")
        assert counted == expected


@pytest.mark.parametrize(
    ("target", "recipe", "least"),
    [
        ("coreml", "int8", {"iOS": "16", "macOS": "13"}),
        pytest.param("coreml", "int8-static", {"iOS": "17", "macOS": "14"}, marks=pytest.mark.slow),
        pytest.param("coreml", "int4-weights", {"iOS": "18", "macOS": "15"}, marks=pytest.mark.slow),
        ("tflite", "int8", {"litert": "1.0", "tflite": "2.18.0"}),
        pytest.param("tflite", "int4-weights", {"litert": "1.0", "tflite": "2.18.0"}, marks=pytest.mark.slow),
        pytest.param("executorch", "int8", {"executorch": "1.5"}, marks=pytest.mark.slow),
    ],
)
def test_bundles_name_the_runtime_that_their_integers_need(target: str, recipe: str, least: dict[str, str]) -> None:
    assert library.layer_bundle(target, recipe).manifest.requires == least


# Damage


def integers_in_the_file(weight: StoredWeight, target: str) -> bytes:
    """A decided weight's integers as the target's file lays them out."""
    values = weight.values if target == "coreml" or weight.values.ndim == 2 else weight.values.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(values).tobytes()


@pytest.mark.parametrize(("component", "layer"), [("clip_text", "blocks.0.mlp.fc1"), ("hybrid", "convolutions.0")])
@pytest.mark.parametrize("target", ["coreml", "tflite", pytest.param("executorch", marks=pytest.mark.slow)])
def test_a_changed_bit_of_an_integer_is_found(target: str, component: str, layer: str, tmp_path: Path) -> None:
    decided = library.compressed("int8", LOWERED).decided
    bundle = library.layer_bundle(target, "int8")
    (weight,) = (each for each in decided[component] if each.layer == layer)
    content = integers_in_the_file(weight, target)
    (file,) = (path for path in bundle.path.rglob("*") if path.is_file() and path.read_bytes().count(content) == 1)
    for source in (path for path in bundle.path.rglob("*") if path.is_file() and path.name != "manifest.json"):
        copy = tmp_path / source.relative_to(bundle.path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(source.read_bytes())
    damaged = tmp_path / file.relative_to(bundle.path)
    data = bytearray(damaged.read_bytes())
    data[data.index(content) + 5] ^= 1
    damaged.write_bytes(data)
    proven = tuple(prove(name, decided[name], found(bundle)[name]) for name in LOWERED)
    sealed = seal(tmp_path, replace(bundle.manifest, weights=proven))
    stored = found(sealed)
    lost = {name: prove(name, decided[name], stored[name]).lost for name in LOWERED}
    assert lost == {**dict.fromkeys(LOWERED, ()), component: (layer,)}
    again = {proof.component: len(proof.lost) for proof in verify_weights(Bundle.open(tmp_path))}
    assert again == {**dict.fromkeys(LOWERED, 0), component: 1}


def without_the_last(weights: Any) -> str:
    return INTEGER_WEIGHTS_PASS(weights[:-1])


INTEGER_WEIGHTS_PASS: Callable[[Any], str] = coreml_weights.integer_weights_pass
LOSSES = {
    # target: what a converter would do without the part of ours that keeps integers, and the layers that suffer
    "coreml": ("edgevlm.converters.coreml.converter.integer_weights_pass", without_the_last, "projection"),
    # litert-torch multiplies attention's scale into the query's weights, after they were decided.
    "tflite": ("edgevlm.compression.quantisation.fold_output_scales", lambda graph: None, "blocks.0.attention.query"),
}


@pytest.mark.parametrize("target", ["coreml", pytest.param("tflite", marks=pytest.mark.slow)])
def test_a_converter_that_loses_a_weight_fails(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, fault, layer = LOSSES[target]
    monkeypatch.setattr(place, fault)
    request = pipeline.Request(
        library.checkpoint("clip"), (target,), BUILTIN["int8"], tmp_path, image_only=True, use_cache=False
    )
    (outcome,) = pipeline.convert(request)
    assert isinstance(outcome.error, CheckFailed)
    assert (outcome.status, outcome.error.exit_code) == ("failed", 1)
    assert outcome.error.message.endswith(layer)
    assert "float_layers" in str(outcome.error.hint)
    assert list(tmp_path.iterdir()) == []


# Refusals


def grouped(size: int) -> Recipe:
    return replace(BUILTIN["int4-weights"], weights=Weights("int4", group_size=size))


@pytest.mark.parametrize(
    ("target", "recipe", "instead"),
    [
        ("executorch", BUILTIN["int8-weights"], "--recipe int8"),
        ("executorch", BUILTIN["palette-4"], "--recipe int4-weights"),
        ("tflite", BUILTIN["palette-6"], "--recipe int4-weights"),
        ("tflite", grouped(16), "weights: {group_size: 32}"),
        ("executorch", grouped(48), "weights: {group_size: 32}"),
        ("executorch", replace(grouped(32), activations=Activations()), "--recipe int8"),
    ],
    ids=lambda value: value.name if isinstance(value, Recipe) else None,
)
def test_what_a_target_cannot_hold_names_the_nearest_recipe(target: str, recipe: Recipe, instead: str) -> None:
    (refused,) = registry.converter(target).unsupported(library.layers(), recipe)
    assert refused.instead == instead


@pytest.mark.parametrize("recipe", [name for name in BUILTIN if name not in ("palette-4", "palette-6")])
@pytest.mark.parametrize("target", TARGETS)
def test_every_other_built_in_recipe_is_taken(target: str, recipe: str) -> None:
    refused = registry.converter(target).unsupported(library.layers(), BUILTIN[recipe])
    assert bool(refused) == ((target, recipe) in REFUSED)


# Float weights, smaller


def made(recipe: Recipe, folder: Path, target: str = "coreml") -> tuple[Program, Bundle]:
    """A SigLIP's image tower by a recipe of a test's own."""
    chosen = {"siglip_image": library.layers()["siglip_image"]}
    programs = compress(chosen, recipe, {}, silent).programs
    return programs["siglip_image"], library.lower(target, recipe, programs, folder / "bundle")


def session_answers(bundle: Bundle, inputs: tuple[torch.Tensor, ...]) -> NDArray[np.float32]:
    with registry.runtime(bundle.manifest.target).open(bundle) as session:
        return np.concatenate([session.run("siglip_image", {"pixels": each.numpy()})["embedding"] for each in inputs])


def kept(recipe: str) -> Recipe:
    """With two layers left alone, one by a glob."""
    weights = replace(BUILTIN[recipe].weights, float_layers=("siglip_image/blocks.0.mlp.fc1", "*/patch*"))
    return replace(BUILTIN[recipe], weights=weights)


LARGE = {  # those of 2,048 values and more, but the kept
    *(f"blocks_0_attention_{name}" for name in ("query", "key", "value", "out")),
    *("blocks_0_mlp_fc2", "pooling_key", "pooling_value", "pooling_out", "pooling_mlp_fc1", "pooling_mlp_fc2"),
}


@pytest.mark.parametrize(
    ("recipe", "kind", "bits"),
    [
        ("palette-4", "constexpr_lut_to_dense", 4),
        pytest.param("palette-6", "constexpr_lut_to_dense", 6, marks=pytest.mark.slow),
        pytest.param("prune-50", "constexpr_sparse_to_dense", None, marks=pytest.mark.slow),
    ],
)
def test_core_ml_stores_palettes_and_sparse_weights(recipe: str, kind: str, bits: int | None, tmp_path: Path) -> None:
    from edgevlm.runtimes.mlprogram.package import read_function

    program, bundle = made(kept(recipe), tmp_path)
    operations = read_function(bundle.path / "siglip_image.mlpackage").operations
    stored = [operation for operation in operations if operation.kind == kind]
    assert {operation.name.removeprefix("p_module_").partition("_weight")[0] for operation in stored} == LARGE
    constants = {each.name: each.arguments["val"][0] for each in operations if each.kind == "const"}
    for operation in stored:
        if bits:
            table = constants.get(operation.arguments["lut"][0], operation.arguments["lut"][0]).read()
            assert np.unique(table).size <= 2**bits
        else:
            values = constants.get(
                operation.arguments["nonzero_data"][0], operation.arguments["nonzero_data"][0]
            ).read()
            assert (np.asarray(values) != 0).all()
    inputs = library.layer_samples("siglip_image")[:4]
    cosines = (session_answers(bundle, inputs) * library.embed(program, inputs)).sum(1)
    assert cosines.min() > {"palette-4": 0.95, "palette-6": 0.995, "prune-50": 0.999}[recipe]


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.product = nn.LayerNorm(128), nn.Linear(128, 128)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = self.product(self.norm(x))
        return product


@pytest.mark.parametrize("recipe", ["palette-4", "prune-50"])
def test_zeros_that_a_norm_and_a_product_share_are_left_alone(recipe: str, tmp_path: Path) -> None:
    module = Normed().requires_grad_(False)
    module.product.bias.zero_()  # as the norm's is; constants of a hundred values and more are stored once
    features = TensorSpec("features", "float32", (1, 128), "any")
    spec = ComponentSpec("encode_image", (features,), (replace(features, name="embedding"),))
    chosen = {"encode_image": Program(spec, module.eval(), (torch.randn(1, 128),))}
    programs = compress(chosen, BUILTIN[recipe], {}, silent).programs
    bundle = library.lower("coreml", BUILTIN[recipe], programs, tmp_path / "bundle")
    (rows,) = registry.runtime("coreml").inspect(bundle).values()
    assert [row.weights for row in heavy(rows)] == [{"palette-4": "palette-4", "prune-50": "sparse"}[recipe]]


@pytest.mark.slow
def test_zeros_shrink_a_core_ml_package_and_no_tflite_file(tmp_path: Path) -> None:
    sizes = {
        (target, recipe): made(BUILTIN[recipe], tmp_path / target / recipe, target)[1].size_bytes
        for target in ("coreml", "tflite")
        for recipe in ("fp16", "prune-50")
    }
    assert sizes["coreml", "prune-50"] < 0.85 * sizes["coreml", "fp16"]
    assert sizes["tflite", "prune-50"] == pytest.approx(sizes["tflite", "fp16"], rel=0.001)


# The whole way


@pytest.mark.slow
def test_a_bundle_says_what_it_was_calibrated_on_and_proves_its_weights(tmp_path: Path) -> None:
    static = replace(BUILTIN["int8-static"], parity=ParityLimits())  # random weights are not what limits are for
    data = CalibrationSource("objects:train:200:4")
    (outcome,) = pipeline.convert(
        pipeline.Request(library.checkpoint("clip"), ("tflite",), static, tmp_path, use_cache=False, calibration=data)
    )
    assert outcome.status == "passed"
    converted = outcome.bundle
    assert converted is not None
    manifest = Bundle.open(converted.path).manifest
    assert manifest.calibration is not None
    assert (manifest.calibration.data, manifest.calibration.samples) == ("objects:train:200:4", 128)
    assert [(proof.component, proof.identical, proof.lost) for proof in manifest.weights] == [
        ("encode_image", 8, ()),
        ("encode_text", 8, ()),
    ]
    assert verify_weights(converted) == manifest.weights
    assert manifest.compressed_size_bytes is not None
    artefact = manifest.files["model.tflite"].size_bytes
    assert 0.2 * artefact < manifest.compressed_size_bytes < artefact
    assert manifest.parity is not None
    centred = [check for check in manifest.parity.checks if check.measure == "centred_cosine"]
    assert [check.component for check in centred] == ["encode_image", "encode_text"]
    assert all(0.5 < check.value < 1 and check.limit is None for check in centred)


def test_the_embedding_space_changes_with_the_recipe_and_the_calibration() -> None:
    model, recipe = catalogue.load(library.checkpoint("clip")), BUILTIN["int8-static"]
    source = CalibrationSource("objects:train:200:4")

    def space(recipe: Recipe, *, image_only: bool = False) -> str:
        data = CalibrationData(source, recipe.calibration)
        fingerprint = Prepared(model, data, wanted=None, image_only=image_only).fingerprint
        return embedding_space_id(model.image, recipe, fingerprint=fingerprint, calibration=data.fingerprint)

    others = (
        replace(recipe, weights=replace(recipe.weights, float_layers=("encode_image/projection",))),
        replace(recipe, calibration=replace(recipe.calibration, seed=1)),
    )
    assert len({space(each) for each in (recipe, *others)}) == 3
    assert space(recipe) == space(replace(recipe, name="another"), image_only=True)


# Equal weights


class Twins(nn.Module):
    """Layers as they are after one has been copied, or has died: equal in a row, side by side and in a table, and zero
    beside a table of zeros; and one of one sign."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.head = nn.Embedding(64, 32), nn.Linear(32, 64)
        self.first, self.second, self.positive = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.key, self.value, self.back = nn.Linear(64, 32), nn.Linear(64, 32), nn.Linear(32, 64)
        self.places, self.dead = nn.Parameter(torch.zeros(6, 32)), nn.Linear(32, 6)

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        x = self.token(token_ids)[0] + self.places
        x = x + self.second(self.first(x).relu())
        x = self.head(self.positive(x) + self.dead(x).sum(-1, keepdim=True))
        return nn.functional.normalize(self.back(self.key(x) * self.value(x).tanh()).mean(0, keepdim=True), dim=-1)


def twins(component: str) -> Program:
    """The same for every component, so that layers of different components are equal too."""
    module = Twins()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        for zero in (module.places, module.dead.weight):
            zero.zero_()
        module.positive.weight.abs_()
        module.head.weight.copy_(module.token.weight)
        module.second.load_state_dict(module.first.state_dict())
        module.value.load_state_dict(module.key.state_dict())
    ids = TensorSpec("token_ids", "int32", (1, 6), "any")
    embedding = TensorSpec("embedding", "float32", (1, 64), "unit norm")
    example = torch.randint(0, 64, (1, 6), generator=generator, dtype=torch.int32)
    return Program(ComponentSpec(component, (ids,), (embedding,)), module.eval().requires_grad_(False), (example,))


@pytest.mark.slow  # tests/test_tflite_weights.py and tests/test_mlprogram_damage.py have what is small of it
@pytest.mark.parametrize(
    ("target", "recipe"),
    [("coreml", "int8-static"), ("coreml", "int4-weights"), ("executorch", "int8"), ("tflite", "int4-weights")],
)
def test_equal_weights_are_all_in_the_file(target: str, recipe: str, tmp_path: Path) -> None:
    programs = {name: twins(name) for name in ("encode_image", "encode_text")}
    inputs = [torch.full((1, 6), each, dtype=torch.int32) for each in range(0, 64, 7)]
    compressed = compress(programs, BUILTIN[recipe], dict.fromkeys(programs, inputs), silent)
    bundle = library.lower(target, BUILTIN[recipe], compressed.programs, tmp_path / "bundle")
    for name, stored in found(bundle).items():
        proof = prove(name, compressed.decided[name], stored)
        assert proof.lost == ()
        assert proof.decided == 8  # of nine layers two compute the same
        assert Counter(proof.digests).most_common(1)[0][1] == 2
        with registry.runtime(target).open(bundle, threads=1) as session:
            answers = [session.run(name, {"token_ids": each.numpy()})["embedding"] for each in inputs]
        expected = library.embed(compressed.programs[name], tuple(inputs))
        assert (np.concatenate(answers) * expected).sum(1).min() > 0.999
