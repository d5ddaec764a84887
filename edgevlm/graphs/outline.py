"""What a component consists of and what it takes to run, seen without running it."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from edgevlm.bundle.recipe import WeightType
from edgevlm.graphs.capture import plain_attention

if TYPE_CHECKING:
    import torch

    from edgevlm.graphs.program import Program

Kind = Literal["linear", "conv2d", "depthwise", "embedding", "other"]


@dataclass(frozen=True)
class Constant:
    """A weight, a bias or a table of a component.

    Attributes:
        name: Its path in the program's module, such as `blocks.3.mlp.fc1.weight`.
        kind: What reads it as its weight; `other` for biases, norms, positions and what no layer reads.
        shape: As in torch.
        address: The same for constants that are one tensor, such as those of two components that share a tower.
        dtype: What a recipe makes of it; `float` stays in the recipe's precision.
        group_size: Of an `int4`: input channels that share a scale.
        sparsity: Share of it that a recipe sets to zero, 0..1.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    address: int
    dtype: WeightType = "float"
    group_size: int = 0
    sparsity: float = 0.0

    @property
    def layer(self) -> str:
        """What recipes call it."""
        return self.name.removesuffix(".weight")

    @property
    def count(self) -> int:
        """Numbers that it holds."""
        product = 1
        for size in self.shape:
            product *= size
        return product

    @property
    def rows(self) -> int:
        """Output channels or tokens: scales of an `int8`."""
        return self.shape[0] if self.shape else 1

    @property
    def scales(self) -> int:
        """Scales that its integers need: one a row, or one a group."""
        return self.count // self.group_size if self.dtype == "int4" else self.rows


@dataclass(frozen=True)
class Outline:
    """One component, seen without running it.

    Attributes:
        constants: All that its module holds, each once.
        ops: How often each of torch's functions is called, such as `linear` or `gelu`.
        activation_bytes: Most bytes of activations alive at once when it runs op by op in float32. A planned arena may
            need less, a runtime that packs weights more.
        weight_bytes: Bytes of its weights in float32.
        multiply_adds: Of its convolutions, matrix products and attention, as PyTorch's own counter has them.
        component: Which one it is, or is a function of; empty of another module.
        state_bytes: Bytes that it keeps from one run to the next in float32; they are among the activations too.
    """

    constants: tuple[Constant, ...]
    ops: Mapping[str, int]
    activation_bytes: int
    weight_bytes: int
    multiply_adds: int
    component: str = ""
    state_bytes: int = 0

    @property
    def calls(self) -> int:
        """Functions that are called, whichever."""
        return sum(self.ops.values())


def distinct(outlines: Iterable[Outline]) -> tuple[Constant, ...]:
    """The constants of several components, each tensor once."""
    found = {(each.address, each.shape): each for outline in outlines for each in outline.constants}
    return tuple(found.values())


def keep_state(outlines: Iterable[Outline]) -> bool:
    """Whether they are of a model that talks, all of whose components a process has open at once."""
    return any(each.state_bytes for each in outlines)


def outline(program: Program) -> Outline:
    """Calls the program's module on fake tensors (shapes without data) and watches what it does, at its longest."""
    seen = outline_of(program.module, program.longest)
    return replace(seen, component=program.spec.name, state_bytes=program.state_bytes)


def outline_of(module: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> Outline:
    """The same of any module.

    Args:
        module: Whose weights may be on torch's device `meta`, where they take no memory.
        example: What its `forward` takes, by position, on the same device.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.flop_counter import flop_registry

    from edgevlm.graphs import kv_cache

    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    names = {id(tensor): name for name, tensor in tensors.items()}
    kinds: dict[str, Kind] = {}
    ops: Counter[str] = Counter()

    class Watcher(TorchFunctionMode):
        """Which functions the module calls, and what reads each weight."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func == kv_cache.UPDATE:  # as it is written out at the longest length
                state, rows, _, *places = args
                with self:
                    return kv_cache.product(state, rows, *places)
            function = getattr(func, "__name__", str(func)).partition(".")[0]
            ops[function] += 1
            weight = names.get(id(args[1])) if len(args) > 1 else None
            if weight is not None and function in ("linear", "conv2d", "embedding"):
                kinds[weight] = _kind(function, args, kwargs or {})
            return func(*args, **(kwargs or {}))

    class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
        """Counts the work of every op, and every storage that it makes while something refers to that."""

        flops: int = 0
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
            if count_flops := flop_registry.get(getattr(func, "overloadpacket", None)):
                self.flops += count_flops(*args, **(kwargs or {}), out_val=result)
            return result

        def _release(self, size_bytes: int) -> None:
            self.live -= size_bytes

    fake_tensors, meter = FakeTensorMode(allow_non_fake_inputs=True), Meter()  # type: ignore[no-untyped-call]
    devices = [tensor.device for tensor in example]  # to ask for one is a function too
    with Watcher(), plain_attention(), fake_tensors, meter:
        module(*(torch.empty(t.shape, dtype=t.dtype, device=at) for t, at in zip(example, devices, strict=True)))
    constants = tuple(
        Constant(name, kinds.get(name, "other"), tuple(tensor.shape), tensor.data_ptr())
        for name, tensor in tensors.items()
    )
    return Outline(
        constants=constants,
        ops=dict(ops),
        activation_bytes=meter.peak,
        weight_bytes=sum(4 * tensor.numel() for tensor in module.state_dict().values()),
        multiply_adds=meter.flops // 2,  # PyTorch counts a multiply-add as two
    )


def _kind(function: str, args: tuple[torch.Tensor, ...], kwargs: Mapping[str, Any]) -> Kind:
    if function == "conv2d":
        groups = args[6] if len(args) > 6 else kwargs.get("groups", 1)
        return "depthwise" if groups != 1 and args[1].shape[1] == 1 else "conv2d"
    return "embedding" if function == "embedding" else "linear"
