"""How a model is compressed: a built-in name or a small strict YAML file.

name: int8-static
precision: fp16                     # of what stays in floating point
weights:
  dtype: int8                       # float, int8, int4, palette-4 or palette-6
  float_layers: ["encode_image/stem.*"]
activations:
  ranges: static                    # float, dynamic or static
  smooth_quant: 0.5
float32_ops: [auto]                 # or places, such as encode_image/blocks.3.mlp.*: edgevlm audit finds them
parity:
  min_cosine: 0.97
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from edgevlm import schema
from edgevlm.bundle.spec import OF_TALKERS
from edgevlm.errors import InputError, RecipeError

Precision = Literal["fp32", "fp16"]
WeightType = Literal["float", "int8", "int4", "palette-4", "palette-6"]
Ranges = Literal["float", "dynamic", "static"]
LEAST_SAMPLES = 16
"""Calibration samples below which a measured range says nothing about the pictures to come."""
AUTO = "auto"
"""In `float32_ops`: the places that do not fit into float16, found before each conversion."""


@dataclass(frozen=True)
class ParityLimits:
    """How far an artefact's unit-norm embeddings, or logits, and answers may be from the float reference's.

    Where a recipe has the usual ones of a built-in recipe, a model that talks is held to what suits its precision.

    >>> edgevlm.Recipe.load("int8").parity.min_cosine
    0.99

    Attributes:
        max_abs_error: Largest absolute difference of any embedding component, or logit; None leaves it unlimited.
        min_cosine: Least cosine between an embedding and its reference; refused for models that talk.
        min_top1_agreement: Least share of samples whose zero-shot answer, or next token, is the reference's, 0..1.
        max_kl: Mean divergence of the next token's probabilities, in nats; refused for models that give embeddings.
    """

    max_abs_error: float | None = None
    min_cosine: float | None = None
    min_top1_agreement: float | None = None
    max_kl: float | None = field(default=None, metadata=OF_TALKERS)


@dataclass(frozen=True)
class Weights:
    """What becomes of the weights of matrix products, convolutions and token embeddings.

    Layers are named by globs on `component/layer`, such as `encode_image/blocks.3.*`.

    >>> edgevlm.Recipe.load("int4-weights").weights.group_size
    32

    Attributes:
        dtype: `int8` is symmetric, a scale per output channel; `int4` the same per group of input channels;
            `palette-4` and `palette-6` are indices of 4 or 6 bits into a table of values, one table a weight.
        group_size: Input channels that share a scale in `int4`.
        int4_share: Share of the weights that become int4 in `int4`; the rest, those that it would hurt most, stay int8.
        sparsity: Share of each weight that is set to zero, the smallest magnitudes first, 0..1.
        float_layers: Layers that stay in the recipe's precision.
    """

    dtype: WeightType = "float"
    group_size: int = 32
    int4_share: float = 1.0
    sparsity: float = 0.0
    float_layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Activations:
    """What becomes of the inputs of int8 layers.

    >>> edgevlm.Recipe.load("int8").activations.ranges
    'dynamic'

    Attributes:
        ranges: `float` leaves them; `dynamic` quantises each as it comes, where the target can (Core ML cannot, and
            keeps them in floating point); `static` with ranges measured on calibration data.
        smooth_quant: How much of the range of activations moves into the weights, 0..1 (SmoothQuant's alpha,
            arXiv 2211.10438); None leaves it out. For `static`.
        bias_correction: Whether biases make up for the mean shift of quantisation (arXiv 1906.04721). For `static`.
    """

    ranges: Ranges = "float"
    smooth_quant: float | None = None
    bias_correction: bool = False


@dataclass(frozen=True)
class Calibration:
    """How much calibration data is taken, where any is needed.

    >>> edgevlm.Recipe.load("int8-static").calibration.samples
    128

    Attributes:
        samples: Pictures, and texts.
        seed: Which ones: those that `random.Random(seed)` picks.
    """

    samples: int = 128
    seed: int = 0


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe, as it is written into the manifest.

    >>> import dataclasses, edgevlm
    >>> int8 = edgevlm.Recipe.load("int8")  # or a YAML file; `edgevlm recipes int8 --copy my.yaml` writes one
    >>> int8.weights.dtype, int8.parity.min_cosine
    ('int8', 0.99)
    >>> mine = dataclasses.replace(int8, name="mine", float32_ops=("auto",))  # what `edgevlm.convert` takes as well

    Attributes:
        name: What bundles are called after.
        precision: Of what stays in floating point. `fp16` is float16 weights, and float16 arithmetic where the target
            has it beside what the other sections ask for; XNNPACK computes in float32 between its int8 layers.
        summary: One line for `edgevlm recipes`.
        parity: Left out of a file, what the most similar built-in recipe demands.
        float32_ops: What stays in float32 in an fp16 recipe: globs on `component/module`, such as
            `encode_image/blocks.3.mlp.*`, and `auto`, which is what does not fit into float16, found before each
            conversion. Where a target computes in float32 anyway, nothing changes.
    """

    name: str
    precision: Precision
    summary: str
    parity: ParityLimits
    weights: Weights = field(default_factory=Weights, metadata={"since": "1.1"})
    activations: Activations = field(default_factory=Activations, metadata={"since": "1.1"})
    calibration: Calibration = field(default_factory=Calibration, metadata={"since": "1.1"})
    float32_ops: tuple[str, ...] = field(default=(), metadata={"since": "1.1"})

    @classmethod
    def load(cls, name_or_file: str | Path) -> Recipe:
        """The built-in recipe of that name, or the one in that YAML file; see `resolve`."""
        return resolve(name_or_file)

    @property
    def quantises(self) -> bool:
        """Whether weights become integers of NNCF's choice."""
        return self.weights.dtype in ("int8", "int4")

    @property
    def needs_calibration(self) -> bool:
        return self.activations.ranges == "static"

    def keeps_float32(self, place: str) -> bool:
        """Whether ops that stand there stay in float32. A `*` stands for any characters, dots too."""
        return any(fnmatchcase(place, pattern) for pattern in self.float32_ops)


