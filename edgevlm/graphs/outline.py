"""What a component consists of, seen without running it, and what an artefact made of it is expected to take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from edgevlm.bundle.recipe import WeightType
from edgevlm.graphs import memory
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
        activation_bytes: Most bytes of activations alive at once in float32; see `edgevlm.graphs.memory`.
    """

    constants: tuple[Constant, ...]
    ops: Mapping[str, int]
    activation_bytes: int

    @property
    def calls(self) -> int:
        """Functions that are called, whichever."""
        return sum(self.ops.values())


def distinct(outlines: Iterable[Outline]) -> tuple[Constant, ...]:
    """The constants of several components, each tensor once."""
    found = {(each.address, each.shape): each for outline in outlines for each in outline.constants}
    return tuple(found.values())


def outline(program: Program) -> Outline:
    """Calls the program's module on fake tensors (shapes without data) and watches which functions are called."""
    from torch.overrides import TorchFunctionMode

    tensors = dict(program.module.named_parameters()) | dict(program.module.named_buffers())
    names = {id(tensor): name for name, tensor in tensors.items()}
    kinds: dict[str, Kind] = {}
    ops: Counter[str] = Counter()

    class Watcher(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            function = getattr(func, "__name__", str(func)).partition(".")[0]
            ops[function] += 1
            weight = names.get(id(args[1])) if len(args) > 1 else None
            if weight is not None and function in ("linear", "conv2d", "embedding"):
                kinds[weight] = _kind(function, args, kwargs or {})
            return func(*args, **(kwargs or {}))

    with plain_attention(), Watcher():
        activation_bytes = memory.activation_peak_bytes(program)
    constants = tuple(
        Constant(name, kinds.get(name, "other"), tuple(tensor.shape), tensor.data_ptr())
        for name, tensor in tensors.items()
    )
    return Outline(constants, dict(ops), activation_bytes)


def _kind(function: str, args: tuple[torch.Tensor, ...], kwargs: Mapping[str, Any]) -> Kind:
    if function == "conv2d":
        groups = args[6] if len(args) > 6 else kwargs.get("groups", 1)
        return "depthwise" if groups != 1 and args[1].shape[1] == 1 else "conv2d"
    return "embedding" if function == "embedding" else "linear"
