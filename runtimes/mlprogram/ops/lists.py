"""Lists of tensors."""

from __future__ import annotations

from typing import Literal

import torch

from edgevlm.errors import UnsupportedError
from edgevlm.runtimes.mlprogram.ops.registry import CARRIERS, Ints, Tensor, Values, op
from edgevlm.runtimes.mlprogram.values import TensorList

LONGEST = 1 << 16
"""Elements; a longer list is refused rather than made."""


@op("make_list")
def make_list(
    elem_shape: Values,
    init_length: int = 1,
    dynamic_length: bool = True,
    dtype: Literal["bool", "fp16", "fp32", "int32"] = "fp32",
) -> TensorList:
    if not 0 <= init_length <= LONGEST:
        raise UnsupportedError(f"a list of {init_length:,} elements: 0 to {LONGEST:,} can be held")
    # A size that is a text stands for one that is known only at run time.
    sizes = [int(each) for each in elem_shape if isinstance(each, Tensor)]
    blank = torch.zeros(sizes, dtype=CARRIERS[dtype]) if len(sizes) == len(elem_shape) else None
    return TensorList((None,) * init_length, grows=dynamic_length, blank=blank)


@op("list_length")
def list_length(ls: TensorList) -> Tensor:
    return torch.tensor(len(ls.items), dtype=torch.int32)


@op("list_write")
def list_write(ls: TensorList, index: int, value: Tensor) -> TensorList:
    return _written(ls, index, value)


@op("list_scatter")
def list_scatter(ls: TensorList, indices: Ints, value: Tensor) -> TensorList:
    for index, each in zip(indices, value, strict=True):
        ls = _written(ls, index, each)
    return ls


@op("list_read")
def list_read(ls: TensorList, index: int) -> Tensor:
    return ls[index]


@op("list_gather")
def list_gather(ls: TensorList, indices: Ints) -> Tensor:
    return torch.stack([ls[index] for index in indices])


def _written(ls: TensorList, index: int, value: Tensor) -> TensorList:
    if index > LONGEST:
        raise UnsupportedError(f"element {index:,} of a list: {LONGEST:,} can be held")
    return ls.with_item(index, value)
