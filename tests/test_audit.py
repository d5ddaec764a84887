"""The float16 range audit: what it finds in a graph, and what conversions make of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import library
import numpy as np
import pytest
import torch
from checkpoints import write_clip_checkpoint, write_siglip_checkpoint
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgevlm.bundle.recipe import BUILTIN, Recipe, resolve
from edgevlm.bundle.spec import Array, ComponentSpec, TensorSpec
from edgevlm.cli import main
from edgevlm.conversion import pipeline
from edgevlm.conversion.audit import settle
from edgevlm.conversion.prepared_talker import PreparedTalker
from edgevlm.errors import RecipeError, UnsupportedError
from edgevlm.graphs.program import Program, Programs
from edgevlm.models.checkpoints import talking
from edgevlm.parity.generation import golden_questions
from edgevlm.process.progress import Progress, silent
from edgevlm.targets import registry
from edgevlm.targets.converter import OpRange

FP16 = BUILTIN["fp16"]
AUTO = replace(FP16, name="auto", float32_ops=("auto",))
TARGETS = ("coreml", "executorch")
LOUD_LAYER = "vision_model.encoder.layers.1.mlp"


class Linear(nn.Module):
    """[1, 8] -> [1, 8]: a product with a multiple of the identity."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(factor * torch.eye(8))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight)


def program(module: nn.Module) -> Program:
    features = TensorSpec("features", "float32", (1, 8), "any")
    spec = ComponentSpec("encode_image", (features,), (replace(features, name="embedding"),))
    return Program(spec, module.eval(), (torch.linspace(-1, 1, 8)[None],))


def audit(
    module: nn.Module, target: str = "coreml", recipe: Recipe = FP16, samples: Mapping[str, Array] | None = None
) -> list[OpRange]:
    programs = {"encode_image": program(module)}
    return list(registry.converter(target).audit(programs, recipe, samples or {}, silent))


def verdicts(found: list[OpRange]) -> dict[str, str]:
    """Of the ops that float16 is a matter of."""
    return {f"{op.place} {op.kind}": op.verdict for op in found if op.verdict != "fits"}


@pytest.mark.parametrize("target", TARGETS)
def test_an_op_that_overflows_is_named_with_all_that_hold_its_value(target: str) -> None:
    module = nn.Sequential(Linear(1), Linear(1e5), nn.Flatten(), Linear(1e-5), Linear(1))
    (op,) = (op for op in audit(module, target) if op.verdict == "overflow" and op.kind == "linear")
    assert (op.place, op.precision, op.peak) == ("encode_image/1", "fp16", pytest.approx(1e5))
    assert op.headroom == pytest.approx(0.65504)
    assert {"encode_image/1", "encode_image/3"} <= set(op.float32_ops) <= {f"encode_image/{i}" for i in (1, 2, 3)}


def test_what_is_kept_in_float32_is_no_longer_at_risk() -> None:
    module = nn.Sequential(Linear(1), Linear(1e5), Linear(1e-5), Linear(1))
    lost = {place for op in audit(module) for place in op.float32_ops}
    found = audit(module, recipe=replace(FP16, float32_ops=tuple(lost)))
    assert verdicts(found) == {}
    assert {op.place for op in found if op.precision == "fp32" and op.kind == "linear"} == lost


def test_all_samples_count_not_only_the_example() -> None:
    features = np.stack([np.ones(8), np.full(8, 3e4), np.ones(8)]).astype(np.float32)
    assert verdicts(audit(nn.Sequential(Linear(2)))) == {}
    (op,) = (op for op in audit(nn.Sequential(Linear(2)), samples={"features": features}) if op.kind == "linear")
    assert (op.peak, op.least, op.verdict) == (6e4, 2, "near")


MIN = torch.finfo(torch.float32).min


