"""Weights as a file stores them: integers and scales, as they were decided and as they are read back.

A symmetric weight stands for `scale * (value - zero_point)`, the zero point being 0. Its layout here is PyTorch's,
whatever a file's own is: [out, in] for matrix products, [out, in, height, width] for convolutions and [tokens, dim] for
token embeddings, with a scale for each first index, or for each group of `in / groups` second indices of it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

ScaleType = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class StoredWeight:
    """One weight as integers.

    >>> values, scale = np.array([[-127, 64]], np.int8), np.array([[0.5]], np.float32)
    >>> weight = StoredWeight("fc1", 8, values, scale, zero_point=np.zeros((1, 1), np.int32))
    >>> weight.scale * (weight.values - weight.zero_point)
    array([[-63.5,  32. ]])

    Attributes:
        layer: Name of the layer in the model, or of the tensor in the file.
        bits: 8 or 4; values are -127..127 or -8..7.
        values: int8, in PyTorch's layout.
        scale: float32 [out, groups]; one group where there is a scale per output channel.
        zero_point: int32 [out, groups].
        scale_type: What the file stores the scale as.
    """

    layer: str
    bits: int
    values: NDArray[np.int8]
    scale: NDArray[np.float32]
    zero_point: NDArray[np.int32]
    scale_type: ScaleType = "float32"

    def rounded(self, scale_type: ScaleType) -> StoredWeight:
        """The same with its scale rounded, to nearest even, to what a file's format stores."""
        return replace(self, scale=_round(self.scale, scale_type), scale_type=scale_type)

    def digest(self) -> str:
        """A hash of the integers, scales and zero points; not of the name."""
        digest = hashlib.sha256(f"{self.bits} {self.values.shape} {self.scale.shape} {self.scale_type}".encode())
        digest.update(np.ascontiguousarray(self.values, np.int8).data)
        digest.update(np.ascontiguousarray(self.scale, np.float32).data)
        digest.update(np.ascontiguousarray(self.zero_point, np.int32).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class WeightProof:
    """The weights of one component that were decided, against those that its shipped file holds.

    Attributes:
        component: Which.
        bits: How many weights of each width were decided, e.g. `{"8": 21}`.
        scale_types: What the file stores the scales of each width as, e.g. `{"8": "float32"}`.
        identical: How many are in the file with the same integers, scales and zero points.
        lost: Layers of the others.
        digests: Of the decided weights, in the order of their layers' names, for `edgevlm verify`.
    """

    component: str
    bits: dict[str, int]
    scale_types: dict[str, str]
    identical: int
    lost: tuple[str, ...]
    digests: tuple[str, ...]

    @property
    def decided(self) -> int:
        return len(self.digests)


def prove(component: str, decided: Sequence[StoredWeight], found: Sequence[StoredWeight]) -> WeightProof:
    """Compares weight by weight; the scales as the file's format stores them.

    Args:
        component: Which.
        decided: The weight of each layer.
        found: Those that the file's ops read, each once for every op that does: a file keeps the equal weights of two
            layers once, and a layer whose op reads something else is lost all the same.
    """
    scale_types = {weight.bits: weight.scale_type for weight in found}
    expected = {weight.layer: weight.rounded(scale_types.get(weight.bits, "float32")).digest() for weight in decided}
    there = Counter(weight.digest() for weight in found)
    lost = []
    for layer, digest in expected.items():
        if there[digest]:
            there[digest] -= 1
        else:
            lost.append(layer)
    return WeightProof(
        component=component,
        bits={str(bits): count for bits, count in sorted(Counter(weight.bits for weight in decided).items())},
        scale_types={str(bits): kind for bits, kind in sorted(scale_types.items())},
        identical=len(expected) - len(lost),
        lost=tuple(sorted(lost)),
        digests=tuple(expected[layer] for layer in sorted(expected)),
    )


def prove_again(proof: WeightProof, found: Sequence[StoredWeight]) -> WeightProof:
    """The same proof, from what a file holds now. Layers have no names any more: `lost` has digests."""
    lost = Counter(proof.digests) - Counter(weight.digest() for weight in found)
    return replace(proof, identical=proof.decided - lost.total(), lost=tuple(sorted(lost.elements())))


def _round(scale: NDArray[np.float32], scale_type: ScaleType) -> NDArray[np.float32]:
    if scale_type == "float16":
        return scale.astype(np.float16).astype(np.float32)
    if scale_type == "bfloat16":  # float32's upper half
        bits = np.ascontiguousarray(scale, np.float32).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    return scale
