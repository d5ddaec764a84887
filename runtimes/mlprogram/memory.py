"""How much memory a program's results may take. They are as large as the package says, and anyone can write one."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import zip_longest
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from edgevlm.errors import BundleError, UnsupportedError
from edgevlm.runtimes.mlprogram.ops.registry import CARRIERS

_SHARE = 0.75
"""Of the machine's memory that a program's results may take."""
_WITHOUT_SYSCONF = 16 << 30
"""Bytes of memory where the system does not tell."""


def _physical_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return _WITHOUT_SYSCONF


MOST_BYTES = int(_SHARE * _physical_bytes())
"""What the results of a program may take together."""
SMALL = 1 << 26
"""Elements: a result that certainly has no more is not measured before it is made."""


def require_room(name: str, dtype: str, shape: Sequence[int]) -> None:
    """Refuses an input or state that could not be held.

    Raises:
        BundleError: a size is negative.
        UnsupportedError: it takes more than `MOST_BYTES`.
    """
    if any(size < 0 for size in shape):
        raise BundleError(f"{name}: a shape of {list(shape)}")
    size_bytes = math.prod(shape) * CARRIERS[dtype].itemsize
    if size_bytes > MOST_BYTES:
        raise UnsupportedError(f"{name}: a shape of {list(shape)} takes {_beyond(size_bytes)}")


class Memory(TorchDispatchMode):
    """While it is entered, no result of torch is made that would not fit.

    A call whose result may be large is first made without data, on torch's `meta` device, which tells how large.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._held_bytes = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Otherwise torch's compiler, which is not used here, is imported at the first call: a second and a half."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """See TorchDispatchMode.

        Raises:
            UnsupportedError: the result, with those that are still held, would not fit.
        """
        kwargs = kwargs or {}
        given = _tensors((*args, *kwargs.values()))
        if _reach(func, args, given) > SMALL:
            with self:  # what torch makes of other ops may hold more on the way than its result
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
            self._require(_measure(func, args, kwargs))
        result = func(*args, **kwargs)
        known = {tensor.untyped_storage().data_ptr() for tensor in given}
        for tensor in _tensors((result,)):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in known:
                self._held_bytes += storage.nbytes()
                weakref.finalize(storage, self._release, storage.nbytes()).atexit = False
        self._require(0)
        return result

    def _require(self, size_bytes: int) -> None:
        if self._held_bytes + size_bytes > MOST_BYTES:
            raise UnsupportedError(f"the results take {_beyond(self._held_bytes + size_bytes)}")

    def _release(self, size_bytes: int) -> None:
        self._held_bytes -= size_bytes


def _beyond(size_bytes: int) -> str:
    most = f"{MOST_BYTES / 1e6:,.0f} MB, {_SHARE:.0%} of this machine's memory"
    return f"{size_bytes / 1e6:,.0f} MB, and the most that the evaluator holds is {most}"


def _tensors(values: Iterable[Any]) -> list[torch.Tensor]:
    """Those among the values, and in tuples and lists among them."""
    found = []
    for value in values:
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, torch.Tensor):
                found.append(each)
    return found


@cache
def _family(func: Any) -> str:
    """What the size of a call's result follows from, for the calls that make up most programs."""
    name: str = func.overloadpacket.__name__
    if name in ("linear", "index_select"):
        return name
    if torch.Tag.pointwise in func.tags or name in ("matmul", "mm", "bmm", "addmm"):
        return "broadcast"
    views = any(each.alias_info is not None for each in func._schema.returns)
    if (views and name not in ("expand", "unfold", "as_strided")) or name.endswith(("_norm", "softmax")):
        return "first"
    return "convolution" if name in ("conv1d", "conv2d", "conv3d") else "other"


def _reach(func: Any, args: tuple[Any, ...], given: Sequence[torch.Tensor]) -> int:
    """At most so many elements has a call's result; of calls of the family `other` far too many are reckoned."""
    if not given:
        return SMALL + 1
    family, first = _family(func), given[0].numel()
    if family == "first":
        return first
    if family == "broadcast":  # a matrix product is no larger than its factors, were they broadcast
        together = zip_longest(*(reversed(each.shape) for each in given), fillvalue=1)
        return math.prod(max(sizes) for sizes in together)
    if family == "linear":
        return first // max(given[1].shape[-1], 1) * given[1].shape[0]
    if family == "index_select":
        axis: int = args[1]
        return first // max(given[0].shape[axis], 1) * given[1].numel()
    if family == "convolution" and given[0].ndim == given[1].ndim:
        margin: int = 2 * max(args[4]) if len(args) > 4 else 0
        x, weight = given[:2]
        return len(x) * len(weight) * math.prod(size + margin for size in x.shape[2:])
    numbers = (each for value in args for each in (value if isinstance(value, tuple | list) else (value,)))
    tensors = math.prod(max(each.numel(), 1) for each in given)
    return tensors * math.prod(abs(each) + 1 for each in numbers if isinstance(each, int))


def _measure(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """Bytes of a call's results; 0 if they depend on data, since these are no larger than what was given."""
    elsewhere = {"device": torch.device("meta"), "generator": None}
    named = {name: elsewhere.get(name, _without_data(value)) for name, value in kwargs.items()}
    try:
        result = func(*(_without_data(value) for value in args), **named)
    except Exception as error:  # the call itself tells what is wrong with its arguments
        return 1 << 63 if "overflow" in str(error) else 0
    return sum(tensor.numel() * tensor.itemsize for tensor in _tensors((result,)))


def _without_data(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to("meta")
    return [_without_data(each) for each in value] if isinstance(value, list | tuple) else value