class Masked(nn.Module):
    """Softmax of features that are masked with `finfo.min`, in one of several ways."""

    mask: Tensor

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.register_buffer("keep", torch.tensor([1.0] * 5 + [0.0] * 3))
        self.register_buffer("mask", torch.where(self.keep == 0, MIN, 0.0))

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "read by a sum as well":
            return (x + self.mask).softmax(-1) + (x + self.mask).sum(-1, keepdim=True)
        masked = {
            "added": lambda: x + self.mask,
            "selected": lambda: torch.where(self.keep == 0, self.mask, x),
            "reshaped": lambda: (x[:, None] + self.mask[None, None].expand(1, 1, 8)).reshape(1, 8),
            "scaled": lambda: x + (1 - self.keep) * MIN,
            "a full row": lambda: x * 0 + MIN,
            "positive": lambda: x - self.mask,
        }[self.way]()
        return masked.softmax(-1)


@pytest.mark.parametrize("way", ["added", "selected", "reshaped"])
def test_a_mask_that_only_a_softmax_reads_is_harmless(way: str) -> None:
    assert set(verdicts(audit(Masked(way))).values()) == {"mask"}


@pytest.mark.parametrize("way", ["read by a sum as well", "scaled", "a full row", "positive"])
def test_a_mask_that_float16_would_make_nan_of_is_flagged(way: str) -> None:
    assert "overflow" in verdicts(audit(Masked(way))).values()


class Quiet(nn.Module):
    """Tiny numbers, which a sum with larger ones takes in or a product reads."""

    def __init__(self, beside: float) -> None:
        super().__init__()
        self.beside = beside
        self.small = Linear(1e-6)

    def forward(self, x: Tensor) -> Tensor:
        small = self.small(x)
        return small + self.beside * x if self.beside else small * 1e6


def test_values_that_lose_their_digits_are_flagged_with_their_readers() -> None:
    lost = [op for op in audit(Quiet(0)) if op.verdict == "underflow"]
    assert {(op.place, op.kind) for op in lost} == {
        ("encode_image/small", "constant"),
        ("encode_image/small", "linear"),
    }
    (op,) = (op for op in lost if op.kind == "linear")
    assert op.float32_ops == ("encode_image", "encode_image/small")
    assert op.below_normal == 1


@pytest.mark.parametrize(("beside", "flagged"), [(1.0, False), (1e-4, True)])
def test_tiny_values_that_a_larger_sum_takes_in_do_not_count(beside: float, flagged: bool) -> None:
    found = {(op.place, op.kind): op.verdict for op in audit(Quiet(beside))}
    assert (found["encode_image/small", "linear"] == "underflow") is flagged


def test_a_few_values_near_zero_are_no_underflow() -> None:
    features = np.array([[1e-7, 1e-6, 1e-9, 0, 0, 0, 1, 1e-8]], np.float32)
    (op,) = (op for op in audit(nn.Sequential(Linear(1)), samples={"features": features}) if op.kind == "linear")
    assert (op.verdict, op.below_normal) == ("fits", 0.8)


@pytest.mark.parametrize(("target", "precision"), [("coreml", "fp16"), ("executorch", "fp32")])
def test_squares_that_a_norm_adds_up_are_told_with_its_precision(target: str, precision: str) -> None:
    (op,) = (op for op in audit(nn.Sequential(Linear(100), nn.LayerNorm(8)), target) if op.kind == "layer_norm")
    assert op.sum_of_squares == pytest.approx(((100 * np.linspace(-1, 1, 8)) ** 2).sum(), rel=1e-4)
    assert (op.precision, op.verdict) == (precision, "fits")


def test_tflite_computes_in_float32_and_is_not_audited() -> None:
    assert audit(nn.Sequential(Linear(1e9)), "tflite") == []


@pytest.mark.parametrize("target", TARGETS)
def test_a_pattern_that_names_nothing_is_refused_with_places_like_it(target: str) -> None:
    with pytest.raises(RecipeError, match=r"no op stands at 'encode_image/4\.\*'") as caught:
        audit(
            nn.Sequential(Linear(1)), target, replace(FP16, float32_ops=("auto", "encode_image/0", "encode_image/4.*"))
        )
    assert "such as encode_image/0" in str(caught.value.hint)


@dataclass(frozen=True)
class Source:
    """A model made ready, without rows: its components run on their examples."""

    audited: Programs

    def audit_rows(self, progress: Progress) -> dict[str, Array]:
        return {}


