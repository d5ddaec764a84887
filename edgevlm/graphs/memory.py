"""Estimates the memory that a component's activations need, without running it."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgevlm.graphs.program import Program


def weight_bytes(program: Program) -> int:
    """Bytes of the program's weights in float32."""
    return sum(4 * tensor.numel() for tensor in program.module.state_dict().values())


def activation_peak_bytes(program: Program) -> int:
    """Most bytes of activations alive at once when the program runs op by op in float32.

    The module runs on fake tensors (shapes without data), and every storage that an op makes is counted while
    something refers to it. A planned arena may need less, a runtime that packs weights more.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
        live: int = 0
        peak: int = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            known = {
                id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)
            }
            for leaf in tree_leaves(result):
                if isinstance(leaf, torch.Tensor) and id(leaf.untyped_storage()) not in known:
                    storage = leaf.untyped_storage()
                    self.live += storage.nbytes()
                    weakref.finalize(storage, self._release, storage.nbytes())
            self.peak = max(self.peak, self.live)
            return result

        def _release(self, size_bytes: int) -> None:
            self.live -= size_bytes

    with FakeTensorMode(allow_non_fake_inputs=True), Meter() as meter, torch.no_grad():  # type: ignore[no-untyped-call]
        program.module(*(torch.empty(tensor.shape, dtype=tensor.dtype) for tensor in program.example))
    peak: int = meter.peak
    return peak
