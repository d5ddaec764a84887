"""The published latencies that estimates are fitted to; `published.yaml` holds them, with their sources."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from edgevlm import schema
from edgevlm.errors import InputError


@dataclass(frozen=True)
class CpuPoint:
    """A network on a CPU.

    Attributes:
        network: Such as `MobileNetV2 fp32`; the last word is what it computes in, `fp32` or `int8`.
        library: What ran it there.
        device, core: Where.
        fma_lanes: float32 multiply-adds a cycle that the core can begin, of its maker's optimisation guide: cores of
            different widths execute the same instructions at different rates.
        clock_mhz: Of the core.
        latency_ms: By number of threads, the fewest first.
        instructions: Of one inference on one thread, counted on `qemu_cpu`.
        source: Who published it.
    """

    network: str
    library: str
    device: str
    core: str
    fma_lanes: int
    clock_mhz: int
    latency_ms: dict[str, float]
    instructions: int
    qemu_cpu: str
    source: str

    @property
    def integer(self) -> bool:
        """Whether it computes in integers."""
        return self.network.endswith(" int8")

    @property
    def figures(self) -> tuple[tuple[int, float], ...]:
        """Threads and milliseconds, the fewest threads first."""
        return tuple(sorted((int(threads), latency_ms) for threads, latency_ms in self.latency_ms.items()))

    @property
    def called(self) -> str:
        """In a few words, with the source."""
        figures = ", ".join(f"{ms:g} ms on {number} thread{'s'[: number - 1]}" for number, ms in self.figures)
        return f"{self.network} on {self.device} ({self.core}): {figures}; {self.source}"


@dataclass(frozen=True)
class AcceleratorPoint:
    """A network on an NPU or a GPU.

    Attributes:
        device: A profile's name.
        unit: Which of the two.
        multiply_adds_millions: Of one inference.
    """

    network: str
    device: str
    unit: Literal["npu", "gpu"]
    latency_ms: float
    multiply_adds_millions: float
    source: str

    @property
    def called(self) -> str:
        """In a few words, with the source."""
        return f"{self.network} on {self.device} ({self.unit.upper()}): {self.latency_ms:g} ms; {self.source}"


@dataclass(frozen=True)
class Calibration:
    """All points."""

    cpu: tuple[CpuPoint, ...]
    accelerators: tuple[AcceleratorPoint, ...]


@cache
def points() -> Calibration:
    """What `published.yaml` holds."""
    text = (files("edgevlm.bench.estimates") / "published.yaml").read_text(encoding="utf-8")
    data = schema.parse_yaml(text, where="published.yaml", error=InputError)
    return schema.read(Calibration, data, where="published.yaml", error=InputError)
