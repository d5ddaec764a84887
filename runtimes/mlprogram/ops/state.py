"""States: what a program keeps from one prediction to the next."""

from __future__ import annotations

from edgevlm.errors import BundleError
from edgevlm.runtimes.mlprogram.ops.registry import Tensor, Values, op
from edgevlm.runtimes.mlprogram.values import Cell


@op("read_state", pure=False, moves=True)
def read_state(input: Cell) -> Tensor:
    return input.value


@op("write_state", pure=False, moves=True)
def write_state(input: Cell, data: Tensor) -> Values:
    if data.shape != input.value.shape or data.dtype != input.value.dtype:
        raise BundleError(f"a state of {list(input.value.shape)} is given {list(data.shape)}")
    input.value = data
    return ()
