"""What a .tflite is expected to take, before it is made: what it stores of each weight, and what XNNPACK keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgevlm.bundle.recipe import Recipe
from edgevlm.graphs.outline import Constant, Outline, distinct, keep_state
from edgevlm.targets.converter import Footprint

# Measured by `python -m edgevlm.benchmarks.forecast`: ops, tensors and the places that they come from, in words; pages
# of the runtime's library; its allocator's and XNNPACK's own bookkeeping.
_BYTES_A_CALL, _BYTES_A_QUANTISED_CALL, _BYTES_A_STATIC_LAYER = 640, 460, 1000
_LIBRARY_BYTES, _ENGINE_BYTES = 2_600_000, 1_300_000
_COPIES_OF_A_STATE = 4
"""Beside a signature's own: what a step is given and gives back, and the interpreter's copy of each."""


INTEGER_RUNTIMES = {
    "linear": "2.17.0",
    "conv2d": "2.4.0",
    "depthwise": "2.3.0",
    "embedding": "2.18.0",
    "int4": "2.18.0",
    "widening": "2.17.0",
}
"""The first TensorFlow Lite that takes integer weights of a layer; `widening` is the op before one that does not."""
_FLOAT_RUNTIMES = {"linear": "2.0.0", "matmul": "2.3.0", "gelu": "2.9.0"}
"""The first one with an op that torch's function becomes; all others that our models call are older."""


def footprint(models: Sequence[Mapping[str, Outline]], recipe: Recipe) -> Footprint:
    """One file of one model or several, in each of which equal weights are stored once.

    XNNPACK packs the weights of its ops beside the mapped file, in float32 where they are not integers that its kernels
    take. It does so for every component as soon as one of them is opened. Of a model that talks every signature keeps
    an arena of its own, and a state is copied in and out at each step.

    Args:
        models: What each consists of by signature, with what the recipe makes of each constant.
        recipe: The recipe.
    """
    outlines = {name: outline for model in models for name, outline in model.items()}
    constants = tuple(constant for model in models for constant in distinct(model.values()))
    together = keep_state(outlines.values())
    static, halved = recipe.activations.ranges == "static", recipe.precision == "fp16" and not recipe.quantises
    stored = [_stored_bytes(each, 2 if halved else 4, static) for each in constants]
    size_bytes = sum(stored) + sum(outline.calls for outline in outlines.values()) * (
        _BYTES_A_QUANTISED_CALL if recipe.quantises else _BYTES_A_CALL
    )
    tables = [(each, size) for each, size in zip(constants, stored, strict=True) if each.kind == "embedding"]
    packed = sum(_packed_bytes(each, recipe) for each in constants if each.kind != "embedding")
    activations = [outline.activation_bytes for outline in outlines.values()]
    state_bytes = _COPIES_OF_A_STATE * max(outline.state_bytes for outline in outlines.values())
    return Footprint(
        size_bytes=size_bytes,
        anonymous_bytes=packed
        + (sum(4 * each.count for each, _ in tables) if halved else 0)  # widened whole
        + (sum(activations) if together else max(activations))
        + state_bytes
        + _ENGINE_BYTES,
        # Of a table that is not widened whole, only the tokens' rows are read.
        mapped_bytes=size_bytes - (0 if halved else sum(size for _, size in tables)) + _LIBRARY_BYTES,
        requires={"litert": "1.0", "tflite": _least_runtime(outlines, constants, recipe)},
        basis="the mapped file, packed weights, activations, and the engine's own"
        + (", of all signatures, and a dialogue's state as it goes in and comes out" if together else ""),
    )


def _least_runtime(outlines: Mapping[str, Outline], constants: tuple[Constant, ...], recipe: Recipe) -> str:
    """What the file will note: the first TensorFlow Lite that has all its ops."""
    found = {_FLOAT_RUNTIMES.get(op, "1.14.0") for outline in outlines.values() for op in outline.ops}
    for each in constants:
        if each.dtype == "float":
            continue
        if recipe.activations.ranges == "float" and each.kind != "embedding":
            found.add(INTEGER_RUNTIMES["widening"])
        elif recipe.activations.ranges == "dynamic" or each.kind == "embedding":
            found.add(INTEGER_RUNTIMES["int4" if each.dtype == "int4" else each.kind])
    return max(found, key=lambda version: [int(part) for part in version.split(".")])


def _stored_bytes(constant: Constant, width: int, static: bool) -> int:
    """Bytes of one constant where a layer's weights have `width` bytes a float, and everything else has four."""
    if constant.dtype == "int8":  # a float32 scale and an int64 zero point a row
        ranges = 4 * constant.rows + _BYTES_A_STATIC_LAYER if static else 0
        return constant.count + 12 * constant.rows + ranges
    if constant.dtype == "int4":
        return constant.count // 2 + 2 * constant.scales
    return constant.count * (4 if constant.kind == "other" else width)


def _packed_bytes(constant: Constant, recipe: Recipe) -> int:
    if recipe.activations.ranges == "float" and constant.dtype != "float":
        return 8 * constant.count  # widened by an op of its own, and packed
    if constant.dtype == "int8":
        return constant.count + 8 * constant.rows
    if constant.dtype == "int4":
        return constant.count // 2 + 4 * constant.scales
    return 4 * constant.count
