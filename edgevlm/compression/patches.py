"""NNCF's choices that no kernel of our targets asks for and `quantize_pt2e` has no switch for.

They are set while a program is quantised and restored after it. Each has a test that fails once NNCF chooses as we do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from nncf.experimental.torch.fx.quantization.quantizer.torch_ao_adapter import (  # type: ignore[import-untyped]
    TorchAOQuantizerAdapter,
)
from nncf.quantization.algorithms.min_max.algorithm import MinMaxQuantization  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from torch.fx import GraphModule


@contextlib.contextmanager
def applied() -> Iterator[None]:
    """Sets both for as long as the block runs."""
    with _whole_range(), _signed_weights():
        yield


@contextlib.contextmanager
def _whole_range() -> Iterator[None]:
    """Gives each weight all its 8 bits.

    NNCF leaves out a bit of the first convolution's, for kernels of old x86 CPUs that add products in 16 bits.
    """
    before = MinMaxQuantization._get_quantization_points_overflow_fix
    MinMaxQuantization._get_quantization_points_overflow_fix = lambda *_: set()
    try:
        yield
    finally:
        MinMaxQuantization._get_quantization_points_overflow_fix = before


@contextlib.contextmanager
def _signed_weights() -> Iterator[None]:
    """Keeps every weight's zero point at 0.

    Where no weight of a layer is negative, NNCF takes the range for an unsigned one and lets -127 stand for zero: a
    step half as wide, and a zero point, for which symmetric weights have no place in any target's file.
    """
    before = TorchAOQuantizerAdapter.get_quantizer_config_from_annotated_model

    def signed(annotated: GraphModule) -> Any:
        setup = before(annotated)
        for point in setup.quantization_points.values():
            if point.is_weight_quantization_point():
                point.qconfig.signedness_to_force = True
        return setup

    TorchAOQuantizerAdapter.get_quantizer_config_from_annotated_model = staticmethod(signed)
    try:
        yield
    finally:
        TorchAOQuantizerAdapter.get_quantizer_config_from_annotated_model = staticmethod(before)