BUILTIN: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="fp32",
            precision="fp32",
            summary="float32 weights and arithmetic: the reference's own answers, twice fp16's size",
            parity=ParityLimits(max_abs_error=1e-5, min_cosine=0.999999, min_top1_agreement=0.99),
        ),
        Recipe(
            name="fp16",
            precision="fp16",
            summary="float16 weights; float16 arithmetic where the target has it",
            parity=ParityLimits(min_cosine=0.9999, min_top1_agreement=0.99),
        ),
        Recipe(
            name="int8",
            precision="fp16",
            summary="int8 weights and, where the target has them, activations quantised as they come: the best default",
            parity=ParityLimits(min_cosine=0.99, min_top1_agreement=0.95),
            weights=Weights(dtype="int8"),
            activations=Activations(ranges="dynamic"),
        ),
        Recipe(
            name="int8-static",
            precision="fp16",
            summary="int8 weights and activations, their ranges fixed by calibration data",
            parity=ParityLimits(min_cosine=0.97, min_top1_agreement=0.9),
            weights=Weights(dtype="int8"),
            activations=Activations(ranges="static", bias_correction=True),
        ),
        Recipe(
            name="int8-weights",
            precision="fp16",
            summary="int8 weights that are widened before use: a quarter of the size, the speed of float",
            parity=ParityLimits(min_cosine=0.99, min_top1_agreement=0.95),
            weights=Weights(dtype="int8"),
        ),
        Recipe(
            name="int4-weights",
            precision="fp16",
            summary="int4 weights in groups of 32, int8 where a layer cannot be grouped",
            parity=ParityLimits(min_cosine=0.95, min_top1_agreement=0.85),
            weights=Weights(dtype="int4"),
            activations=Activations(ranges="dynamic"),
        ),
        Recipe(
            name="prune-50",
            precision="fp16",
            summary="half of each weight zero: smaller in a Core ML package and in any compressed download",
            parity=ParityLimits(min_cosine=0.9, min_top1_agreement=0.8),
            weights=Weights(sparsity=0.5),
        ),
        Recipe(
            name="prune-50-int8",
            precision="fp16",
            summary="half of each weight zero, the rest int8",
            parity=ParityLimits(min_cosine=0.9, min_top1_agreement=0.8),
            weights=Weights(dtype="int8", sparsity=0.5),
            activations=Activations(ranges="dynamic"),
        ),
        Recipe(
            name="palette-6",
            precision="fp16",
            summary="weights as 6-bit indices into tables of 64 values (Core ML)",
            parity=ParityLimits(min_cosine=0.98, min_top1_agreement=0.9),
            weights=Weights(dtype="palette-6"),
        ),
        Recipe(
            name="palette-4",
            precision="fp16",
            summary="weights as 4-bit indices into tables of 16 values (Core ML)",
            parity=ParityLimits(min_cosine=0.9, min_top1_agreement=0.8),
            weights=Weights(dtype="palette-4"),
        ),
    )
}


