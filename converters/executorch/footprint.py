"""What a .pte is expected to take, before it is made: what XNNPACK stores of each weight, and what it keeps of it."""

from __future__ import annotations

from collections.abc import Mapping

from edgevlm.bundle.recipe import Recipe
from edgevlm.graphs.outline import Constant, Outline, keep_state
from edgevlm.targets.converter import Footprint

# Measured by `python -m edgevlm.benchmarks.forecast`: instructions and what describes a delegate's ops; pages of the
# runtime's library; its allocator's and XNNPACK's own bookkeeping.
_BYTES_A_CALL, _LIBRARY_BYTES, _ENGINE_BYTES = 400, 3_600_000, 1_000_000


def footprint(outlines: Mapping[str, Outline], recipe: Recipe, requires: Mapping[str, str]) -> Footprint:
    """One file, in which equal weights are stored once.

    XNNPACK packs the weights of its ops, in the type in which they are stored, and the runtime lets go of the file's
    copy. Tables of tokens stay in the file, which is mapped. Of a model that talks every method is loaded at once, with
    an arena of its own, a state among it.

    Args:
        outlines: By method, with what the recipe makes of each constant.
        recipe: The recipe.
        requires: The least versions.
    """
    half = recipe.precision == "fp16" and not recipe.quantises  # integer kernels take and give float32
    # A table of tokens stays with the program, and a head that is tied to it lies in XNNPACK's delegate.
    constants = (each for outline in outlines.values() for each in outline.constants)
    apart = {(each.address, each.shape, each.kind == "embedding"): each for each in constants}
    stored = sum(_stored_bytes(each, half) for each in apart.values())
    peaks = []
    for outline in outlines.values():
        tables = sum(_stored_bytes(each, half) for each in outline.constants if each.kind == "embedding")
        packed = sum(_stored_bytes(each, half) for each in outline.constants if each.kind != "embedding")
        peaks.append((packed + outline.activation_bytes, tables))
    together = keep_state(outlines.values())
    anonymous, mapped = map(sum, zip(*peaks, strict=True)) if together else max(peaks, key=sum)
    return Footprint(
        size_bytes=stored + sum(outline.calls for outline in outlines.values()) * _BYTES_A_CALL,
        anonymous_bytes=anonymous + _ENGINE_BYTES,
        mapped_bytes=mapped + _LIBRARY_BYTES,
        requires=requires,
        basis="packed weights, token tables in the mapped file, activations, and the engine's own"
        + (", of all methods, a dialogue's state among them" if together else ""),
    )


def _stored_bytes(constant: Constant, half: bool) -> int:
    if constant.dtype == "int8":
        return constant.count + 4 * constant.scales
    if constant.dtype == "int4":
        return constant.count // 2 + 2 * constant.scales
    # XNNPACK takes a float16 convolution's weights in float32; norms, positions and masks stay in it.
    return constant.count * (2 if half and constant.kind in ("linear", "embedding") else 4)
