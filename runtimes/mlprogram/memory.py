"""How much memory a program's results may take. They are as large as the package says, and anyone can write one."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
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
        if _reach(func)(args, given) > SMALL:
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


Reach = Callable[[tuple[Any, ...], Sequence[torch.Tensor]], int]
"""At most so many elements has the result of a call, given its arguments and the tensors among them."""


@cache
def _reach(func: Any) -> Reach:
    """What bounds a call's result, exactly for those that make up most programs."""
    name: str = func.overloadpacket.__name__
    if name in _REACHES:
        return _REACHES[name]
    if torch.Tag.pointwise in func.tags:
        return _reach_of_broadcast
    views = any(each.alias_info is not None for each in func._schema.returns)
    if (views and name not in ("expand", "unfold", "as_strided")) or name.endswith(("_norm", "softmax")):
        return lambda args, given: given[0].numel()
    return _reach_of_any


def _reach_of_broadcast(args: tuple[Any, ...], given: Sequence[torch.Tensor]) -> int:
    """A matrix product, too, is no larger than its factors, were they broadcast."""
    together = zip_longest(*(reversed(each.shape) for each in given), fillvalue=1)
    return math.prod(max(sizes) for sizes in together)


def _reach_of_linear(args: tuple[Any, ...], given: Sequence[torch.Tensor]) -> int:
    x, weight = given[:2]
    return x.numel() // max(weight.shape[-1], 1) * weight.shape[0]


def _reach_of_index(args: tuple[Any, ...], given: Sequence[torch.Tensor]) -> int:
    x, *indices = given
    kept = (size for size, index in zip_longest(x.shape, args[1]) if index is None)
    return math.prod(kept) * _reach_of_broadcast((), indices)


def _reach_of_index_select(args: tuple[Any, ...], given: Sequence[torch.Tensor]) -> int:
    axis: int = args[1]
    x, index = given
    return x.numel() // max(x.shape[axis], 1) * index.numel()


def _reach_of_convolution(args: tuple[Any, ...], given: Sequence[torch.Tensor]) -> int:
    x, weight = given[:2]
    margin: int = 2 * max(args[4]) if len(args) > 4 else 0
    return len(x) * len(weight) * math.prod(size + margin for size in x.shape[2:])


def _reach_of_sum(args: tuple[Any, ...], given: Sequence[torch.Tensor]) -> int:
    return sum(each.numel() for each in given)


def _reach_of_sizes(args: tuple[Any, ...], given: Sequence[torch.Tensor]) -> int:
    sizes: Sequence[int] = next(each for each in args if isinstance(each, list | tuple))
    return math.prod(sizes)


def _reach_of_arange(args: tuple[Any, ...], given: Sequence[torch.Tensor]) -> int:
    begin_and_end, step = args[:2], args[2] if len(args) > 2 else 1
    span: float = sum(map(abs, begin_and_end))
    return int(span / abs(step)) + 1 if span < SMALL * abs(step) else SMALL + 1


def _reach_of_any(args: tuple[Any, ...], given: Sequence[torch.Tensor]) -> int:
    """Far too many as a rule."""
    numbers = (each for value in args for each in (value if isinstance(value, tuple | list) else (value,)))
    tensors = math.prod(max(each.numel(), 1) for each in given)
    return max(
        1 if given else SMALL + 1, tensors * math.prod(abs(each) + 1 for each in numbers if isinstance(each, int))
    )


_REACHES: Mapping[str, Reach] = {
    **dict.fromkeys(("matmul", "mm", "bmm", "addmm", "masked_scatter"), _reach_of_broadcast),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _reach_of_convolution),
    **dict.fromkeys(("cat", "stack"), _reach_of_sum),
    **dict.fromkeys(("zeros", "ones", "empty", "full", "new_empty", "new_zeros", "new_ones"), _reach_of_sizes),
    "arange": _reach_of_arange,
    "linear": _reach_of_linear,
    "index": _reach_of_index,
    "index_select": _reach_of_index_select,
}


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