def test_a_recipe_is_settled_before_the_long_work() -> None:
    programs = {"encode_image": program(nn.Sequential(Linear(1), Linear(1e5), Linear(1e-5)))}
    converter = registry.converter("coreml")
    with pytest.raises(UnsupportedError, match=r"encode_image/1: \w+ reaches 1e\+05, and 1 more") as caught:
        settle(converter, Source(programs), FP16, silent)
    lines = "precision: fp16\nfloat32_ops:\n  - encode_image/1\n  - encode_image/2\n"
    assert lines in str(caught.value.hint)
    recipe, at_risk = settle(converter, Source(programs), AUTO, silent)
    assert recipe == replace(AUTO, float32_ops=("encode_image/1", "encode_image/2"))
    assert at_risk == ()
    assert settle(converter, Source(programs), BUILTIN["fp32"], silent) == (BUILTIN["fp32"], ())


def write_loud(folder: Path, factor: float, family: str = "clip") -> Path:
    """A checkpoint whose second vision MLP has hidden values `factor` times as large, and much the same answers."""
    write = {"clip": write_clip_checkpoint, "siglip": write_siglip_checkpoint}[family]
    write(folder, amplified=False)
    weights = load_file(folder / "model.safetensors")
    for name in ("fc1.weight", "fc1.bias"):
        weights[f"{LOUD_LAYER}.{name}"] *= factor
    weights[f"{LOUD_LAYER}.fc2.weight"] /= factor
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


LOUD_PLACES = tuple(f"encode_image/blocks.1.mlp.{name}" for name in ("activation_fn", "fc1", "fc2"))


def test_a_loud_model_is_refused_with_the_recipe_that_it_needs(tmp_path: Path) -> None:
    model = write_loud(tmp_path / "loud", 1e6)
    request = pipeline.Request(model, ("coreml",), FP16, tmp_path / "dist", image_only=True)
    (outcome,) = pipeline.convert(request)
    assert isinstance(outcome.error, UnsupportedError)
    assert list(tmp_path.iterdir()) == [model]
    lines = [line for line in str(outcome.error.hint).splitlines() if not line.endswith(("says", "--recipe fp32"))]
    (tmp_path / "mine.yaml").write_text("\n".join(lines))
    assert resolve(tmp_path / "mine.yaml").float32_ops == LOUD_PLACES


@pytest.mark.slow
@pytest.mark.parametrize(("target", "kind"), [("coreml", "linear"), ("executorch", "FullyConnected")])
def test_a_loud_model_passes_parity_with_its_loud_ops_in_float32(target: str, kind: str, tmp_path: Path) -> None:
    model = write_loud(tmp_path / "loud", 1e6)
    (outcome,) = pipeline.convert(pipeline.Request(model, (target,), AUTO, tmp_path, image_only=True))
    assert (outcome.status, outcome.error) == ("passed", None)
    assert outcome.bundle is not None
    assert outcome.bundle.manifest.recipe.float32_ops == LOUD_PLACES
    ops = registry.runtime(target).inspect(outcome.bundle)["encode_image"]
    counts = {op.dtype: op.count for op in ops if op.kind == kind}
    assert counts["fp32"] == 2
    assert counts["fp16"] > 8


@pytest.mark.slow
def test_a_conversion_tells_what_comes_close(tmp_path: Path) -> None:
    model = write_loud(tmp_path / "near", 1e4)
    result = run("convert", model, "--target", "coreml", "--image-only", "--no-cache", "--out", tmp_path, "--json")
    (outcome,) = json.loads(result.stdout)["outcomes"]
    assert outcome["status"] == "passed"
    assert all(0 < op["headroom"] < 4 or op["verdict"] == "underflow" for op in outcome["at_risk"])
    assert {"encode_image/blocks.1.mlp.fc1": "near", "encode_image/blocks.1.mlp.fc2": "underflow"}.items() <= {
        op["place"]: op["verdict"] for op in outcome["at_risk"]
    }.items()


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.slow
def test_what_a_target_writes_out_is_audited_as_it_is_lowered(tmp_path: Path) -> None:
    """GELU's tanh form cubes its input: 100 becomes a million, in ExecuTorch, where it is no single op."""
    model = write_loud(tmp_path / "siglip", 1e3, "siglip")
    found = json.loads(run("audit", model, "--json", "--samples", "2").stdout)["audits"]
    lost = {each["target"]: {op["kind"] for op in each["ops"] if op["verdict"] == "overflow"} for each in found}
    assert lost["coreml"] == set()
    assert "mul" in lost["executorch"]