def resolve(given: str | Path | Recipe) -> Recipe:
    """The built-in recipe of that name, or the one in that YAML file, or the one that was made in Python.

    Raises:
        RecipeError: no such recipe; or it has an unknown key, a wrong type or a value out of range.
    """
    if isinstance(given, Recipe):
        _check(given, f"the recipe {given.name!r}")
        return given
    name = str(given)
    if name in BUILTIN:
        return BUILTIN[name]
    path = Path(given)
    is_file = os.path.isfile(path)  # which, unlike Path's, says no to a name that is too long for one
    if not is_file and path.suffix in (".yaml", ".yml"):
        raise RecipeError(f"{path}: no such file")
    if not is_file:
        raise RecipeError(
            f"no recipe {name!r}: expected one of {', '.join(BUILTIN)}, or the path of a YAML file",
            hint="edgevlm recipes lists the built-in ones",
        )
    return _read(path)


def _read(path: Path) -> Recipe:
    data = schema.read_yaml(path, error=RecipeError)
    defaults = {"name": path.stem, "summary": "", "parity": {}}
    recipe = schema.read(Recipe, defaults | data, where=str(path), error=RecipeError)
    recipe = recipe if "parity" in data else replace(recipe, parity=usual_limits(recipe))
    _check(recipe, str(path))
    return recipe


def _check(recipe: Recipe, where: str) -> None:
    """Raises RecipeError for a value out of range, values that do not go together, or a name that is taken."""
    refuse_bad_name(recipe.name, f"{where}: name", RecipeError)
    for what, fine in _demands(recipe):
        if not fine:
            raise RecipeError(f"{where}: {what}")
    if recipe != BUILTIN.get(recipe.name, recipe):
        raise RecipeError(f"{where}: name: {recipe.name!r} is a built-in recipe's", hint="choose another name")


def refuse_bad_name(name: str, where: str, error: type[InputError] = InputError) -> None:
    """Raises `error` unless bundles can be called after a name, in every file system and in one folder."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._+-]*", name):
        raise error(f"{where}: expected letters, digits and . _ + - only, got {name!r}")


def _demands(recipe: Recipe) -> Iterator[tuple[str, bool]]:
    """What has to hold, in words, and whether it does."""
    weights, activations = recipe.weights, recipe.activations
    shares = {f"parity.{key}": limit for key, limit in schema.write(recipe.parity).items()}
    shares |= {f"weights.{key}": getattr(weights, key) for key in ("int4_share", "sparsity")}
    shares["activations.smooth_quant"] = activations.smooth_quant
    for key, share in shares.items():
        yield f"{key}: expected a number from 0 to 1, got {share!r}", share is None or 0 <= share <= 1
    group_size, samples = weights.group_size, recipe.calibration.samples
    yield f"weights.group_size: expected 1 or more, got {group_size}", group_size >= 1
    yield f"calibration.samples: expected {LEAST_SAMPLES} or more, got {samples}", samples >= LEAST_SAMPLES
    yield "weights.sparsity: expected less than 1: nothing would be left", weights.sparsity < 1
    yield (
        f"weights.sparsity goes with float or int8 weights, got {weights.dtype}",
        weights.sparsity == 0 or weights.dtype in ("float", "int8"),
    )
    yield (
        f"activations.ranges: {activations.ranges} needs integer weights, got weights.dtype: {weights.dtype}",
        activations.ranges == "float" or recipe.quantises,
    )
    yield (
        f"float32_ops: expected precision: fp16, got {recipe.precision}: all ops are float32",
        not recipe.float32_ops or recipe.precision == "fp16",
    )
    static = activations.ranges == "static"
    yield "activations.ranges: static needs weights.dtype: int8, got int4", not static or weights.dtype == "int8"
    for key in ("smooth_quant", "bias_correction"):
        yield (
            f"activations.{key} needs activations.ranges: static, got {activations.ranges}",
            static or not getattr(activations, key),
        )


def usual_limits(recipe: Recipe) -> ParityLimits:
    """Those of the built-in recipe that is most like it."""

    def likeness(other: Recipe) -> tuple[bool, ...]:
        return (
            other.weights.dtype == recipe.weights.dtype,
            (other.weights.sparsity > 0) == (recipe.weights.sparsity > 0),
            other.activations.ranges == recipe.activations.ranges,
            other.precision == recipe.precision,
        )

    return max(BUILTIN.values(), key=likeness).parity
