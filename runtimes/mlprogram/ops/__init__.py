"""The ops, by kind: to add one, write its function into the module that fits."""

from edgevlm.runtimes.mlprogram.ops import (
    compression,
    convolution,
    elementwise,
    indexing,
    linear,
    normalisation,
    quantisation,
    rearrangement,
    recurrent,
    reduction,
    resampling,
    scattering,
    shape,
    sorting,
)
from edgevlm.runtimes.mlprogram.ops.registry import CARRIERS, OPS, Op

__all__ = [
    "CARRIERS",
    "OPS",
    "Op",
    "compression",
    "convolution",
    "elementwise",
    "indexing",
    "linear",
    "normalisation",
    "quantisation",
    "rearrangement",
    "recurrent",
    "reduction",
    "resampling",
    "scattering",
    "shape",
    "sorting",
]