def test_the_command_shows_the_nearest_ops_and_the_recipe(tmp_path: Path) -> None:
    model = write_loud(tmp_path / "loud", 1e6)
    result = run("audit", model, "--target", "coreml", "--data", "scenes:train:4", "--samples", "3", "--top", "2")
    assert result.exit_code == 1
    assert "encode_image/blocks.1.mlp" in result.stdout
    assert "\n  - encode_image/blocks.1.mlp.fc2\n" in result.stdout
    assert "encode_text" in result.stdout


@pytest.mark.slow
def test_the_built_in_student_fits() -> None:
    result = run("audit", "--samples", "4")
    assert result.exit_code == 0, result.output
    assert "tflite: computes in float32" in result.stdout
    assert "overflow" not in result.stdout


# Models that talk: what their components take while dialogues are put.


def write_loud_talker(folder: Path, factor: float) -> Path:
    """A LLaVA whose second MLP has hidden values `factor` times as large, and the same answers."""
    shutil.copytree(library.talker_checkpoint("llava"), folder)
    weights = load_file(folder / "model.safetensors")
    for name in weights:
        if "language_model" in name and ".layers.1.mlp." in name:
            weights[name] = weights[name] * ({"up": factor, "down": 1 / factor}.get(name.split(".")[-2][:-5], 1))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


LOUD_DIALOGUE = ("decode/layers.1.mlp", "decode/layers.1.mlp.down_proj", "decode/layers.1.mlp.up_proj")


@pytest.mark.parametrize("target", TARGETS)
def test_a_loud_model_that_talks_is_settled_by_its_dialogues(target: str, tmp_path: Path) -> None:
    model = talking.load(write_loud_talker(tmp_path / "loud", 1e6), name="l", context_length=96, lengths=(1, 8))
    source, converter = PreparedTalker(model), registry.converter(target)
    with pytest.raises(UnsupportedError, match=r"decode/layers\.1\.mlp\S*: \w+ reaches 4e\+06, and 2 more"):
        settle(converter, source, FP16, silent)
    recipe, _ = settle(converter, source, AUTO, silent)
    assert {*LOUD_DIALOGUE} <= {*recipe.float32_ops}
    assert len(recipe.float32_ops) < 6
    rows = source.audit_rows(silent)
    assert len(rows["embeddings"]) == len(rows["keys_0"]) == len(golden_questions(source.original))
    assert rows["positions"].shape[1] == 8
    assert rows["positions"].max() > 64  # near the far end of the context
    assert (rows["keys_0"] != 0).any()


@pytest.mark.slow
def test_a_loud_model_that_talks_passes_with_its_loud_ops_in_float32(tmp_path: Path) -> None:
    folder = write_loud_talker(tmp_path / "loud", 1e6)
    request = pipeline.Request(folder, ("coreml",), AUTO, tmp_path, context_length=96, lengths=(1, 8))
    (outcome,) = pipeline.convert(request)
    assert (outcome.status, outcome.error) == ("passed", None)
    assert outcome.bundle is not None
    assert {*LOUD_DIALOGUE} <= {*outcome.bundle.manifest.recipe.float32_ops}


def test_the_command_audits_a_model_that_talks(tmp_path: Path) -> None:
    model = write_loud_talker(tmp_path / "loud", 1e6)
    result = run("audit", model, "--target", "coreml", "--data", "scenes:train:4", "--samples", "2", "--top", "2")
    assert result.exit_code == 1, result.output
    assert "\n  - decode/layers.1.mlp.up_proj\n" in result.stdout
    assert "encode_image/" in result.stdout
