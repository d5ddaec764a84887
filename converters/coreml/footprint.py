"""What an ML Program is expected to take, before it is made: what each weight is stored as, op for op."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgevlm.bundle.recipe import Recipe
from edgevlm.graphs.outline import Constant, Outline, distinct, keep_state
from edgevlm.targets.converter import Footprint

# Measured by `python -m edgevlm.benchmarks.forecast`; a model's file names its ops and what flows between them.
_BYTES_A_CALL, _BYTES_A_STATIC_LAYER, _BYTES_A_BLOB = 350, 1800, 64 + 32  # blobs are aligned, with a record each
LEAST_SIZE = 2048
"""Numbers below which coremltools leaves a weight as it is: the ops would cost more than it saves."""
WORTH_A_MASK = 0.3
"""Share of zeros from which a bit for each value, and the values that are not zero, are less than all of them."""


def footprint(packages: Sequence[Mapping[str, Outline]], recipe: Recipe, requires: Mapping[str, str]) -> Footprint:
    """Packages that share nothing: a tower that two of them have is stored twice. Within each, weights are stored once.

    Args:
        packages: What each consists of by function, with what the recipe makes of each constant.
        recipe: The recipe.
        requires: The least systems.
    """
    width = 4 if recipe.precision == "fp32" else 2
    static = recipe.activations.ranges == "static"
    sizes, peaks = [], []
    for functions in (package.values() for package in packages):
        constants = distinct(functions)
        stored = sum(_stored_bytes(each, width) + _BYTES_A_BLOB for each in constants)
        layers = sum(each.dtype == "int8" for each in constants) if static else 0
        calls = sum(function.calls for function in functions)
        sizes.append(stored + calls * _BYTES_A_CALL + layers * _BYTES_A_STATIC_LAYER)
        laid_out = width * sum(each.count for each in constants)
        activations = sum(function.activation_bytes for function in functions)
        peaks.append((laid_out + activations * width // 4, stored))
    together = any(keep_state(package.values()) for package in packages)
    anonymous, mapped = map(sum, zip(*peaks, strict=True)) if together else max(peaks, key=sum)
    return Footprint(
        size_bytes=sum(sizes),
        anonymous_bytes=anonymous,
        mapped_bytes=mapped,
        requires=requires,
        basis="weights as stored, again in full as an engine lays them out, and activations"
        + (" of all functions, a dialogue's state among them" if together else "")
        + "; checked on no device",
    )


def _stored_bytes(constant: Constant, width: int) -> int:
    """Bytes of one constant beside `width` bytes a float."""
    count, scales = constant.count, constant.scales * width
    large = constant.kind != "other" and count > LEAST_SIZE
    if constant.dtype.startswith("palette") and large:
        bits = int(constant.dtype.removeprefix("palette-"))
        return count * bits // 8 + (width << bits)
    if constant.dtype == "int4":
        return count // 2 + scales
    each = 1 if constant.dtype == "int8" else width
    if constant.sparsity > WORTH_A_MASK and (constant.dtype == "int8" or large):
        return count // 8 + round((1 - constant.sparsity) * count) * each + (scales if each == 1 else 0)
    return count + scales if constant.dtype == "int8" else count * width
