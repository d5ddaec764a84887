"""What a program's inputs and the results of its ops come to, and what float16 makes of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from edgevlm.runtimes.mlprogram.program import Named, Operation

FP16_MAX = 65504.0


@dataclass(frozen=True)
class OpAudit:
    """An input, or one result of one op, over all predictions.

    Attributes:
        name, kind: The result's name, and the op's kind; of an input its own, and `input`.
        dtype: The type that the program declares.
        peak: Largest finite magnitude, before it is rounded to that type.
        nan, infinite: Elements that are not a number or infinite before they are rounded.
        overflows: Finite elements that become infinite in float16, if that is the declared type.
        elements: How many there were.
    """

    name: str
    kind: str
    dtype: str
    peak: float
    nan: int
    infinite: int
    overflows: int
    elements: int

    @property
    def headroom(self) -> float:
        """How many times larger the values could be in float16.

        It is 0 if some were too large for the float16 that they are declared in, or are not a number, and infinite if
        all are 0.
        """
        if self.overflows or self.nan:
            return 0.0
        return FP16_MAX / self.peak if self.peak else float("inf")


class Audit:
    """Measures results as they come."""

    def __init__(self) -> None:
        self._found: dict[str, OpAudit] = {}

    def measure(self, operation: Operation, result: Named, value: torch.Tensor) -> None:
        """Adds one result, before it is rounded."""
        self.add(operation.kind, result.name, result.type.dtype, value)

    def add(self, kind: str, name: str, dtype: str, value: torch.Tensor) -> None:
        """Adds one value, before it is rounded to its type."""
        if not value.is_floating_point():
            return
        so_far = self._found.get(name, OpAudit(name, kind, dtype, 0.0, 0, 0, 0, 0))
        finite = value[value.isfinite()]
        # 65520 is the first number that rounds to infinity: half way from the largest to what would come next.
        beyond = int((finite.abs() >= 65520).sum()) if dtype == "fp16" else 0
        self._found[name] = replace(
            so_far,
            peak=max(so_far.peak, float(finite.abs().max()) if finite.numel() else 0.0),
            nan=so_far.nan + int(value.isnan().sum()),
            infinite=so_far.infinite + int(value.isinf().sum()),
            overflows=so_far.overflows + beyond,
            elements=so_far.elements + value.numel(),
        )

    def report(self) -> tuple[OpAudit, ...]:
        """Inputs and results, in the order in which they first came."""
        return tuple(self._found.values())
